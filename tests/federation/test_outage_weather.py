"""Servers that are away for minutes or for weeks, twenty times, by lot.

The same seed gives the same lots. The databases of all servers are held to their invariants at the end of each.
"""

import itertools
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import func, select

from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.transport import Call, Reply
from homeserver.storage import destinations, outgoing_edus
from homeserver.storage.engine import ReadTx
from homeserver.storage.outgoing import outgoing_events
from tests.federation.foreign import bring_in
from tests.federation.network import Network
from tests.federation.scenarios import Window, good, ids_of_state, join, part, read_back, room_of_both
from tests.federation.test_outbound import SEND, Taker
from tests.world import User, World, eventually

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(60),
    pytest.mark.parametrize("new_database", ["sqlite"], indirect=True),
]

Json = dict[str, Any]
A, B, C = ServerName("a.test"), ServerName("b.test"), ServerName("c.test")
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
BOUND = 100
"""Who has missed more events than this is sent the newest one of each room."""
SEEDS = 20


class Arrivals:
    """What is sent to a server, and what it takes."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._under_way = 0
        self.most_at_once = 0
        self.tried: set[str] = set()
        self.taken: list[tuple[str, Json]] = []
        """Its transactions: id and body."""

    async def __call__(self, call: Call, deliver: Callable[[], Awaitable[Reply]]) -> Reply:
        if call.destination != self._server or not call.target.startswith(SEND):
            return await deliver()
        txn_id, body = call.target.removeprefix(SEND), json.loads(call.body or b"{}")
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            self.tried.add(txn_id)
            reply = await deliver()
        finally:
            self._under_way -= 1
        self.taken.append((txn_id, body))
        return reply

    def firsts(self, *, apart_from: set[str]) -> dict[str, str]:
        """The event of each room that came first in other transactions than these: its body or type."""
        first: dict[str, str] = {}
        for txn_id, body in self.taken:
            for pdu in body["pdus"] if txn_id not in apart_from else []:
                first.setdefault(pdu["room_id"], gist(pdu))
        return first


def gist(event: Json) -> str:
    return str(event["content"].get("body", event["type"]))


@dataclass
class Others:
    """People of a server who go on while another server is away."""

    chance: random.Random
    rooms: list[str]
    ann: User
    amy: User
    zoe: User
    bob: User
    said: dict[str, list[str]] = field(default_factory=dict)
    """By room: the events of ann's that nobody may lose."""
    to_device: list[int] = field(default_factory=list)
    acts: int = 0
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    inside: set[tuple[str, str]] = field(default_factory=set)
    forgetful: set[str] = field(default_factory=set)
    """Rooms in which a redaction that is redacted does not say any more what it redacts (up to version 10).

    Whoever gets it only then never learns that.
    """
    redactions: set[str] = field(default_factory=set)

    async def do(self, what: str) -> None:
        """Do one thing in some room."""
        room_id, number = self.chance.choice(self.rooms), next(self.numbers)
        said = self.said.setdefault(room_id, [])
        self.acts += what != "to a device"
        match what:
            case "message":
                said.append(await self.ann.send(room_id, f"number {number}"))
            case "topic":
                said.append(await self.ann.set_state(room_id, "m.room.topic", {"topic": f"{number}"}))
            case "redaction":
                kept = self.redactions if room_id in self.forgetful else set()
                targets = [one for one in said if one not in kept]
                target = self.chance.choice(targets) if targets else await self.ann.send(room_id, "a slip")
                path = f"/rooms/{part(room_id)}/redact/{part(target)}/r{number}"
                said.append((await good(self.ann.put(path, {})))["event_id"])
                self.redactions.add(said[-1])
                self.acts += target not in said
            case "amy":
                await self._move(self.amy, self.rooms[0])
            case "zoe":
                await self._move(self.zoe, room_id)
            case "to a device":
                messages = {self.bob.user_id: {self.bob.device_id: {"n": number}}}
                await good(self.ann.put(f"/sendToDevice/org.example.ping/d{number}", {"messages": messages}))
                self.to_device.append(number)

    async def _move(self, user: User, room_id: str) -> None:
        """Go in, or out."""
        if (user.user_id, room_id) in self.inside:
            await user.leave(room_id)
        else:
            await user.join(room_id)
        self.inside ^= {(user.user_id, room_id)}


def lots(chance: random.Random, *, many: bool) -> list[str]:
    """What is done during an outage."""
    kinds = ["message", "topic", "redaction", "amy", "zoe", "to a device"]
    if many:
        more = ["message"] * (BOUND + chance.randint(5, 15)) + ["to a device"] * 5
    else:
        more = chance.choices(kinds, [6, 2, 2, 1, 1, 2], k=int(55 * chance.random() ** 2))
    chosen = [*kinds, *more]
    chance.shuffle(chosen)
    return chosen


def still_readable(seen: list[Json]) -> list[Json]:
    """Events that have content although the redactions that redact them are there."""
    redacted = {event["content"].get("redacts") for event in seen if event["type"] == "m.room.redaction"}
    # What a redaction redacts is no content of it.
    return [event for event in seen if event["event_id"] in redacted and event["content"].keys() - {"redacts"}]


def count_rows(tx: ReadTx) -> int:
    return int(tx.connection.execute(select(func.count()).select_from(outgoing_events)).scalar_one())


async def backing_off(world: World) -> bool:
    """Whether both other servers are known to be down, so that nothing is kept in memory for either."""
    rows = [await world.container.database.read(destinations.find, server) for server in (B, C)]
    return all(row is not None and row.failures for row in rows)


@pytest.mark.trust("F31", "F32", "R4", "R6", "I14")
@pytest.mark.behaviours("SS-TXN-06")
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_after_an_outage_the_rooms_are_current_by_themselves(network: Network, seed: int) -> None:
    chance = random.Random(seed)
    many = seed % 5 == 4
    closed = many or seed % 5 < 2
    a, b = await network.server(A), await network.server(B)
    ann, amy, zoe, bob = [await a.user(name) for name in ("ann", "amy", "zoe")] + [await b.user("bob")]
    # Another server is gone for good, and costs nothing.
    Taker(network.peer(C))
    version = chance.choice(["10", "11", "12"])
    rooms = [await room_of_both(ann, bob, room_version=version)]
    await bring_in(network.peers[C], A, rooms[0], f"@cat:{C}")
    for _ in range(chance.randrange(3 if many else 6)):
        rooms.append(await ann.create_room(preset="public_chat"))
        await join(bob, rooms[-1], ann)
    others = Others(chance, rooms, ann, amy, zoe, bob, forgetful={rooms[0]} if version == "10" else set())
    await amy.join(rooms[0])
    others.inside.add((amy.user_id, rooms[0]))
    window = Window(bob)
    await window.look()
    database = a.container.database
    rows_before = await database.read(count_rows)

    network.cut(C)
    if closed:
        await network.stop(B)
    else:
        network.cut(B)
    arrivals = network.weather = Arrivals(B)
    chosen = lots(chance, many=many)
    away_s = 2 * MINUTE * (30 * DAY / (2 * MINUTE)) ** chance.random()
    others.said[rooms[0]] = [await ann.send(rooms[0], "is anybody there?")]
    others.acts += 1
    await eventually(lambda: backing_off(a), bool)
    # Hours let all but the newest of what was said be forgotten: much is said at once.
    if many:
        network.clock.advance(away_s)
    for number, what in enumerate(chosen):
        await others.do(what)
        if not many and number % 5 == 4:
            network.clock.advance(away_s * 5 / len(chosen))
    from_bob: list[tuple[str, str]] = []
    for number in range(0 if closed else 3):
        room_id = chance.choice(rooms)
        from_bob.append((room_id, await bob.send(room_id, f"alone {number}")))
    # One row for each event, whoever lacks it; and one for each message to devices that somebody lacks.
    assert await database.read(count_rows) <= rows_before + others.acts
    waiting = await database.read(outgoing_edus.count_waiting)
    assert set(waiting) <= {B, C} and len(others.to_device) <= waiting[B] <= len(others.to_device) + 5
    newest = {room_id: gist((await read_back(ann, room_id))[-1]) for room_id in rooms if others.said.get(room_id)}
    apart_from = set(arrivals.tried)

    if closed:
        b = await network.server(B)
        bob.client = b.client
    else:
        network.heal(B)
    looks = itertools.count(1)

    wanted = [(bob, room_id, said[-1]) for room_id, said in others.said.items() if said]
    wanted += [(ann, room_id, event_id) for room_id, event_id in from_bob]

    async def has_come() -> bool:
        """Whether all that is newest is on either side; time goes by, and nobody does anything."""
        if next(looks) % 10 == 0:
            network.clock.advance(MINUTE if many else HOUR)
        while wanted:
            user, room_id, event_id = wanted[-1]
            if (await user.get(f"/rooms/{part(room_id)}/event/{part(event_id)}")).status_code != 200:
                return False
            wanted.pop()
        return True

    await eventually(has_come, bool)
    left = list(rooms)

    async def is_current() -> bool:
        """Whether the state of all rooms is the same on either side."""
        if next(looks) % 10 == 0:
            network.clock.advance(MINUTE)
        while left and await ids_of_state(ann, left[-1]) == await ids_of_state(bob, left[-1]):
            left.pop()
        return not left

    await eventually(is_current, bool)
    for room_id in rooms:
        said = others.said.get(room_id, [])
        seen: list[Json] = []

        async def all_is_there(room_id: str = room_id, said: list[str] = said, seen: list[Json] = seen) -> bool:
            seen[:] = await read_back(bob, room_id)
            assert still_readable(seen) == []
            return set(said) <= {event["event_id"] for event in seen}

        await eventually(all_is_there, bool)
        here = {event["event_id"]: event["content"] for event in await read_back(ann, room_id)}
        assert {event["event_id"]: event["content"] for event in seen} == here
        ids = [event["event_id"] for event in seen]
        assert len(ids) == len(set(ids))
        assert [one for one in ids if one in said] == said

    async def messages() -> list[int]:
        await window.look()
        return [event["content"]["n"] for event in window.to_device]

    await eventually(messages, lambda found: len(found) >= len(others.to_device))
    assert await messages() == others.to_device

    async def waits() -> int:
        return (await database.read(outgoing_edus.count_waiting)).get(B, 0)

    await eventually(waits, lambda count: count == 0)
    assert arrivals.most_at_once == 1
    if many:
        firsts = arrivals.firsts(apart_from=apart_from)
        assert firsts
        assert firsts == {room_id: newest[room_id] for room_id in firsts}
        assert sum(len(body["pdus"]) for txn_id, body in arrivals.taken if txn_id not in apart_from) <= 2 * len(rooms)

    async def rows() -> int:
        network.clock.advance(HOUR + 1)
        return await database.read(count_rows)

    # The newest of each room stays for the server that is still away, and one of the time when it came.
    await eventually(rows, lambda count: count <= 2 * len(rooms))
