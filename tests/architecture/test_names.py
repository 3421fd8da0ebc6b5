"""Places have names that say what belongs in them (house style, "Words")."""

from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "homeserver"
SAYING_NOTHING = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc", "core", "shared"}


def test_no_module_has_a_name_that_says_nothing() -> None:
    found = [str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*") if path.stem in SAYING_NOTHING]
    assert found == []
