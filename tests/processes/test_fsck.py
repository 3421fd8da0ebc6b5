"""`homeserver fsck`: a whole database passes, and each way of being broken is named; on copies, on both databases."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from homeserver.matrix import auth_graph
from homeserver.storage.engine import Database, WriteTx
from tests.graphs import Sample, make_sample
from tests.processes import server
from tests.processes.launcher import Launcher, launching
from tests.processes.postgres import Postgres
from tests.world import settings

# The first test also loads the program and makes the database to be copied.
pytestmark = pytest.mark.timeout(120)


@dataclass
class Original:
    """A database to be copied."""

    sample: Sample
    copied: Callable[[], Any]


@dataclass
class Copy:
    """A copy of it, to be broken."""

    sample: Sample
    url: str
    data_dir: Path
    launcher: Launcher

    def change(self, *statements: str, **values: object) -> None:
        """Do something to the database that the server never would. Words in braces are positions of events."""
        places = {name.replace(" ", "_"): row.position for name, row in self.sample.rows.items()}
        places |= {"room": self.sample.room_nid, "elsewhere": self.sample.other_nid}

        def run(tx: WriteTx) -> None:
            for statement in statements:
                filled = text(statement.format(**places))
                named = {name: value for name, value in values.items() if f":{name}" in statement}
                tx.connection.execute(filled, named)

        async def run_all() -> None:
            async with Database.open(self.url) as database:
                await database.write(run)

        asyncio.run(run_all())

    def fsck(self, *options: str) -> tuple[int, str]:
        """The exit code, and what was printed."""
        log = self.data_dir / "fsck.log"
        log.unlink(missing_ok=True)
        self.launcher.start(["fsck", *options], server.environment(self.data_dir, self.url), log)
        return self.launcher.wait(), log.read_text()


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with launching() as launcher:
        yield launcher


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Original]:
    folder = tmp_path_factory.mktemp("original")
    if request.param == "sqlite":
        file = folder / "homeserver.db"
        server.copy_sqlite(request.getfixturevalue("sqlite_template"), file)
        sample = asyncio.run(make_sample(settings(server.sqlite_url(file), str(folder))))

        @contextmanager
        def copied() -> Iterator[str]:
            copy = tmp_path_factory.mktemp("copy") / "homeserver.db"
            server.copy_sqlite(file, copy)
            yield server.sqlite_url(copy)

        yield Original(sample, copied)
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.create(request.getfixturevalue("postgres_template"))
    sample = asyncio.run(make_sample(settings(postgres.database_url(name), str(folder))))
    yield Original(sample, lambda: postgres.database(name))
    postgres.drop(name)


@pytest.fixture
def copy(original: Original, launcher: Launcher, tmp_path: Path) -> Iterator[Copy]:
    with original.copied() as url:
        yield Copy(original.sample, url, tmp_path, launcher)


def test_fsck_of_a_whole_database_says_so(copy: Copy) -> None:
    assert copy.fsck() == (0, "Looking at 30 events\nThe database is whole.\n")


# What is done to the database, and what fsck says of it, in the words of the positions and event ids it names.
BROKEN: Mapping[str, tuple[str | tuple[str, ...], str]] = {
    "no state before": (
        "UPDATE events SET state_before = NULL WHERE position = {merge}",
        "event {merge_id} (position {merge}) has no state before it. (I5)",
    ),
    "no state after": (
        "UPDATE events SET state_after = NULL WHERE position = {soft}",
        "event {soft_id} (position {soft}) has no state after it. (I5)",
    ),
    "state after an event is another": (
        "UPDATE events SET state_after = (SELECT state_after FROM events WHERE position = {first}) "
        "WHERE position = {two}",
        "The states before and after event {two_id} (position {two}) do not differ by this event alone. (I5)",
    ),
    "replaced event is another": (
        "UPDATE events SET replaces = {first} WHERE position = {one}",
        "The states before and after event {one_id} (position {one}) do not differ by this event alone. (I5)",
    ),
    "page of a state is lost": (
        "DELETE FROM state_pages WHERE page_id = (SELECT state_after >> 8 FROM events WHERE position = {strange})",
        "The state after event {strange_id} (position {strange}) cannot be read. (I5)",
    ),
    "page of a state is damaged": (
        "UPDATE state_pages SET body = :damaged "
        "WHERE page_id = (SELECT state_root >> 8 FROM rooms WHERE room_nid = {elsewhere})",
        "The current state cannot be read. (I5)",
    ),
    "extremity is lost": (
        "DELETE FROM forward_extremities WHERE position = {merge}",
        "No accepted event follows {merge_id}, but it is not among the forward extremities. (I5)",
    ),
    "extremity is followed": (
        "INSERT INTO forward_extremities (room_nid, position) VALUES ({room}, {first})",
        "Among the forward extremities is {first_id}, which accepted events follow. (I5)",
    ),
    "extremity is followed through a soft-failed event": (
        "INSERT INTO forward_extremities (room_nid, position) VALUES ({room}, {two})",
        "Among the forward extremities is {two_id}, which accepted events follow. (I5)",
    ),
    "extremity is rejected": (
        "INSERT INTO forward_extremities (room_nid, position) VALUES ({room}, {rejected})",
        "Among the forward extremities is {rejected_id}, which is rejected. (I5)",
    ),
    "extremity is of another room": (
        "INSERT INTO forward_extremities (room_nid, position) VALUES ({room}, {other})",
        "Among the forward extremities is {other_id}, which is of another room. (I5)",
    ),
    "extremity is nothing": (
        "INSERT INTO forward_extremities (room_nid, position) VALUES ({room}, 999999)",
        "Among the forward extremities is position 999999, where there is no event. (I5)",
    ),
    "current state is another": (
        "UPDATE rooms SET state_root = (SELECT state_after FROM events WHERE position = {first}) "
        "WHERE room_nid = {room}",
        "The current state is not what comes of the forward extremities' states. (I5)",
    ),
    "current state of a room without forks is another": (
        "UPDATE rooms SET state_root = (SELECT state_before FROM events WHERE position = {other_topic}) "
        "WHERE room_nid = {elsewhere}",
        "The current state is not what comes of the forward extremities' states. (I5)",
    ),
    "rejected event is current": (
        "UPDATE events SET status = 2 WHERE position = {two}",
        "In the current state, m.room.topic '' is {two_id}, which was rejected. (I6)",
    ),
    "soft-failed event is current without a fork": (
        "UPDATE events SET status = 1 WHERE position = {other_topic}",
        "In the current state, m.room.topic '' is {other_topic_id}, which soft-failed. (I6)",
    ),
    "rejected event allows another": (
        "UPDATE events SET status = 2 WHERE event_id IN (SELECT event_id FROM events JOIN state_pairs "
        "ON state_pairs.pair_id = events.pair_id WHERE type = 'm.room.power_levels' AND room_nid = {room})",
        "event {first_id} (position {first}) is allowed by $",
    ),
    "cited event is of another room": (
        "UPDATE events SET room_nid = {elsewhere} WHERE position = {first}",
        "event {redacted_id} (position {redacted}) cites {first_id}, which is of another room. (I6)",
    ),
    "room of the event is another": (
        "UPDATE events SET room_nid = {elsewhere} WHERE position = {first}",
        "as its room, not ",
    ),
    "auth edges are others": (
        "UPDATE events SET auth = :others WHERE position = {one}",
        "The auth edges of event {one_id} (position {one}) are not its auth events. (I6)",
    ),
    "auth edges are damaged": (
        "UPDATE events SET auth = :damaged WHERE position = {one}",
        "The auth edges of event {one_id} (position {one}) cannot be read. (I6)",
    ),
    "auth edges of a message": (
        "UPDATE events SET auth = :others WHERE position = {first}",
        "event {first_id} (position {first}) has auth edges, and is no state event. (I6)",
    ),
    "membership is another": (
        "UPDATE memberships SET membership = 'ban' WHERE user_id = '@bob:localhost'",
        "@bob:localhost is 'ban' through @bob:localhost by position ",
    ),
    "membership is somebody else's doing": (
        "UPDATE memberships SET sender = '@alice:localhost' WHERE user_id = '@bob:localhost'",
        "@bob:localhost is 'join' through @alice:localhost by position ",
    ),
    "membership is of another event": (
        "UPDATE memberships SET event = {first} WHERE user_id = '@bob:localhost'",
        "@bob:localhost is 'join' through @bob:localhost by position {first}, but ",
    ),
    "membership is lost": (
        "DELETE FROM memberships WHERE user_id = '@bob:localhost'",
        "@bob:localhost has no membership, but is 'join' by the state. (I7)",
    ),
    "membership of nobody": (
        "INSERT INTO memberships (room_nid, user_id, membership, sender, position, event) "
        "VALUES ({room}, '@eve:localhost', 'join', '@eve:localhost', {first}, {first})",
        "@eve:localhost has a membership, but there is none in the current state. (I7)",
    ),
    "server without users": (
        "INSERT INTO room_servers (server_name, room_nid, since) VALUES ('e.example', {room}, {first})",
        "e.example is said to be in the room, and none of its users is. (I7)",
    ),
    "servers are lost": (
        "UPDATE memberships SET user_id = '@carol:e.example' WHERE user_id = '@bob:localhost'",
        "Of these servers all but one should be in the room: e.example, localhost. (I7)",
    ),
    "server has what was not yet": (
        "INSERT INTO destinations (server_name, delivered, failures, error, at_most) "
        "VALUES ('e.example', 999999, 0, '', 50)",
        "e.example is said to have all up to position 999999, which was not given out yet. (I8)",
    ),
    "event of a transaction is lost": (
        "UPDATE transactions SET position = 999999 WHERE position = {first}",
        "'t0' is said to have made the event at position 999999, which is not there. (I2)",
    ),
    "event has two transactions": (
        "UPDATE transactions SET position = {first} WHERE position = {last}",
        "Event {first_id} is said to be made by more than one transaction. (I2)",
    ),
    "position was never given out": (
        "UPDATE stream_position SET value = {gap} - 1",
        "Event {gap_id} is at position {gap}, which was not given out yet. (I4)",
    ),
    "position is used twice": (
        "UPDATE resolutions SET position = {first}",
        "Position {first} is that of an event and of a resolved state. (I4)",
    ),
    "content is of another event": (
        "UPDATE events SET pdu = (SELECT pdu FROM events WHERE position = {last}) WHERE position = {first}",
        "event {first_id} (position {first}) has content of another id, {last_id}. (I1)",
    ),
    "event is damaged": (
        "UPDATE events SET pdu = :damaged WHERE position = {first}",
        "event {first_id} (position {first}) cannot be read: ",
    ),
    "depth is another": (
        "UPDATE events SET depth = 1000 WHERE position = {first}",
        "event {first_id} (position {first}) is stored with 1000 as its depth, not ",
    ),
    "time is another": (
        "UPDATE events SET origin_server_ts = 5 WHERE position = {first}",
        "event {first_id} (position {first}) is stored with 5 as its time, not ",
    ),
    "type is another": (
        "UPDATE events SET pair_id = (SELECT pair_id FROM state_pairs WHERE type = 'm.room.create') "
        "WHERE position = {one}",
        "event {one_id} (position {one}) is stored with ('m.room.create', '') as its type and state key, not ",
    ),
    "status is none": (
        "UPDATE events SET status = 7 WHERE position = {outlier}",
        "event {outlier_id} (position {outlier}) has the status 7, which there is not. (I1)",
    ),
    "event is lost": (
        "DELETE FROM events WHERE position = {first}",
        "event {redacted_id} (position {redacted}) follows {first_id}, which is neither there nor known to be missing.",
    ),
    "gap is forgotten": (
        "DELETE FROM backward_extremities",
        "event {gap_id} (position {gap}) follows $missing-event-of-the-room-that-never-came-here, which is neither",
    ),
    "state event is lost": (
        "DELETE FROM events WHERE position = {two}",
        "In the current state, m.room.topic '' is position {two}, no event of the room. (I5)",
    ),
    "auth event is lost": (
        "DELETE FROM events WHERE event_id IN (SELECT event_id FROM events JOIN state_pairs "
        "ON state_pairs.pair_id = events.pair_id WHERE type = 'm.room.power_levels' AND room_nid = {room})",
        "event {first_id} (position {first}) is allowed by $",
    ),
    "relation of a redacted event": (
        "INSERT INTO relations (position, room_nid, parent_id, rel_type, type, sender) "
        "VALUES ({redacted}, {room}, '{first_id}', 'm.thread', 'm.room.message', '@bob:localhost')",
        "event {redacted_id} (position {redacted}) is redacted, but a relation of it is kept. (I7)",
    ),
    "relation of a soft-failed event": (
        "INSERT INTO relations (position, room_nid, parent_id, rel_type, type, sender) "
        "VALUES ({soft}, {room}, '{first_id}', 'm.thread', 'm.room.message', '@alice:localhost')",
        "event {soft_id} (position {soft}) is soft-failed, but a relation of it is kept. (I7)",
    ),
    "relation of no event": (
        "INSERT INTO relations (position, room_nid, parent_id, rel_type, type, sender) "
        "VALUES (999999, {room}, '{first_id}', 'm.thread', 'm.room.message', '@bob:localhost')",
        "The relation at position 999999 is of no event. (I7)",
    ),
    "relation is lost": (
        "DELETE FROM relations WHERE position = {related}",
        "The relation of event {related_id} (position {related}) to another event is not kept. (I7)",
    ),
    "redacted content is still there": (
        "UPDATE events SET redacted_by = {redaction} WHERE position = {first}",
        "event {first_id} (position {first}) was redacted, but its content is still there. (I11)",
    ),
    "redaction is lost": (
        "UPDATE events SET redacted_by = 999999 WHERE position = {redacted}",
        "event {redacted_id} (position {redacted}) was redacted by something that is no accepted event of the room.",
    ),
    "room is lost": (
        "DELETE FROM rooms WHERE room_nid = {elsewhere}",
        "The table memberships has rows of the room number {elsewhere}, which there is not. (I1)",
    ),
}


@pytest.mark.trust("I1", "I2", "I4", "I5", "I6", "I7", "I8", "I11", "F45")
@pytest.mark.parametrize("what", BROKEN)
def test_fsck_names_what_is_broken(what: str, copy: Copy) -> None:
    statement, expected = BROKEN[what]
    words: dict[str, object] = {"room": copy.sample.room_nid, "elsewhere": copy.sample.other_nid}
    for name, row in copy.sample.rows.items():
        words[name.replace(" ", "_")] = row.position
        words[f"{name.replace(' ', '_')}_id"] = row.event_id
    one = copy.sample.rows["one"].position
    assert isinstance(statement, str)
    copy.change(statement.format(**words), damaged=b"\xff", others=auth_graph.pack(one, [one - 1]))
    code, output = copy.fsck()
    assert code == 1
    assert expected.format(**words) in output
    assert "found. Nothing was changed." in output


def test_fsck_names_a_few_of_many_and_counts_the_rest(copy: Copy) -> None:
    copy.change("UPDATE events SET origin_server_ts = 5 WHERE room_nid = {room}")
    code, output = copy.fsck()
    assert code == 1
    assert output.count("as its time, not ") == 10
    assert "And 11 more like these. (I1)" in output


def test_fsck_of_one_room_looks_at_no_other(copy: Copy) -> None:
    copy.change("UPDATE events SET depth = 1000 WHERE position = {first}")
    assert copy.fsck("--room", copy.sample.room)[0] == 1
    assert copy.fsck("--room", copy.sample.rows["other"].event_id) == (1, "This server does not know the room.\n")


def test_fsck_wants_a_database_of_this_release(tmp_path: Path) -> None:
    result = subprocess.run(
        [server.PROGRAM, "fsck"], env=server.environment(tmp_path, None), capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 2
    assert "homeserver migrate" in result.stderr
