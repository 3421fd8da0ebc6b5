"""The marks that cite behaviours cite ones that exist, and the command that counts them can count."""

from pathlib import Path

import pytest

from tests.spec import behaviours
from tests.spec.openapi import FOLDER


def test_parse_reads_id_group_kind_and_text() -> None:
    text = "## A1\n\n- **CS-API-04** M Every error.\n- **ID-02** S A name.\n- not one\n"
    assert behaviours.parse(text) == [
        behaviours.Behaviour("CS-API-04", "CS-API", "M", "Every error."),
        behaviours.Behaviour("ID-02", "ID", "S", "A name."),
    ]


def test_cited_finds_marks_with_their_places(tmp_path: Path) -> None:
    source = 'import pytest\n@pytest.mark.behaviours("CS-A-01", "CS-A-02")\ndef test_x() -> None: ...\n'
    (tmp_path / "test_x.py").write_text(source)
    place = f"{tmp_path.name}/test_x.py:2"
    assert behaviours.cited(tmp_path) == {"CS-A-01": [place], "CS-A-02": [place]}


def test_every_cited_behaviour_exists() -> None:
    map_file = FOLDER / "spec-map.md"
    if not map_file.exists():
        pytest.skip(f"cited behaviours are not looked up: {map_file} is absent")
    known = {behaviour.id for behaviour in behaviours.parse(map_file.read_text())}
    assert len(known) > 400
    # The citations in this file's own tests are samples inside strings, which the reader does not see.
    assert {i: places for i, places in behaviours.cited(behaviours.TESTS).items() if i not in known} == {}
