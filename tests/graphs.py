"""A room with everything in its event graph that there can be, written straight to the database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.app import signing_key
from homeserver.config.model import Config
from homeserver.kit.concurrency import Background
from homeserver.kit.logs import report
from homeserver.kit.randomness import Randomness
from homeserver.matrix.events import Event, build_event
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.rooms.hot import HotRoom, HotRooms
from homeserver.services.rooms.persist import EventWriter
from homeserver.services.rooms.placement import UNSTORED, Batch, Change, NewEvent, Placement, Resolved, State
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import events, rooms, state
from homeserver.storage.engine import Database
from homeserver.storage.events import StoredEvent
from tests.world import running

TOPIC = ("m.room.topic", "")
MISSING = "$missing-event-of-the-room-that-never-came-here"


@dataclass
class Sample:
    """The rows of a database, by a word for each."""

    room: str
    room_nid: int
    other_nid: int
    rows: Mapping[str, StoredEvent]


async def make_sample(config: Config) -> Sample:
    """A room in which branches disagree, and another one in which nothing ever happened but talk."""
    async with running(config) as world:
        alice, bob = await world.user("alice"), await world.user("bob")
        # Version 10, whose event ids need no knowledge of the room's.
        room = await alice.create_room(preset="public_chat", room_version="10", room_alias_name="sample")
        await bob.join(room)
        ids = {"first": await alice.send(room, 'One < two & "three"')}
        ids["redacted"] = await bob.send(room, "Never mind.")
        related = {
            "msgtype": "m.text",
            "body": "Two.",
            "m.relates_to": {"rel_type": "m.thread", "event_id": ids["first"]},
        }
        ids["related"] = await bob.send(room, related)
        answer = await bob.put(f"/rooms/{room}/redact/{ids['redacted']}/r1", {"reason": "Wrong room."})
        ids["redaction"] = answer.json()["event_id"]
        ids["strange"] = await alice.set_state(
            room, "org.example.<strange>", {"is": "&"}, state_key='"quoted" ]]> \u0001'
        )
        ids["last"] = await alice.send(room, "Three.")
        other = await alice.create_room(room_alias_name="other")
        ids["other"] = await alice.send(other, "Elsewhere.")
        ids["other topic"] = await alice.set_state(other, "m.room.topic", {"topic": "Elsewhere"})
        other_nid = await world.container.sender.nid_of(RoomId(other))
    background = Background(report)
    async with Database.open(config.effective_database_url) as database:
        graph = await _Graph.open(database, background, config, room)
        rows = await graph.fork()
        found = await database.read(events.find_many_by_id, [EventId(event_id) for event_id in ids.values()])
        await background.close()
    rows |= {name: found[EventId(event_id)] for name, event_id in ids.items()}
    return Sample(room, graph.nid, other_nid, rows)


class _Graph:
    """Writes events to wherever they are wanted."""

    def __init__(self, room: HotRoom, writer: EventWriter, database: Database, config: Config) -> None:
        assert room.room_nid is not None
        self.nid = room.room_nid
        self._room = room
        self._writer = writer
        self._database = database
        self._key = signing_key.ensure(config, Randomness())
        self._server_name = config.server_name

    @classmethod
    async def open(cls, database: Database, background: Background, config: Config, room_id: str) -> "_Graph":
        trees = StateTrees()
        hot = HotRooms(database, trees, 1 << 20)
        nid = await database.read(rooms.find_nid, RoomId(room_id))
        assert nid is not None
        return cls(
            await hot.get(nid), EventWriter(database, hot, trees, background, config.server_name), database, config
        )

    async def fork(self) -> dict[str, StoredEvent]:
        """Two topics that know nothing of each other, what comes of that, and what else can happen."""
        room = self._room
        base = room.latest[0]
        assert room.root is not None
        root = room.root
        first = self._build("m.room.topic", "", {"topic": "First"}, [base])
        one = await self._write(NewEvent(first))
        second = self._build("m.room.topic", "", {"topic": "Second"}, [base])
        topic = (await self._database.read(state.find_pairs, [TOPIC]))[TOPIC]
        told = {
            "changes": [{"type": "m.room.topic", "state_key": "", "from": first.event_id, "to": second.event_id}],
            "lost": [{"event_id": first.event_id, "reason": "a <later> one & better"}],
        }
        assert one.state_after is not None
        current = Resolved(
            State(one.state_after, {topic: UNSTORED}), (one.state_after, None), msgspec.json.encode(told)
        )
        placement = Placement(Resolved(State(root)), (one.position,), current, [Change(TOPIC, second)])
        two = await self._write(NewEvent(second, placement=placement))
        rows = {"one": one, "two": two}
        tips = (one.position, two.position)
        aside = Placement(Resolved(State(two.state_after)), tips)
        soft = self._build("m.room.name", "", {"name": "Soft"}, [second])
        rows["soft"] = await self._write(NewEvent(soft, status=events.SOFT_FAILED, placement=aside))
        bad = self._build("m.room.name", "", {"name": "Rejected"}, [second])
        rows["rejected"] = await self._write(NewEvent(bad, status=events.REJECTED, placement=aside))
        far = self._build("m.room.name", "", {"name": "Outlier"}, [base])
        rows["outlier"] = await self._write(NewEvent(far, status=events.OUTLIER, placement=Placement(None, tips)))
        merged = Placement(Resolved(State(room.root)))
        merge = self._build("m.room.message", None, {"msgtype": "m.text", "body": "Merged"}, [first, soft])
        rows["merge"] = await self._write(NewEvent(merge, placement=merged))
        late = Placement(
            Resolved(State(room.root)), (rows["merge"].position,), Resolved(State(room.root)), missing=[MISSING]
        )
        gap = self._build("m.room.message", None, {"msgtype": "m.text", "body": "Late"}, [base], before=[MISSING])
        rows["gap"] = await self._write(NewEvent(gap, placement=late))
        return rows

    async def _write(self, new: NewEvent) -> StoredEvent:
        [stored] = await self._writer.write(Batch(self._room, [new]))
        return stored

    def _build(
        self,
        type_: str,
        state_key: str | None,
        content: dict[str, Any],
        follows: Sequence[Event],
        *,
        before: Sequence[str] = (),
    ) -> Event:
        """An event of alice's; `before` stands for what it follows, where nobody has that."""
        current = self._room.state
        pairs = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", "@alice:localhost")]
        event = build_event(
            "10",
            server_name=self._server_name,
            key=self._key,
            room_id=self._room.room_id,
            type=type_,
            sender="@alice:localhost",
            state_key=state_key,
            content=msgspec.json.encode(content),
            origin_server_ts=1_700_000_000_001,
            depth=max(event.depth for event in follows) + 1,
            prev_events=list(follows),
            auth_events=[event for pair in pairs if (event := current.get(pair)) is not None],
        )
        if not before:
            return event
        pdu = msgspec.json.decode(event.pdu)
        return Event.parse(msgspec.json.encode({**pdu, "prev_events": list(before)}), "10")
