"""The pages that the server shows to people, in a browser; without one these tests are skipped."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import EXISTING, UNLIMITED
from tests.e2e.scenarios import play
from tests.processes import programs
from tests.processes.server import PROGRAM, environment, running_server

pytestmark = pytest.mark.behaviours("CS-UIA-06", "CS-UIA-08")


@pytest.fixture(scope="session")
def browser() -> Path:
    try:
        return programs.browser()
    except programs.Missing as problem:
        pytest.skip(str(problem))


@pytest.fixture
def strict_url(tmp_path: Path) -> Iterator[str]:
    """The base URL of a server on which one registers with terms and the token `let-me-in`."""
    if EXISTING:
        pytest.skip("the server that is already there has settings of its own")
    asked = {
        "HOMESERVER_REGISTRATION_TOKEN_REQUIRED": "true",
        "HOMESERVER_REGISTRATION_TERMS_URL": "http://terms.example/",
    }
    command = [str(PROGRAM), "registration-token", "create", "--token", "let-me-in"]
    with running_server(tmp_path, **UNLIMITED, **asked) as server:
        subprocess.run(command, env=environment(tmp_path, None, **asked), check=True, timeout=60)
        yield server.url


def test_the_login_page_logs_a_device_in_and_tells_the_app(node: Path, browser: Path, homeserver_url: str) -> None:
    assert play(node, "log_in_on_page", homeserver_url, browser)["userId"].startswith("@alice-")


def test_a_password_confirms_on_a_page_in_a_window_and_in_an_app(
    node: Path, browser: Path, homeserver_url: str
) -> None:
    assert play(node, "confirm_on_page", homeserver_url, browser)["userId"].startswith("@alice-")


def test_terms_and_token_are_given_on_pages(node: Path, browser: Path, strict_url: str) -> None:
    assert play(node, "register_on_pages", strict_url, browser)["userId"].startswith("@alice-")
