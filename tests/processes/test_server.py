"""The server as a process: it starts from nothing, is well, and ends cleanly."""

import json
import subprocess
from collections import Counter
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.processes.postgres import Postgres
from tests.processes.server import PROGRAM, environment, running_server


def test_serve_starts_from_an_empty_folder_and_ends_with_zero_on_sigterm(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        server.stop()
        server.start()  # On what the first run left.


@pytest.mark.postgres
def test_serve_prepares_an_empty_postgresql_database(tmp_path: Path, postgres: Postgres) -> None:
    with postgres.database() as url, running_server(tmp_path, url):
        pass


def test_serve_with_bad_settings_names_each_and_ends_with_two(tmp_path: Path) -> None:
    settings = environment(tmp_path, None, HOMESERVER_PORT="many", HOMESERVER_SHOE_SIZE="43")
    result = subprocess.run([PROGRAM, "serve"], env=settings, capture_output=True, text=True, timeout=20)
    assert result.returncode == 2
    assert "port: " in result.stderr
    assert "HOMESERVER_SHOE_SIZE: no such setting" in result.stderr


def test_generate_signing_key_writes_a_private_file_once(tmp_path: Path) -> None:
    command = [str(PROGRAM), "generate-signing-key", str(tmp_path / "signing.key")]
    assert subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    algorithm, version, seed = (tmp_path / "signing.key").read_text().split()
    assert (algorithm, version[:2], len(seed)) == ("ed25519", "a_", 43)
    assert (tmp_path / "signing.key").stat().st_mode & 0o077 == 0
    assert subprocess.run(command, capture_output=True, timeout=20).returncode == 1


def test_create_user_makes_an_account_once(tmp_path: Path) -> None:
    command = [str(PROGRAM), "create-user", "Alice", "--admin", "--password", "sesame street"]
    settings = environment(tmp_path, None)
    first = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=20)
    assert (first.returncode, first.stdout) == (0, "The account @alice:localhost is made.\n")
    second = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=20)
    assert (second.returncode, second.stderr.strip().splitlines()[-1]) == (1, "This user name is taken.")


@pytest.mark.trust("C10")
def test_what_a_client_says_before_the_proxy_does_gives_it_no_other_address(tmp_path: Path) -> None:
    """A request from this machine is the proxy's: what it has added to `X-Forwarded-For` stands last."""
    statuses = Counter[int]()
    with running_server(tmp_path / "data") as server:
        for number in range(50):
            said = [f"198.51.100.{number}", "127.0.0.1", "unknown", "2001:db8::1, 10.0.0.1"][number % 4]
            headers = {"X-Forwarded-For": f"{said}, 2001:db8::{number:x}", "Content-Type": "application/json"}
            body = {"type": "m.login.password", "user": f"nobody{number}", "password": "wrong"}
            url = f"{server.url}/_matrix/client/v3/login"
            request = Request(url, json.dumps(body).encode(), headers, method="POST")
            with pytest.raises(HTTPError) as refused:
                urlopen(request, timeout=30)
            with refused.value as answer:
                statuses[answer.code] += 1
    assert set(statuses) == {403, 429}
    assert 20 <= statuses[403] <= 20 * 1.1 + 5  # A little time passes, and every two seconds let one in.
