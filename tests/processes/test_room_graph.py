"""`homeserver room graph` and `homeserver room resolutions`, as an operator runs them, on both databases."""

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.graphs import MISSING, Sample, make_sample
from tests.processes import server
from tests.processes.launcher import Launcher, launching
from tests.processes.postgres import Postgres
from tests.world import settings

# The first test also loads the program and makes the room.
pytestmark = pytest.mark.timeout(120)

SVG = "{http://www.w3.org/2000/svg}"


@dataclass
class Room:
    """A room with everything in it, and the program."""

    sample: Sample
    url: str
    data_dir: Path
    launcher: Launcher

    def run(self, *arguments: str) -> tuple[int, str]:
        """The exit code of `homeserver room …`, and what it printed."""
        log = self.data_dir / "output"
        log.unlink(missing_ok=True)
        self.launcher.start(["room", *arguments], server.environment(self.data_dir, self.url), log)
        return self.launcher.wait(), log.read_text()

    def event_id(self, name: str) -> str:
        return self.sample.rows[name].event_id

    def draw(self, *options: str) -> ElementTree.Element:
        """The picture, read as any program reads it."""
        file = self.data_dir / "graph.svg"
        code, output = self.run("graph", self.sample.room, "-o", str(file), *options)
        assert code == 0, output
        return ElementTree.fromstring(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def room(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("room")
    with launching() as launcher:
        if request.param == "sqlite":
            server.copy_sqlite(request.getfixturevalue("sqlite_template"), folder / "homeserver.db")
            url = server.sqlite_url(folder / "homeserver.db")
            yield Room(asyncio.run(make_sample(settings(url, str(folder)))), url, folder, launcher)
            return
        postgres: Postgres = request.getfixturevalue("postgres")
        with postgres.database(request.getfixturevalue("postgres_template")) as url:
            yield Room(asyncio.run(make_sample(settings(url, str(folder)))), url, folder, launcher)


def words(element: ElementTree.Element) -> list[str]:
    """The lines that are shown in the box of an event."""
    return [text.text or "" for text in element.findall(f"{SVG}text")]


def boxes(picture: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The boxes, by event id."""
    return {element.attrib["id"]: element for element in picture.findall(f"{SVG}g")}


def test_graph_says_in_words_what_became_of_each_event(room: Room) -> None:
    found = boxes(room.draw())
    assert len(found) == len(set(found)) == 22
    for name, mark in {
        "redacted": "redacted",
        "soft": "soft-failed",
        "rejected": "rejected",
        "outlier": "outlier",
        "merge": "newest",
        "gap": "newest",
    }.items():
        assert mark in words(found[room.event_id(name)]), name
    assert "missing: backward extremity" in words(found[MISSING])
    for name in ("first", "one", "last"):
        assert not {"redacted", "soft-failed", "rejected", "outlier", "newest"} & set(words(found[room.event_id(name)]))
    assert words(found[room.event_id("one")])[0] == "m.room.topic ''"
    assert words(found[room.event_id("first")])[0] == "m.room.message"


def test_graph_shows_by_form_what_became_of_each_event(room: Room) -> None:
    found = boxes(room.draw())

    def form(name: str) -> tuple[str, str | None]:
        outline = found[room.event_id(name)].findall(f"{SVG}path")[0]
        return "".join(letter for letter in outline.attrib["d"] if letter.isalpha()), outline.get("stroke-dasharray")

    forms = {name: form(name) for name in ("first", "soft", "rejected", "outlier")}
    assert len(set(forms.values())) == 4, forms
    assert len(found[room.event_id("one")].findall(f"{SVG}path")) == 2  # State has a second border.
    assert len(found[room.event_id("first")].findall(f"{SVG}path")) == 1
    title = found[room.event_id("redacted")].findall(f"{SVG}text")[0]
    assert title.get("text-decoration") == "line-through"


def test_graph_has_an_arrow_for_each_event_that_another_follows(room: Room) -> None:
    arrows = [path for path in room.draw().findall(f"{SVG}path") if path.get("marker-end")]
    # 22 boxes: the first event and the missing one follow nothing, the merge follows two.
    assert len(arrows) == 21


def test_graph_is_described_for_those_who_do_not_see_it(room: Room) -> None:
    picture = room.draw()
    assert picture.get("aria-labelledby") == "title desc"
    title, desc = picture.find(f"{SVG}title"), picture.find(f"{SVG}desc")
    assert title is not None
    assert title.text == f"Event graph of {room.sample.room}, room version 10"
    assert desc is not None
    assert desc.text == (
        "21 events; forward extremities: 2, backward extremities: 1, rejected: 1, soft-failed: 1, outliers: 1, "
        "redacted: 1, resolutions of state: 1."
    )
    tip = boxes(picture)[room.event_id("first")].find(f"{SVG}title")
    assert tip is not None
    assert (tip.text or "").split("\n")[1] == f"{room.event_id('first')} by @alice:localhost"


def test_graph_tells_where_state_was_resolved_and_how(room: Room) -> None:
    box = boxes(room.draw())[room.event_id("two")]
    assert "state resolved: 1 changed, 1 lost" in words(box)
    details = box.find(f"{SVG}title")
    assert details is not None
    one, two = (f"{room.event_id(name)} by @alice:localhost" for name in ("one", "two"))
    assert f"changed: m.room.topic '': from {one} to {two}" in (details.text or "")
    assert f"lost: {one}: a <later> one & better" in (details.text or "")


def test_graph_holds_whatever_people_put_into_events(room: Room) -> None:
    box = boxes(room.draw())[room.event_id("strange")]
    # The state key has a quote, an end of a CDATA section and a control character in it.
    assert words(box)[0] == 'org.example.<strange> \'"quoted" ]]>…'
    title = box.find(f"{SVG}title")
    assert title is not None
    assert (title.text or "").startswith("org.example.<strange> '\"quoted\" ]]> \\x01'\n")


def test_graph_shows_the_newest_events_or_those_from_one_back(room: Room) -> None:
    assert len([one for one in boxes(room.draw("--limit", "3")) if one != MISSING]) == 3
    found = boxes(room.draw("--from", room.event_id("redacted"), "--limit", "2"))
    assert set(found) == {room.event_id("first"), room.event_id("redacted")}
    dotted = [path for path in room.draw("--limit", "1").findall(f"{SVG}path") if path.get("stroke-dasharray")]
    assert not dotted  # The newest event follows only the missing one.
    cut = room.draw("--from", room.event_id("redacted"), "--limit", "1")
    [stub] = [path for path in cut.findall(f"{SVG}path") if path.get("stroke-dasharray")]
    words_for_it = stub.find(f"{SVG}title")
    assert words_for_it is not None
    assert words_for_it.text == f"follows {room.event_id('first')}, which is not shown"


def test_graph_of_an_alias_as_dot_goes_to_the_terminal(room: Room) -> None:
    code, output = room.run("graph", "#sample:localhost", "--dot")
    assert code == 0
    assert output.startswith("digraph {\n")
    assert f'  "{room.event_id("merge")}" -> "{room.event_id("soft")}";' in output
    [rejected] = [line for line in output.splitlines() if line.startswith(f'  "{room.event_id("rejected")}" [')]
    assert "shape=octagon" in rejected
    assert "peripheries=2" in rejected
    assert "\\nrejected" in rejected
    [strange] = [line for line in output.splitlines() if line.startswith(f'  "{room.event_id("strange")}" [')]
    assert '\\"quoted\\" ]]> \\\\x01' in strange


def test_resolutions_say_what_changed_which_events_lost_and_why(room: Room) -> None:
    code, output = room.run("resolutions", room.sample.room)
    assert code == 0
    one, two = (f"{room.event_id(name)} by @alice:localhost" for name in ("one", "two"))
    first, *rest = output.splitlines()
    assert first.endswith(f": 2 states were resolved when {room.event_id('two')} came beside others.")
    assert rest == [f"  changed: m.room.topic '': from {one} to {two}", f"  lost: {one}: a <later> one & better"]


def test_room_that_is_not_known_is_said_in_words(room: Room) -> None:
    for command in ("graph", "resolutions"):
        assert room.run(command, "!nowhere:localhost") == (
            1,
            "This server does not know the room !nowhere:localhost.\n",
        )
    assert room.run("graph", room.sample.room, "--from", "$nothing") == (1, "The room has no event $nothing.\n")


def test_room_without_branches_has_no_resolutions(room: Room) -> None:
    code, output = room.run("resolutions", "#other:localhost")
    assert (code, output) == (0, "The room's state was never resolved: its branches never disagreed.\n")


def test_graph_that_cannot_be_written_is_said_in_words(room: Room, tmp_path: Path) -> None:
    command = [str(server.PROGRAM), "room", "graph", room.sample.room, "-o", str(tmp_path / "no" / "graph.svg")]
    ended = subprocess.run(
        command, env=server.environment(room.data_dir, room.url), capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 1
    assert ended.stderr == f"{tmp_path}/no/graph.svg cannot be written: No such file or directory.\n"
