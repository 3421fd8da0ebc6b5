"""One simulated run: people talk and quarrel in rooms of several servers while everything breaks; then all is well.

What must hold in the end: honest servers have the same state in every room; what a server said it had done, is done
everywhere; clients are told of nothing that their room forbids; what was redacted is; every database is whole.
"""

import asyncio
import json
import random
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from homeserver.errors import Unreachable
from homeserver.services.rooms import consistency
from tests.simulation import verdict
from tests.simulation.city import City, Gone, House, part
from tests.simulation.liar import Liar
from tests.simulation.loop import LIFE, SimulationLoop
from tests.simulation.seen import Seen, look

_QUARRELS_S = 60.0
_QUIETS_S = (60.0, 130.0, 600.0)
"""Together long enough for somebody who has asked in vain a few times to go on without what is missing."""
_SPREAD_S = 10.0
_STEPS = 40
_TIMELINES = quote(json.dumps({"room": {"timeline": {"limit": 100}}}))


@dataclass
class Room:
    """A room of several servers."""

    kind: str
    version: str
    home: House
    """Where it was made."""
    room_id: str = ""
    said: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The events that servers said they had taken, by server."""


@dataclass
class Story:
    """The rooms and their people."""

    city: City
    honest: list[House]
    liar: Liar | None
    rooms: list[Room]
    users: dict[str, list[str]] = field(default_factory=dict)


async def tell(seed: int, loop: SimulationLoop, template: Path, folder: Path) -> list[str]:
    """Run the simulation; what happened, line by line. Raises `AssertionError`."""
    chance = random.Random(seed)
    city = City(loop, chance, template, folder)
    weather = city.weather
    storm = (weather.loss, weather.again, weather.slowest_s)
    weather.clear()
    honest = [city.build(f"h{number}.test") for number in range(chance.choice([3, 3, 4]))]
    liar = Liar(city, "liar.test") if chance.random() < 0.7 else None
    # The first is public, and all are in it from the beginning. Into the others some come while everything breaks.
    kinds = ["public", *chance.sample(["public", "restricted", "invited"], chance.choice([0, 1, 1, 2]))]
    rooms = [Room(kind, _version(chance, kind), chance.choice(honest)) for kind in kinds]
    story = Story(city, honest, liar, rooms)
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


def _version(chance: random.Random, kind: str) -> str:
    return chance.choice(["8", "9", "10", "11", "12"] if kind == "restricted" else ["6", "9", "10", "11", "12"])


async def _begin(story: Story) -> None:
    """The servers start, and all are in the first room."""
    city = story.city
    for house in story.honest:
        await city.start(house)
        story.users[house.name] = [await city.register(house, f"u{number}") for number in range(2)]
    for room in story.rooms:
        await _open(story, room)


async def _open(story: Story, room: Room) -> None:
    """Make a room, let people in, and give one of them some power."""
    city, home = story.city, room.home
    creator = story.users[home.name][0]
    others = [house for house in story.honest if house is not home]
    if room is not story.rooms[0]:
        others = city.chance.sample(others, city.chance.randint(1, len(others)))
    guests = [story.users[house.name][0] for house in others]
    preset = "public_chat" if room.kind == "public" else "private_chat"
    options: dict[str, Any] = {"preset": preset, "room_version": room.version}
    if room.kind == "invited":
        options["invite"] = guests
    if room.kind == "restricted":
        allow = [{"type": "m.room_membership", "room_id": story.rooms[0].room_id}]
        rule = {"join_rule": "restricted", "allow": allow}
        options["initial_state"] = [{"type": "m.room.join_rules", "state_key": "", "content": rule}]
    room.room_id = (await _do(story, home, creator, "POST", "/createRoom", options))["room_id"]
    city.tell(f"{creator} makes {room.room_id}, {room.kind}, version {room.version}")
    for house, guest in zip(others, guests, strict=True):
        await _do(story, house, guest, "POST", _join_path(room), {})
    if story.liar is not None and room.kind != "invited":
        assert await story.liar.join(room.room_id, room.version, home.name)
    powers = {creator: 100, guests[0]: 50}
    if room.version == "12":
        del powers[creator]
    content = {"users": powers, "events_default": 0, "state_default": 0, "ban": 50, "kick": 50, "invite": 0}
    path = f"/rooms/{part(room.room_id)}/state/m.room.power_levels/"
    await _do(story, home, creator, "PUT", path, content)


async def _do(story: Story, house: House, user_id: str, method: str, path: str, body: Any) -> Any:
    """Ask for something that is granted."""
    status, answer = await story.city.ask(house, user_id, method, path, body)
    assert status == 200, answer
    return answer


def _join_path(room: Room) -> str:
    return f"/join/{part(room.room_id)}?via={room.home.name}&server_name={room.home.name}"


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
    city, chance = story.city, story.city.chance
    there = chance.choice(story.rooms)
    room = part(there.room_id)
    others = [one for users in story.users.values() for one in users if one != user_id]
    if story.liar is not None:
        others.append(story.liar.user_id)
    said = sorted({event_id for ids in there.said.values() for event_id in ids})
    message = {"msgtype": "m.text", "body": str(chance.random())}
    deeds: list[tuple[str, str, Any]] = [
        ("PUT", f"/rooms/{room}/send/m.room.message/{city.transaction()}", message),
        ("PUT", f"/rooms/{room}/send/m.room.message/{city.transaction()}", message),
        ("PUT", f"/rooms/{room}/send/m.room.message/{city.transaction()}", message),
        ("PUT", f"/rooms/{room}/state/m.room.topic/", {"topic": str(chance.random())}),
        ("PUT", f"/rooms/{room}/state/m.room.name/", {"name": str(chance.random())}),
        ("POST", f"/rooms/{room}/leave", {}),
        ("POST", _join_path(there), {}),
        ("POST", f"/rooms/{room}/invite", {"user_id": chance.choice(others)}),
        ("POST", f"/rooms/{room}/kick", {"user_id": chance.choice(others)}),
        ("POST", f"/rooms/{room}/ban", {"user_id": chance.choice(others)}),
        ("POST", f"/rooms/{room}/unban", {"user_id": chance.choice(others)}),
    ]
    if said:
        path = f"/rooms/{room}/redact/{part(chance.choice(said))}/{city.transaction()}"
        deeds += [("PUT", path, {})] * 2
    method, path, body = chance.choice(deeds)
    try:
        status, answer = await city.ask(house, user_id, method, path, body)
    except Gone:
        city.tell(f"{user_id} {method} {path}: nobody knows")
        return
    city.tell(f"{user_id} {method} {path}: {status} {answer.get('event_id') or answer.get('errcode', '')}")
    if status == 200 and "event_id" in answer:
        there.said[house.name].add(answer["event_id"])


async def _heal(story: Story) -> None:
    """Everybody runs, everybody reaches everybody, one person speaks on each server, and minutes go by."""
    city = story.city
    city.tell("all is well")
    for house in story.honest:
        if house.application is None:
            await city.start(house)
    if story.liar is not None:
        await _put_out(story, story.liar)
        story.liar.is_silent = True
    for quiet_s in _QUIETS_S:
        await asyncio.sleep(quiet_s)
        for house in story.honest:
            for room in story.rooms:
                await _speak(story, house, room)
            await asyncio.sleep(_SPREAD_S)
        if not [one for room in story.rooms for one in verdict.compare(await _look(story, room), room.said)]:
            return


async def _put_out(story: Story, liar: Liar) -> None:
    """The liar goes too far and is banned, where there is somebody who may; it talks as if nothing had happened."""
    await liar.overreach()
    for room in story.rooms:
        path = f"/rooms/{part(room.room_id)}/ban"
        await story.city.ask(room.home, story.users[room.home.name][0], "POST", path, {"user_id": liar.user_id})
    await asyncio.sleep(_SPREAD_S)
    await liar.linger()


async def _speak(story: Story, house: House, room: Room) -> None:
    """Somebody who is in the room says something."""
    for user_id in story.users[house.name]:
        path = f"/rooms/{part(room.room_id)}/send/m.room.message/{story.city.transaction()}"
        status, body = await story.city.ask(house, user_id, "PUT", path, {"msgtype": "m.text", "body": "peace"})
        if status == 200:
            room.said[house.name].add(body["event_id"])
            return


async def _look(story: Story, room: Room) -> dict[str, Seen]:
    """The room as each server has it that knows it."""
    found = {}
    for house in story.honest:
        LIFE.set(house.life)
        assert house.container is not None
        seen = await house.container.database.snapshot(look, room.room_id)
        if seen is not None:
            found[house.name] = seen
    return found


async def _agree(story: Story) -> None:
    """Raise `AssertionError` unless all is as it must be."""
    wrong = []
    for house in story.honest:
        wrong += [f"{house.name}: {what}" for what in await _check(story, house)]
    for room in story.rooms:
        found = await _look(story, room)
        for name, said in room.said.items():
            lost = said - (found[name].placed if name in found else set())
            if lost:
                wrong.append(f"{name} had taken {sorted(lost)}, and has lost them")
        seen = verdict.present(found)
        story.city.tell(
            f"in {room.room_id}: {sorted(seen)}; {sorted(found.keys() - seen.keys())} are not, or out of it"
        )
        wrong += [f"{room.room_id}: {what}" for what in verdict.compare(found, room.said)]
    assert not wrong, "\n".join(wrong)


async def _check(story: Story, house: House) -> list[str]:
    """What is wrong with the server by itself, in its database and in what it tells its users."""
    LIFE.set(house.life)
    assert house.container is not None
    database = house.container.database
    findings = await consistency.check_whole(database)
    async for more in consistency.check_rooms(database, lambda count: None):
        findings += more
    wrong = [f"{one.room_id}: {one.what}" for one in findings]
    seen = {}
    for room in story.rooms:
        wrong += await database.snapshot(verdict.judge, room.room_id)
        seen[room.room_id] = await database.snapshot(look, room.room_id)
    for user_id in story.users[house.name]:
        answer = await _do(story, house, user_id, "GET", f"/sync?filter={_TIMELINES}", None)
        for room_id, told in answer.get("rooms", {}).get("join", {}).items():
            here = seen[room_id]
            assert here is not None
            wrong += verdict.judge_sync(here, told["timeline"]["events"])
    return wrong
