"""What a purge takes away, and that it takes nothing else; on both databases."""

import asyncio
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, func, select

from homeserver.errors import Conflict, NotFound
from homeserver.matrix.auth_graph import unpack
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.rooms import consistency
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.purge import Point, Purge
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import event_graph, event_log, events, purges, rooms, server_keys, state
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.purges import Job
from homeserver.storage.schema import metadata
from tests import room_graphs
from tests.statements import counted
from tests.world import StoppedClock, User, World, eventually, running, settings

Json = dict[str, Any]


async def purge(world: World, room_id: str, before: str | None = None, *, ts: int | None = None, **more: Any) -> Job:
    """The purge when it has ended; `before` is the id of the first event that stays."""
    point = None if before is None and ts is None else Point(None if before is None else EventId(before), ts)
    purge_id = await world.container.purge.start(RoomId(room_id), point, **more)
    await eventually(lambda: world.container.purge.find(purge_id), lambda job: job.ended_ts is not None)
    return await world.container.purge.find(purge_id)


async def history(user: User, room_id: str, *, limit: int = 20) -> list[Json]:
    """All that the user can page back to, the newest first."""
    found: list[Json] = []
    page: Json = {"end": None}
    while "end" in page:
        params = {"from": page["end"]} if page["end"] else {}
        page = (await user.get(f"/rooms/{room_id}/messages", dir="b", limit=limit, **params)).json()
        found += page["chunk"]
    return found


async def bodies(user: User, room_id: str) -> list[str]:
    return [event["content"]["body"] for event in await history(user, room_id) if event["type"] == "m.room.message"]


def comparable(event: Json) -> Json:
    """The event without what a purge may take from it."""
    unsigned = {name: value for name, value in event.get("unsigned", {}).items() if name not in _MAY_GO}
    return {**event, "unsigned": unsigned}


_MAY_GO = ("prev_content", "replaces_state", "m.relations")


async def full_state(user: User, room_id: str) -> list[Json]:
    found: list[Json] = (await user.get(f"/rooms/{room_id}/state")).json()
    return sorted(found, key=lambda event: (event["type"], event["state_key"]))


async def state_at(user: User, room_id: str, event_id: str) -> dict[tuple[str, str], str]:
    """The ids of the events of the state at an event."""
    context = (await user.get(f"/rooms/{room_id}/context/{event_id}", limit=0)).json()
    return {(event["type"], event["state_key"]): event["event_id"] for event in context["state"]}


def nid_of(tx: ReadTx, room_id: str) -> int:
    nid = rooms.find_nid(tx, RoomId(room_id))
    assert nid is not None
    return nid


def rows_of(tx: ReadTx, room_id: str) -> list[StoredEvent]:
    return event_log.list_all(tx, nid_of(tx, room_id))


def check_whole(tx: ReadTx, *, is_over: bool) -> None:
    """Whatever is referred to is there, and nothing ends without saying so; in the end, nothing is stored in vain."""
    trees = StateTrees()
    rows = {row.position: row for row in (StoredEvent(*row) for row in tx.connection.execute(select(events.events)))}
    by_id = {row.event_id: row for row in rows.values()}
    found = {room.room_nid: room for room in rooms.find_many(tx, {row.room_nid for row in rows.values()}).values()}
    roots = {root for row in rows.values() for root in _roots(row)} | {room.state_root for room in found.values()}
    for root in roots:
        assert set(trees.items(tx, root).values()) <= rows.keys()
    for row in rows.values():
        assert row.replaces is None or row.replaces in rows
        assert row.redacted_by is None or row.redacted_by in rows
        assert set(unpack(row.position, row.auth or b"")) <= rows.keys()
    for room in found.values():
        assert set(rooms.list_extremities(tx, room.room_nid)) <= rows.keys()
        missing = {
            (event_id, row.position)
            for row in rows.values()
            if row.room_nid == room.room_nid and row.status == events.OK
            for event_id in _prev(row, room.version)
            if event_id not in by_id or not _roots(by_id[EventId(event_id)])
        }
        assert set(event_graph.list_backward_extremities(tx, room.room_nid)) == missing
    pages = set(tx.connection.execute(select(state.state_pages.c.page_id)).scalars())
    needed = set(trees.unreachable(tx, roots, []))
    assert needed == pages if is_over else needed <= pages


def _roots(row: StoredEvent) -> set[int]:
    return {root for root in (row.state_before, row.state_after, row.room_state) if root is not None}


def _prev(row: StoredEvent, version: str) -> list[str]:
    return parse(row, version).prev_events


async def check(world: World) -> None:
    database = world.container.database
    await database.snapshot(check_whole, is_over=True)
    assert [found async for found in consistency.check_rooms(database, lambda count: None) if found] == []
    assert await consistency.check_whole(database) == []


async def talk(alice: User, bob: User, room_id: str, *, count: int = 5) -> list[str]:
    """Messages, with state between them; the ids of the messages."""
    sent = []
    for number in range(count):
        sent.append(await alice.send(room_id, f"alice {number}"))
        await alice.set_state(room_id, "m.room.topic", {"topic": f"topic {number}"})
        sent.append(await bob.send(room_id, f"bob {number}"))
        await bob.set_state(room_id, "m.room.member", {"membership": "join", "displayname": f"{number}"}, bob.user_id)
    return sent


async def two(world: World) -> tuple[User, User, str]:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat", name="Den")
    await bob.join(room_id)
    return alice, bob, room_id


async def test_history_before_an_event_goes_and_the_rest_looks_as_before(world: World) -> None:
    alice, bob, room_id = await two(world)
    other = await alice.create_room(preset="public_chat")
    await bob.join(other)
    await talk(alice, bob, other, count=2)
    sent = await talk(alice, bob, room_id)
    point = sent[5]
    before = await history(alice, room_id)
    kept = before[: [event["event_id"] for event in before].index(point) + 1]
    states = {event["event_id"]: await state_at(alice, room_id, event["event_id"]) for event in kept}
    state_before = await full_state(bob, room_id)
    others = (await history(alice, other), await full_state(alice, other))

    job = await purge(world, room_id, point)
    assert job.failure is None
    await check(world)
    after = await history(alice, room_id)
    assert [comparable(event) for event in after] == [comparable(event) for event in kept]
    assert {event["event_id"]: await state_at(alice, room_id, event["event_id"]) for event in after} == states
    assert await full_state(bob, room_id) == state_before
    for gone in sent[:5]:
        assert (await alice.get(f"/rooms/{room_id}/event/{gone}")).status_code == 404
    assert (await history(alice, other), await full_state(alice, other)) == others
    await bob.send(room_id, "Still here.")
    assert (await bodies(alice, room_id))[0] == "Still here."


async def test_state_events_that_nothing_refers_to_go(world: World) -> None:
    alice, bob, room_id = await two(world)
    sent = await talk(alice, bob, room_id)
    rows = await world.container.database.read(rows_of, room_id)
    await purge(world, room_id, sent[-1])
    left = await world.container.database.read(rows_of, room_id)
    topics = [row for row in left if b'"m.room.topic"' in row.pdu]
    assert len(topics) == 1, "the one that is current"
    members = [row for row in left if b'"m.room.member"' in row.pdu]
    assert len(members) == len([row for row in rows if b'"m.room.member"' in row.pdu]), "each cites the one before"
    pages = await world.container.database.read(count_of, state.state_pages)
    await purge(world, room_id, sent[-1])
    assert await world.container.database.read(count_of, state.state_pages) == pages


def count_of(tx: ReadTx, table: Table) -> int:
    return int(tx.connection.execute(select(func.count()).select_from(table)).scalar_one())


async def test_history_before_a_time_goes(world: World) -> None:
    alice, bob, room_id = await two(world)
    await bob.send(room_id, "early")
    world.clock.time += 60_000
    await bob.send(room_id, "late")
    await purge(world, room_id, ts=world.clock.time)
    assert await bodies(alice, room_id) == ["late"]
    # Nothing is as new as that; the newest event stays, as something has to follow it.
    await purge(world, room_id, ts=world.clock.time + 1)
    assert await bodies(alice, room_id) == ["late"]
    await bob.send(room_id, "later")
    await purge(world, room_id, ts=world.clock.time + 1)
    assert await bodies(alice, room_id) == ["later"]
    await check(world)


async def test_what_was_derived_from_the_history_goes_with_it(world: World) -> None:
    alice, bob, room_id = await two(world)
    root = await alice.send(room_id, "root")
    reply = {"msgtype": "m.text", "body": "reply", "m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    await bob.send(room_id, reply)
    await bob.send(room_id, {"m.relates_to": {"rel_type": "m.annotation", "event_id": root, "key": "+"}}, "m.reaction")
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{root}")
    redacted = await alice.send(room_id, "regretted")
    await alice.put(f"/rooms/{room_id}/redact/{redacted}/r1")
    late = await alice.send(room_id, {**reply, "body": "late reply"})
    shown = (await alice.get(f"/rooms/{room_id}/event/{late}")).json()
    await purge(world, room_id, late)
    await check(world)
    assert (await alice.get(f"/rooms/{room_id}/event/{late}")).json() == shown
    assert (await alice.get(f"/v1/rooms/{room_id}/threads")).json()["chunk"] == []
    assert await world.container.database.read(count_of, metadata.tables["receipts"]) == 0
    # Of the one event that remains.
    for table in ("relations", "transactions"):
        assert await world.container.database.read(count_of, metadata.tables[table]) == 1
    receipts = (await bob.sync())["rooms"]["join"][room_id]["ephemeral"]["events"]
    assert [event for event in receipts if event["type"] == "m.receipt"] == []


async def test_state_that_was_redacted_is_still_told_why(world: World) -> None:
    alice, _bob, room_id = await two(world)
    topic = await alice.set_state(room_id, "m.room.topic", {"topic": "regretted"})
    await alice.put(f"/rooms/{room_id}/redact/{topic}/r1", {"reason": "spoilers"})
    last = await alice.send(room_id, "last")
    await purge(world, room_id, last)
    await check(world)
    assert len(await history(alice, room_id)) == 1
    assert (await alice.get(f"/rooms/{room_id}/state/m.room.topic")).json() == {}
    await alice.set_state(room_id, "m.room.topic", {"topic": "new"})
    await purge(world, room_id, await alice.send(room_id, "very last"))
    await check(world)
    left = await world.container.database.read(rows_of, room_id)
    assert not [row for row in left if b"spoilers" in row.pdu], "what it redacted is gone, so it is gone"


@pytest.mark.behaviours("CS-SYNC-13")
async def test_who_has_not_listened_since_before_the_point_is_told_of_the_room_anew(world: World) -> None:
    alice, bob, room_id = await two(world)
    since = (await bob.sync())["next_batch"]
    await alice.set_state(room_id, "m.room.topic", {"topic": "while bob was away"})
    await alice.send(room_id, "gone")
    last = await alice.send(room_id, "last")
    listening = (await alice.sync())["next_batch"]
    await purge(world, room_id, last)
    entry = (await bob.sync(since))["rooms"]["join"][room_id]
    assert [event["event_id"] for event in entry["timeline"]["events"]] == [last]
    topics = [event["content"] for event in entry["state"]["events"] if event["type"] == "m.room.topic"]
    assert topics == [{"topic": "while bob was away"}]
    newer = await bob.send(room_id, "newer")
    entry = (await alice.sync(listening))["rooms"]["join"][room_id]
    assert ([event["event_id"] for event in entry["timeline"]["events"]], entry["state"]["events"]) == ([newer], [])


async def test_unread_counts_are_of_what_is_left(world: World) -> None:
    alice, bob, room_id = await two(world)
    mention = {"msgtype": "m.text", "body": "Bob?", "m.mentions": {"user_ids": [bob.user_id]}}
    for _ in range(3):
        await alice.send(room_id, mention)
    since = (await bob.sync())["next_batch"]
    last = await alice.send(room_id, mention)
    counts = (await bob.sync(since))["rooms"]["join"][room_id]["unread_notifications"]
    assert counts == {"notification_count": 4, "highlight_count": 4}
    await purge(world, room_id, last)
    since = (await bob.sync())["next_batch"]
    await alice.send(room_id, "More.")
    counts = (await bob.sync(since))["rooms"]["join"][room_id]["unread_notifications"]
    assert counts == {"notification_count": 2, "highlight_count": 1}


async def test_who_was_invited_before_the_point_can_still_come(world: World) -> None:
    alice, carol = await world.user("alice"), await world.user("carol")
    room_id = await alice.create_room(name="Den")
    await alice.invite(room_id, carol)
    await alice.send(room_id, "gone")
    await purge(world, room_id, await alice.send(room_id, "last"))
    invite = (await carol.sync())["rooms"]["invite"][room_id]["invite_state"]["events"]
    assert {event["type"] for event in invite} >= {"m.room.name", "m.room.create", "m.room.member"}
    await carol.join(room_id)
    await check(world)


async def test_statements_do_not_grow_with_the_events(world: World) -> None:
    alice, _bob, room_id = await two(world)
    needed = []
    for count in (10, 100):
        for number in range(count):
            await alice.send(room_id, f"{number}")
        last = await alice.send(room_id, "last")
        with counted() as sent:
            await purge(world, room_id, last)
        needed.append(len([one for one in sent if "purges" not in one]))
    assert needed[1] <= needed[0] + 5, needed


class Deadly(StoppedClock):
    """A clock by which whoever rests for the so-and-so-many-th time does not wake up again."""

    class Killed(BaseException):
        pass

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    async def sleep(self, seconds: float) -> None:
        if seconds > 2:
            await asyncio.Event().wait()  # To hold on to a purge: nothing here takes as long as that.
        self.steps -= 1
        if self.steps < 0:
            raise Deadly.Killed


def begin(tx: WriteTx, room_id: str, before: str | None) -> int:
    """A purge that is held by somebody who will be killed."""
    room = rooms.find(tx, RoomId(room_id))
    assert room is not None
    event = None if before is None else events.find_by_id(tx, room.room_nid, EventId(before))
    job = Job(
        purge_id=1_000_000 + room.room_nid,
        room_id=RoomId(room_id),
        room_nid=room.room_nid,
        before=None if event is None else event.position,
        is_forced=True,
        stage="leave" if event is None else "begin",
        cursor=0,
        done=0,
        total=0,
        created_ts=0,
        holder="victim",
        is_held_by_server=True,
        held_until=2**60,
    )
    assert purges.insert_one(tx, job)
    return job.purge_id


def worker(world: World, holder: str, steps: int) -> Purge:
    container = world.container
    inner = container.purge
    return Purge(
        container.database,
        Deadly(steps),
        inner._trees,
        inner._hot,
        inner._resolver,
        container.sender,
        server_name="localhost",
        holder=holder,
        batch=3,
    )


@pytest.mark.trust("F39")
@pytest.mark.parametrize("whole", [False, True])
async def test_a_purge_that_is_killed_after_any_step_is_carried_on(world: World, whole: bool) -> None:
    alice, bob, room_id = await two(world)
    sent = await talk(alice, bob, room_id, count=3)
    kept = [event["content"].get("body") for event in await history(alice, room_id)]
    kept = kept[: kept.index("bob 2") + 1]
    purge_id = await world.container.database.write(begin, room_id, None if whole else sent[-1])
    for _ in range(100):
        try:
            await worker(world, "victim", 0).work(is_server=True)
        except Deadly.Killed:
            if whole:
                assert await consistency.check_whole(world.container.database) == []
            else:
                await look_around(world, alice, room_id)
        if (await world.container.purge.find(purge_id)).ended_ts is not None:
            break
    else:
        pytest.fail("it never ends")
    if whole:
        assert (await alice.get(f"/rooms/{room_id}/messages", dir="b")).status_code == 403
        assert await world.container.database.read(traces, room_id, set(sent)) == {}
    else:
        assert [event["content"].get("body") for event in await history(alice, room_id)] == kept
    await check(world)


async def look_around(world: World, user: User, room_id: str) -> None:
    """Whatever has been done of the purge, the room can be read and written to."""
    found = await history(user, room_id, limit=3)
    for event in found:
        assert (await user.get(f"/rooms/{room_id}/context/{event['event_id']}")).status_code == 200
    assert found[0]["content"].get("body") is not None or found[0]["type"] == "m.room.member"
    assert (await user.get(f"/rooms/{room_id}/state")).status_code == 200
    await world.container.database.snapshot(check_whole, is_over=False)
    assert await consistency.check_whole(world.container.database) == []


async def test_a_purge_gives_way_to_a_server(world: World) -> None:
    _alice, bob, room_id = await two(world)
    last = await bob.send(room_id, "last")
    purge_id = await world.container.purge.start(RoomId(room_id), Point(EventId(last)))
    await eventually(lambda: world.container.purge.find(purge_id), lambda job: job.ended_ts is not None)
    claim = world.container.database.write
    now = world.clock.now()
    other = await world.container.database.write(begin, room_id, last)
    until = now + 1000
    assert not await claim(purges.claim, other, "server", is_server=True, now=now, until=until), "it is alive"
    assert await claim(purges.claim, other, "command", is_server=False, now=2**60 + 1, until=2**61)
    assert await claim(purges.claim, other, "server", is_server=True, now=now, until=until)
    assert not await claim(purges.claim, other, "command", is_server=False, now=now, until=until)


@pytest.mark.parametrize("version", ["1", "6", "10", "12"])
@pytest.mark.trust("R4")
async def test_rooms_with_branches_keep_their_states_and_go_on(version: str, database_url: str, tmp_path: Path) -> None:
    async with running(settings(database_url, str(tmp_path))) as world:
        await world.container.database.write(server_keys.put_many, room_graphs.server_keys())
        for seed in range(4):
            graph = room_graphs.generate(version, 2000 + seed, quarrels=seed % 2 == 0)
            chance = random.Random(seed)
            order = [0, *chance.sample(range(1, len(graph.events)), len(graph.events) - 1)]
            for index in range(0, len(order), 7):
                pdus = [graph.events[one].pdu for one in order[index : index + 7]]
                await world.container.inbox.receive(RoomId(graph.room_id), pdus)
            told = f"version {version}, seed {seed}"
            before = await world.container.database.snapshot(snapshot_of, graph.room_id)
            accepted = [row for row in before.rows.values() if row.status == events.OK]
            point = chance.choice(accepted[len(accepted) // 3 :])
            await world.container.database.write(begin, graph.room_id, point.event_id)
            await worker(world, "victim", 2**60).work(is_server=True)
            after = await world.container.database.snapshot(snapshot_of, graph.room_id)
            await check(world)
            assert after.state == before.state, told
            assert after.tips == before.tips, told
            for event_id, row in before.rows.items():
                if row.position >= point.position or event_id in before.tips:
                    assert after.at.get(event_id) == before.at.get(event_id), (told, event_id)
                    assert after.rows[event_id].status == row.status
                else:
                    assert event_id not in after.rows or after.rows[event_id].status not in _IN_GRAPH, told
            # What is gone may come again: it has nothing to stand on.
            await world.container.inbox.receive(RoomId(graph.room_id), [event.pdu for event in graph.events])
            again = await world.container.database.snapshot(snapshot_of, graph.room_id)
            assert (again.state, again.tips, again.at.keys()) == (after.state, after.tips, after.at.keys()), told
            # Whoever follows all loose ends is placed, and what comes of it is what would have come of it anyway.
            tips = [graph.by_id[one] for one in sorted(before.tips)]
            last = graph.say(room_graphs.CREATOR, "m.room.topic", {"topic": "the end"}, tips, state_key="")
            if last.event_id not in graph.rejected:
                [receipt] = await world.container.inbox.receive(RoomId(graph.room_id), [last.pdu])
                assert receipt.outcome.value == "accepted", (told, receipt)
                end = await world.container.database.snapshot(snapshot_of, graph.room_id)
                assert end.at[last.event_id] == {
                    pair: event.event_id for pair, event in graph.after[last.event_id].items()
                }, told
                await check(world)


_IN_GRAPH = (events.OK, events.SOFT_FAILED)


class snapshot_of:  # noqa: N801 - a function that makes a record
    def __init__(self, tx: ReadTx, room_id: str) -> None:
        trees = StateTrees()
        room = rooms.find(tx, RoomId(room_id))
        assert room is not None
        rows = {row.position: row for row in rows_of(tx, room_id)}
        self.rows = {row.event_id: row for row in rows.values()}
        self.tips = {rows[at].event_id for at in rooms.list_extremities(tx, room.room_nid)}
        self.state = {pair: rows[at].event_id for pair, at in trees.items(tx, room.state_root).items()}
        self.at: dict[str, Any] = {
            row.event_id: {pair: rows[at].event_id for pair, at in trees.items(tx, row.state_after).items()}
            for row in rows.values()
            if row.state_after is not None
        }


# Whole rooms.


def traces(tx: ReadTx, room_id: str, event_ids: Collection[str], nid: int | None = None) -> dict[str, int]:
    """The tables in which anything speaks of the room, and how often."""
    needles = [room_id.encode(), *(event_id.encode() for event_id in event_ids)]
    found: dict[str, int] = {}
    for table in metadata.sorted_tables:
        if table.name in _MAY_NAME_ROOMS:
            continue
        for row in tx.connection.execute(select(table)):
            values = [value.encode() if isinstance(value, str) else value for value in row]
            named = any(needle in value for value in values if isinstance(value, bytes) for needle in needles)
            if named or (nid is not None and "room_nid" in table.c and row._mapping["room_nid"] == nid):
                found[table.name] = found.get(table.name, 0) + 1
    return found


_MAY_NAME_ROOMS = {"purges", "departures", "push_rules", "backup_keys", "filters", "media"}


async def fill(alice: User, bob: User, room_id: str) -> set[str]:
    """Something in every table that can speak of a room; the ids of the events."""
    sent = set(await talk(alice, bob, room_id, count=2))
    root = next(iter(sent))
    await bob.send(room_id, {"m.relates_to": {"rel_type": "m.annotation", "event_id": root, "key": "+"}}, "m.reaction")
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{root}")
    await bob.post(f"/rooms/{room_id}/read_markers", {"m.fully_read": root})
    await bob.put(f"/user/{bob.user_id}/rooms/{room_id}/tags/m.favourite", {"order": 0.5})
    await bob.put(f"/user/{bob.user_id}/rooms/{room_id}/account_data/org.example", {"room": room_id})
    alias = "%23den%3Alocalhost"
    assert (await alice.put(f"/directory/room/{alias}", {"room_id": room_id})).status_code == 200
    await alice.put(f"/rooms/{room_id}/redact/{await alice.send(room_id, 'regretted')}/r1")
    return sent


async def test_whole_room_leaves_no_trace_and_members_are_told(world: World) -> None:
    alice, bob, room_id = await two(world)
    other = await alice.create_room(preset="public_chat")
    await bob.join(other)
    await talk(alice, bob, other, count=1)
    others = (await history(alice, other), await full_state(alice, other))
    carol = await world.user("carol")
    await alice.invite(room_id, carol)
    dan = await world.user("dan")
    await dan.join(room_id)
    ids = await fill(alice, bob, room_id)
    since = {user.user_id: (await user.sync())["next_batch"] for user in (alice, bob, carol, dan)}
    await dan.leave(room_id)
    nid = await world.container.database.read(nid_of, room_id)
    assert (await world.container.database.read(traces, room_id, ids, nid)).keys() >= {
        "events",
        "relations",
        "receipts",
    }

    with pytest.raises(Conflict, match="in the room"):
        await world.container.purge.start(RoomId(room_id))
    assert (await alice.get(f"/rooms/{room_id}/state")).status_code == 200
    job = await purge(world, room_id, is_forced=True)
    assert job.failure is None

    assert await world.container.database.read(traces, room_id, ids, nid) == {}
    await check(world)
    for user in (alice, bob, carol, dan):
        sections = (await user.sync(since[user.user_id]))["rooms"]
        assert room_id in sections["leave"]
        assert room_id not in sections.get("join", {})
        everything = (await user.sync(filter={"room": {"include_leave": True}})).get("rooms", {})
        assert not [section for section in everything.values() if room_id in section]
    told = (await alice.sync(since[alice.user_id]))["next_batch"]
    assert room_id not in (await alice.sync(told)).get("rooms", {}).get("leave", {})
    assert (await alice.get(f"/rooms/{room_id}/messages", dir="b")).status_code == 403
    assert (await alice.put(f"/rooms/{room_id}/send/m.room.message/late", {"body": "late"})).status_code == 404
    assert (await alice.post(f"/rooms/{room_id}/join")).status_code == 404
    assert (await alice.get("/directory/room/%23den%3Alocalhost")).status_code == 404
    assert room_id not in (await alice.get("/joined_rooms")).json()["joined_rooms"]
    assert [room["room_id"] for room in (await alice.get("/publicRooms")).json()["chunk"]] == []
    assert (await history(alice, other), await full_state(alice, other)) == others
    await bob.send(other, "Life goes on.")


async def test_room_that_everybody_has_left_goes_without_force(world: World) -> None:
    alice, bob, room_id = await two(world)
    await alice.leave(room_id)
    await bob.leave(room_id)
    nid = await world.container.database.read(nid_of, room_id)
    assert (await purge(world, room_id)).failure is None
    assert await world.container.database.read(traces, room_id, [], nid) == {}
    with pytest.raises(NotFound):
        await world.container.purge.start(RoomId(room_id))


async def test_second_purge_of_a_room_waits_for_the_first(world: World) -> None:
    _alice, _bob, room_id = await two(world)
    await world.container.database.write(begin, room_id, None)
    with pytest.raises(Conflict, match="under way"):
        await world.container.purge.start(RoomId(room_id), is_forced=True)


def test_every_table_that_names_rooms_is_known_here() -> None:
    """A new table that speaks of rooms has to be purged: see `services/rooms/room_purge.py`, then add it here."""
    naming = {table.name for table in metadata.sorted_tables if _names_rooms(table)}
    assert naming == {
        "account_data",
        "aliases",
        "backup_keys",
        "backward_extremities",
        "coming_members",
        "departures",
        "events",
        "forward_extremities",
        "introductions",
        "left_out",
        "memberships",
        "originals",
        "out_of_room",
        "outgoing_events",
        "partial_rooms",
        "pending_redactions",
        "purges",
        "receipts",
        "relations",
        "resolutions",
        "room_servers",
        "rooms",
        "staged_pdus",
        "transactions",
        "waiting_events",
        "waiting_for",
    }


def _names_rooms(table: Table) -> bool:
    if table.name == "transactions":
        return True  # By the position of the event.
    return any(name in table.c for name in ("room_nid", "room_id", "event_id"))
