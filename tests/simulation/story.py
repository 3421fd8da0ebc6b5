"""One simulated run: people talk and quarrel in a room of several servers while everything breaks; then all is well.

What must hold in the end: honest servers have the same state in every room; what a server said it had done, is done
everywhere; every database is whole.
"""

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from homeserver.errors import Unreachable
from homeserver.matrix.identifiers import domain_of
from homeserver.services.rooms import consistency
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import event_graph, event_log, events, rooms
from homeserver.storage.engine import ReadTx
from tests.simulation.city import City, Gone, House, part
from tests.simulation.liar import Liar
from tests.simulation.loop import LIFE, SimulationLoop

_QUARRELS_S = 60.0
_QUIET_S = 130.0
_LONG_QUIET_S = 600.0
"""Long enough for somebody who has asked in vain a few times to go on without what is missing."""
_STEPS = 30


@dataclass
class Seen:
    """What a server has of the room."""

    state: dict[str, str]
    inside: set[str]
    """The servers of which a user is in the room."""
    departures: dict[str, set[str]]
    """By server, the events of the state by which its users are out of the room."""
    verdicts: dict[str, int]
    """What became of each event that it has."""
    placed: set[str]
    """The events at which it knows the state."""
    before: dict[str, list[str]]
    """By event, those before it."""
    gaps: set[str]
    """What is missing, as it knows, before events that it has."""

    @property
    def accepted(self) -> set[str]:
        """The events that are part of the room."""
        return {one for one, verdict in self.verdicts.items() if verdict == events.OK}

    @property
    def rejected(self) -> set[str]:
        """The events that are not allowed."""
        return {one for one, verdict in self.verdicts.items() if verdict == events.REJECTED}

    def is_unaware_of(self, other: "Seen", server: str) -> bool:
        """Whether by the other's knowledge no user of this server is in the room, for reasons that have not come here.

        Who was put out may ask nobody for what came before, and so may never be able to place the news of it.
        """
        return server not in other.inside and not other.departures[server] <= self.placed


@dataclass
class Story:
    """The room and its people."""

    city: City
    version: str
    honest: list[House]
    liar: Liar | None
    room_id: str = ""
    users: dict[str, list[str]] = field(default_factory=dict)
    said: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The events that servers said they had taken, by server."""


async def tell(seed: int, loop: SimulationLoop, template: Path, folder: Path) -> list[str]:
    """Run the simulation; what happened, line by line. Raises `AssertionError`."""
    chance = random.Random(seed)
    city = City(loop, chance, template, folder)
    weather = city.weather
    storm = (weather.loss, weather.again, weather.slowest_s)
    weather.clear()
    honest = [city.build(f"h{number}.test") for number in range(chance.choice([3, 3, 4]))]
    liar = Liar(city, "liar.test") if chance.random() < 0.7 else None
    story = Story(city, chance.choice(["6", "9", "10", "11", "12"]), honest, liar)
    try:
        await _begin(story)
        weather.loss, weather.again, weather.slowest_s = storm
        await _quarrel(story)
        weather.clear()
        await _heal(story)
        await _agree(story)
    except BaseException:
        print("\n".join(city.story))
        raise
    return city.story


async def _begin(story: Story) -> None:
    """The servers start, and all are in the room."""
    city = story.city
    for house in story.honest:
        await city.start(house)
        story.users[house.name] = [await city.register(house, f"u{number}") for number in range(2)]
    first = story.honest[0]
    creator = story.users[first.name][0]
    options: dict[str, Any] = {"preset": "public_chat", "room_version": story.version}
    status, body = await city.ask(first, creator, "POST", "/createRoom", options)
    assert status == 200, body
    story.room_id = body["room_id"]
    city.tell(f"{creator} makes {story.room_id}, version {story.version}")
    for house in story.honest[1:]:
        path = f"/join/{part(story.room_id)}?via={first.name}&server_name={first.name}"
        status, body = await city.ask(house, story.users[house.name][0], "POST", path, {})
        assert status == 200, body
    if story.liar is not None:
        assert await story.liar.join(story.room_id, story.version, first.name)
    powers = {creator: 100, story.users[story.honest[1].name][0]: 50}
    if story.version == "12":
        del powers[creator]
    content = {"users": powers, "events_default": 0, "state_default": 0, "ban": 50, "kick": 50, "invite": 0}
    path = f"/rooms/{part(story.room_id)}/state/m.room.power_levels/"
    status, body = await city.ask(first, creator, "PUT", path, content)
    assert status == 200, body


async def _quarrel(story: Story) -> None:
    """People do what people do, some of it at the same time, while the network and the servers fail."""
    city = story.city
    working: list[asyncio.Task[None]] = []
    for _ in range(_STEPS):
        await asyncio.sleep(city.chance.expovariate(_STEPS / _QUARRELS_S))
        fate = city.chance.random()
        if fate < 0.06:
            city.weather.apart = {name: city.chance.randint(0, 1) for name in (*city.houses, "liar.test")}
            city.tell(f"the network falls apart: {city.weather.apart}")
        elif fate < 0.14:
            city.weather.apart = {}
            city.tell("the network is one")
        elif fate < 0.20:
            working.append(city.loop.create_task(_die_for_a_while(city, city.chance.choice(story.honest))))
        elif fate < 0.35 and story.liar is not None:
            working.append(city.loop.create_task(_lie(story.liar)))
        else:
            house = city.chance.choice(story.honest)
            working.append(city.loop.create_task(_act(story, house, city.chance.choice(story.users[house.name]))))
    for work in working:
        await work


async def _lie(liar: Liar) -> None:
    try:
        await liar.lie()
    except Unreachable:
        return


async def _die_for_a_while(city: City, house: House) -> None:
    if house.application is None:
        return
    city.kill(house)
    await asyncio.sleep(city.chance.uniform(0.5, 20.0))
    await city.start(house)


async def _act(story: Story, house: House, user_id: str) -> None:
    """A user does something, and it works or not."""
    city, chance, room = story.city, story.city.chance, part(story.room_id)
    others = [one for users in story.users.values() for one in users if one != user_id]
    message = {"msgtype": "m.text", "body": str(chance.random())}
    deeds: list[tuple[str, str, Any]] = [
        ("PUT", f"/rooms/{room}/send/m.room.message/{city.transaction()}", message),
        ("PUT", f"/rooms/{room}/send/m.room.message/{city.transaction()}", message),
        ("PUT", f"/rooms/{room}/send/m.room.message/{city.transaction()}", message),
        ("PUT", f"/rooms/{room}/state/m.room.topic/", {"topic": str(chance.random())}),
        ("PUT", f"/rooms/{room}/state/m.room.name/", {"name": str(chance.random())}),
        ("POST", f"/rooms/{room}/leave", {}),
        ("POST", f"/join/{room}?via={story.honest[0].name}&server_name={story.honest[0].name}", {}),
        ("POST", f"/rooms/{room}/invite", {"user_id": chance.choice(others)}),
        ("POST", f"/rooms/{room}/kick", {"user_id": chance.choice(others)}),
        ("POST", f"/rooms/{room}/ban", {"user_id": chance.choice(others)}),
        ("POST", f"/rooms/{room}/unban", {"user_id": chance.choice(others)}),
    ]
    method, path, body = chance.choice(deeds)
    try:
        status, answer = await city.ask(house, user_id, method, path, body)
    except Gone:
        city.tell(f"{user_id} {method} {path}: nobody knows")
        return
    city.tell(f"{user_id} {method} {path}: {status} {answer.get('event_id') or answer.get('errcode', '')}")
    if status == 200 and "event_id" in answer:
        story.said[house.name].add(answer["event_id"])


async def _heal(story: Story) -> None:
    """Everybody runs, everybody reaches everybody, one person speaks on each server, and minutes go by."""
    city = story.city
    city.tell("all is well")
    for house in story.honest:
        if house.application is None:
            await city.start(house)
    if story.liar is not None:
        story.liar.is_silent = True
    for quiet_s in (_QUIET_S, _LONG_QUIET_S):
        await asyncio.sleep(quiet_s)
        for house in story.honest:
            await _speak(story, house)
            await asyncio.sleep(20.0)


async def _speak(story: Story, house: House) -> None:
    """Somebody who is in the room says something."""
    room = part(story.room_id)
    for user_id in story.users[house.name]:
        path = f"/rooms/{room}/send/m.room.message/{story.city.transaction()}"
        status, body = await story.city.ask(house, user_id, "PUT", path, {"msgtype": "m.text", "body": "peace"})
        if status == 200:
            story.said[house.name].add(body["event_id"])
            return


async def _agree(story: Story) -> None:
    """Raise `AssertionError` unless those who are in the room have the same of it."""
    found: dict[str, Seen] = {}
    for house in story.honest:
        assert house.container is not None
        LIFE.set(house.life)
        database = house.container.database
        wrong = await consistency.check_whole(database)
        async for more in consistency.check_rooms(database, lambda count: None):
            wrong += more
        assert not wrong, f"{house.name}: " + "\n".join(f"{one.room_id}: {one.what}" for one in wrong)
        here = await database.snapshot(_look, story.room_id)
        if here is not None:
            found[house.name] = here
        lost = story.said[house.name] - (here.placed if here is not None else set())
        assert not lost, f"{house.name} had taken {sorted(lost)}, and has lost them"
    _compare_verdicts(found)
    seen = {name: one for name, one in found.items() if name in one.inside}
    out = {name for name, one in seen.items() if any(one.is_unaware_of(other, name) for other in seen.values())}
    seen = {name: one for name, one in seen.items() if name not in out}
    story.city.tell(f"in the room: {sorted(seen)}; put out without knowing: {sorted(out)}")
    _compare_states(story, seen)
    _look_for_the_lost(story, seen)


def _compare_verdicts(found: dict[str, Seen]) -> None:
    """Whether an event is rejected follows from the event and what is before it; whether it soft-fails does not."""
    for (name, one), (other_name, other) in combinations(found.items(), 2):
        differing = (one.rejected ^ other.rejected) & one.placed & other.placed
        assert not differing, f"{name} and {other_name} do not agree on whether to reject {sorted(differing)}"


def _compare_states(story: Story, seen: dict[str, Seen]) -> None:
    for name, one in seen.items():
        first_name, first = next(iter(seen.items()))
        differing = {
            pair for pair in first.state.keys() | one.state.keys() if first.state.get(pair) != one.state.get(pair)
        }
        for pair in sorted(differing):
            ids = {here.state.get(pair) for here in seen.values()}
            for house in seen:
                verdicts = {str(one): seen[house].verdicts.get(str(one)) for one in ids}
                story.city.tell(f"{pair} at {house}: {verdicts}")
        assert not differing, f"{first_name} and {name} do not agree on {sorted(differing)}"
    everywhere = set.intersection(*(one.accepted for one in seen.values())) if seen else set()
    known = set.union(*(one.accepted for one in seen.values())) if seen else set()
    story.city.tell(f"{len(known)} events are accepted somewhere, {len(everywhere)} everywhere")


def _look_for_the_lost(story: Story, seen: dict[str, Seen]) -> None:
    """What servers in the room said they had taken, all others in it have, unless it lies in a gap they know of."""
    said = {event_id for name in seen for event_id in story.said[name]}
    before = {event_id: ids for one in seen.values() for event_id, ids in one.before.items()}
    for name, one in seen.items():
        behind: set[str] = set()
        ways = [*one.gaps]
        while ways:
            event_id = ways.pop()
            if event_id not in behind:
                behind.add(event_id)
                ways.extend(before.get(event_id, []))
        lost = said - one.placed - behind
        assert not lost, f"{name} lacks {sorted(lost)}"


def _look(tx: ReadTx, room_id: Any) -> Seen | None:
    """What the database has of the room."""
    room = rooms.find(tx, room_id)
    if room is None:
        return None
    trees = StateTrees()
    positions = trees.items(tx, room.state_root)
    stored = events.find_many(tx, positions.values())
    members = [parse(stored[at], room.version) for (type_, _), at in positions.items() if type_ == "m.room.member"]
    departures: dict[str, set[str]] = defaultdict(set)
    for one in members:
        if one.membership != "join":
            departures[domain_of(one.state_key or "")].add(one.event_id)
    rows = event_log.list_from(tx, room.room_nid, after=0, limit=100_000)
    return Seen(
        {f"{type_} {key}": stored[at].event_id for (type_, key), at in positions.items()},
        {domain_of(one.state_key or "") for one in members if one.membership == "join"},
        departures,
        {row.event_id: row.status for row in rows},
        {row.event_id for row in rows if row.state_after is not None},
        {row.event_id: list(parse(row, room.version).prev_events) for row in rows},
        {event_id for event_id, _ in event_graph.list_backward_extremities(tx, room.room_nid)},
    )
