"""Servers whose clocks are wrong by up to a day, twenty times, by lot.

The same seed gives the same lots. The databases of all servers are held to their invariants at the end of each.
"""

import json
import random
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.matrix.identifiers import ServerName
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.server_keys import publish
from tests.federation.foreign import ForeignRoom
from tests.federation.network import Network, Peer
from tests.federation.scenarios import Window, good, ids_of_state, part, read_back, room_of_both
from tests.room_graphs import key_of

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(60),
    pytest.mark.parametrize("new_database", ["sqlite"], indirect=True),
]

Json = dict[str, Any]
A, B, C = ServerName("a.test"), ServerName("b.test"), ServerName("c.test")
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
DAY_MS = int(DAY * 1000)
SEEDS = 20
VERSIONS = list(ROOM_VERSIONS)


def off_by(seed: int, chance: random.Random) -> int:
    """By how much a clock is wrong."""
    return {0: -DAY_MS, 1: DAY_MS}.get(seed) or chance.choice([-1, 1]) * chance.randint(60_000, DAY_MS)


@pytest.mark.trust("F35", "F34")
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_order_is_that_of_the_graph_whatever_a_clock_says(network: Network, seed: int) -> None:
    chance = random.Random(seed)
    off_ms, version = off_by(seed, chance), VERSIONS[seed % len(VERSIONS)]
    a, b = await network.server(A), await network.server(B, off_ms=off_ms)
    ann, bob = await a.user("ann"), await b.user("bob")
    levels = {"users_default": 50}
    room_id = await room_of_both(ann, bob, room_version=version, power_level_content_override=levels)
    windows = {ann.user_id: Window(ann), bob.user_id: Window(bob)}
    said: list[str] = []
    speakers = [ann, bob, ann, *chance.choices([ann, bob], k=chance.randint(3, 8))]
    # Some day the keys have to be asked for again.
    days_after = chance.randrange(len(speakers))
    for number, speaker in enumerate(speakers):
        other = bob if speaker is ann else ann
        if chance.random() < 0.3:
            said.append(await speaker.set_state(room_id, "m.room.topic", {"topic": f"{number}"}))
        else:
            said.append(await speaker.send(room_id, f"{number}"))
        await windows[other.user_id].sees(room_id, said[-1])
        network.clock.advance(3 * DAY if number == days_after else chance.choice([0, 1, MINUTE]))
    said.append(await bob.set_state(room_id, "m.room.topic", {"topic": "bob's"}))
    await windows[ann.user_id].sees(room_id, said[-1])
    said.append(await ann.set_state(room_id, "m.room.topic", {"topic": "ann's"}))
    await windows[bob.user_id].sees(room_id, said[-1])
    for user in (ann, bob):
        events = [event for event in await read_back(user, room_id) if event["event_id"] in said]
        assert [event["event_id"] for event in events] == said
        stamps = [event["origin_server_ts"] for event in events]
        assert stamps != sorted(stamps), "The clocks were to differ."
        window = windows[user.user_id]
        await window.look()
        assert [one for one in window.ids(room_id) if one in said] == [
            one for one in said if window.find(room_id, one) is not None
        ]
        topic = await good(user.get(f"/rooms/{part(room_id)}/state/m.room.topic"))
        assert topic == {"topic": "ann's"}
    assert await ids_of_state(ann, room_id) == await ids_of_state(bob, room_id)
    # Requests of either are taken by the other.
    for user, other in ((ann, bob), (bob, ann)):
        await good(other.put(f"/profile/{part(other.user_id)}/displayname", {"displayname": "Somebody"}))
        found = await good(user.get(f"/profile/{part(other.user_id)}"))
        assert found["displayname"] == "Somebody"
        secret = await user.create_room(preset="private_chat")
        await user.invite(secret, other)
        await other.join(secret)


@dataclass
class Clockmaker:
    """A peer whose clock is wrong, and whose key is good until some time by it."""

    peer: Peer
    valid_until_ts: int

    def __post_init__(self) -> None:
        self.peer.on("GET", "/_matrix/key/v2/server", lambda seen: self.document())

    def document(self) -> Json:
        name = self.peer.name
        found: Json = json.loads(publish(name, key_of(name), {}, valid_until_ts=self.valid_until_ts))
        return found


@pytest.mark.trust("F35")
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_key_is_good_as_long_as_the_room_version_says(network: Network, seed: int) -> None:
    chance = random.Random(seed)
    off_ms, version = off_by(seed, chance), VERSIONS[seed % len(VERSIONS)]
    is_enforced = version not in ("1", "2", "3", "4")
    a = await network.server(A)
    alice = await a.user("alice")
    peer = network.peer("p.test")
    theirs = network.clock.now() + off_ms
    maker = Clockmaker(peer, theirs + DAY_MS + chance.randint(int(HOUR) * 1000, DAY_MS))
    room = ForeignRoom.begin(peer, version)
    room.graph.clock = theirs
    room.host()
    await good(alice.post(f"/join/{part(room.room_id)}?server_name=p.test&via=p.test"))

    def at(ts: int, body: str) -> Any:
        """A message of this date."""
        room.graph.clock = ts - 1000
        event = room.graph.build(room.owner, "m.room.message", {"body": body}, [room.tip])
        assert event.origin_server_ts == ts
        return event

    def goes_on(event: Any) -> None:
        room.tip = room.graph.add(event, [room.tip])

    taken = ["early", "at the end", "between"]
    for body, ts in zip(taken, (theirs, maker.valid_until_ts, theirs + chance.randrange(DAY_MS)), strict=True):
        event = at(ts, body)
        assert await peer.send(A, quote(body), event.pdu) == {event.event_id: {}}
        goes_on(event)
    network.clock.advance(61)  # The keys may be asked for again.
    late = at(maker.valid_until_ts + chance.randint(1, DAY_MS), "late")
    result = (await peer.send(A, "late", late.pdu))[late.event_id]
    assert ("error" in result) == is_enforced, result
    answer = await alice.get(f"/rooms/{part(room.room_id)}/event/{part(late.event_id)}")
    assert answer.status_code == (404 if is_enforced else 200)
    if not is_enforced:
        goes_on(late)
        taken.append("late")
    after = at(theirs, "after")
    assert await peer.send(A, "after", after.pdu) == {after.event_id: {}}
    goes_on(after)
    # Once the server vouches for its key for longer, what is dated so is taken.
    old, maker.valid_until_ts = maker.valid_until_ts, maker.valid_until_ts + 2 * DAY_MS
    network.clock.advance(61)
    renewed = at(old + chance.randint(1, DAY_MS), "renewed")
    assert await peer.send(A, "renewed", renewed.pdu) == {renewed.event_id: {}}
    goes_on(renewed)
    events = await read_back(alice, room.room_id)
    bodies = [event["content"]["body"] for event in events if event["type"] == "m.room.message"]
    assert bodies == [*taken, "after", "renewed"]
    mine = await alice.send(room.room_id, "mine")
    events = await read_back(alice, room.room_id)
    assert events[-1]["event_id"] == mine
    answer = await peer.call(A, "GET", f"/_matrix/federation/v1/query/profile?user_id={part(alice.user_id)}")
    assert answer.status_code == 200
