"""Without the specification's data beside the repository no response is checked, and nothing breaks."""

from pathlib import Path

import pytest

from tests.spec import openapi


def test_absent_data_checks_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(openapi, "FOLDER", tmp_path)
    openapi.specification.cache_clear()
    try:
        openapi.check_response("GET", "/_matrix/client/v3/account/whoami", 200, {})
    finally:
        openapi.specification.cache_clear()
