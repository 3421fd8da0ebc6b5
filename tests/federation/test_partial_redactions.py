"""Redactions in rooms that are known in part: if one was not allowed, it is undone when that is known."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from homeserver.matrix.events import Event, build_event
from homeserver.matrix.identifiers import ServerName, UserId
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.storage import originals
from tests import room_graphs
from tests.federation.network import Network
from tests.federation.scenarios import good, part
from tests.federation.test_partial_joins import RESIDENT, Scene, arrive
from tests.federation.test_redactions import where
from tests.room_graphs import CREATOR, key_of
from tests.services.rooms.test_arrival import join_event
from tests.services.rooms.test_purge import purge
from tests.services.rooms.test_redaction import SECRET

pytestmark = [pytest.mark.anyio, pytest.mark.trust("I11")]

BOB, CAT = "@bob:b.example", "@cat:b.example"
DAY_MS = 24 * 3600 * 1000
VERSIONS = ["6", "10", "12"]


class Quarrel:
    """A room that is known in part. Cat of bob's server was put out of it, which nobody here knows yet."""

    def __init__(self, scene: Scene, cat_joined: Event) -> None:
        self.scene = scene
        self._cat_joined = cat_joined

    @classmethod
    async def begin(cls, network: Network, version: str) -> "Quarrel":
        graph = room_graphs.begin(version)
        joined = graph.after[graph.events[-1].event_id]["m.room.member", CAT]
        graph.say(CREATOR, "m.room.member", {"membership": "ban"}, [graph.events[-1]], state_key=CAT)
        return cls(await arrive(network, version, graph=graph), joined)

    async def says(self, content: dict[str, Any], type_: str = "m.room.message", **more: Any) -> Event:
        """Bob says something."""
        event = self.scene.graph.say(BOB, type_, content, [self.scene.join], **more)
        assert await self.scene.receive(event) == ["accepted"]
        return event

    def redaction(self, sender: str, target: Event, *prev: Event) -> Event:
        """A redaction by one of b.example, of what another one of it has said."""
        graph = self.scene.graph
        if sender == BOB:
            return graph.say(BOB, "m.room.redaction", {"redacts": target.event_id}, list(prev), redacts=target.event_id)
        version, levels = ROOM_VERSIONS[graph.version], ("m.room.power_levels", "")
        state = graph.after[self.scene.join.event_id]
        create = [] if version.room_ids_are_hashes else [graph.create]
        graph.clock += 1000
        return build_event(
            graph.version,
            server_name="b.example",
            key=key_of("b.example"),
            room_id=graph.room_id,
            type="m.room.redaction",
            sender=CAT,
            state_key=None,
            content=json.dumps({"redacts": target.event_id}).encode(),
            origin_server_ts=graph.clock,
            depth=max(one.depth for one in prev) + 1,
            prev_events=list(prev),
            auth_events=[*create, state[levels], self._cat_joined],
            redacts=target.event_id,
        )

    async def content(self, event: Event) -> Any:
        """What alice reads of it."""
        return (await self.shown(event))["content"]

    async def shown(self, event: Event) -> Any:
        path = f"/rooms/{part(self.scene.room)}/event/{part(event.event_id)}"
        return await good(self.scene.alice.get(path))

    async def told(self, events: Sequence[Event], since: str) -> str:
        """What alice can be told of them while members are missing, as one text."""
        alice, room = self.scene.alice, f"/rooms/{part(self.scene.room)}"
        paths = ["/sync", f"/sync?since={since}", "/sync?full_state=true", f"{room}/messages?dir=b&limit=100"]
        paths += ["/notifications", f"{room}/state/m.room.topic"]
        for event in events:
            event_id = part(event.event_id)
            paths += [f"{room}/event/{event_id}", f"{room}/context/{event_id}"]
            paths.append(f"/v1{room}/relations/{event_id}?recurse=true")
        return "\n".join([(await alice.get(path)).text for path in paths])

    async def restart(self) -> None:
        network = self.scene.network
        await network.stop("localhost")
        self.scene.world = await network.server("localhost")
        self.scene.alice.client = self.scene.world.client


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_was_redacted_by_somebody_who_was_put_out_comes_back(network: Network, version: str) -> None:
    quarrel = await Quarrel.begin(network, version)
    scene = quarrel.scene
    thread = {"rel_type": "m.thread", "event_id": scene.join.event_id}
    root = await quarrel.says({"body": "root"})
    thread = {"rel_type": "m.thread", "event_id": root.event_id}
    secrets = [
        await quarrel.says({"body": SECRET}),
        await quarrel.says({"body": SECRET, "m.relates_to": thread}),
        await quarrel.says({"topic": SECRET}, "m.room.topic", state_key=""),
    ]
    late = scene.graph.say(BOB, "m.room.message", {"body": SECRET}, [scene.join])
    redactions = [quarrel.redaction(CAT, one, scene.join) for one in (*secrets, late)]
    since = (await scene.alice.sync())["next_batch"]
    assert await scene.receive(*redactions) == ["accepted"] * 4
    assert await scene.receive(late) == ["accepted"]
    secrets.append(late)
    # It is there, and nobody can read it.
    assert await where(scene.world) == {"originals"}
    assert SECRET not in await quarrel.told(secrets, since)
    peer = network.peer("b.example")
    for event in secrets:
        answer = await peer.call("localhost", "GET", f"/_matrix/federation/v1/event/{part(event.event_id)}")
        assert SECRET not in answer.text
    assert "m.relations" not in (await quarrel.shown(root))["unsigned"]
    since = (await scene.alice.sync())["next_batch"]

    await quarrel.restart()  # Whatever becomes of the process, it is not forgotten.
    await scene.become_whole()
    assert await where(scene.world) == {"events"}
    for event in secrets:
        shown = await quarrel.shown(event)
        assert SECRET in shown["content"].values()
        assert "redacted_because" not in shown["unsigned"]
    assert (await quarrel.shown(root))["unsigned"]["m.relations"]["m.thread"]["count"] == 1
    topic = await good(scene.alice.get(f"/rooms/{part(scene.room)}/state/m.room.topic"))
    assert topic == {"topic": SECRET}
    # Who was there has to read again.
    timeline = (await scene.alice.sync(since))["rooms"]["join"][scene.room]["timeline"]
    assert (timeline["events"], timeline["limited"]) == ([], True)
    query = f"dir=b&limit=50&from={part(timeline['prev_batch'])}"
    page = await good(scene.alice.get(f"/rooms/{part(scene.room)}/messages?{query}"))
    assert sum(SECRET in event["content"].values() for event in page["chunk"]) == 4
    for event in redactions:
        path = f"/rooms/{part(scene.room)}/event/{part(event.event_id)}"
        assert (await scene.alice.get(path)).status_code == 404


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_was_redacted_by_somebody_who_may_is_gone_for_good(network: Network, version: str) -> None:
    quarrel = await Quarrel.begin(network, version)
    scene = quarrel.scene
    secrets = [await quarrel.says({"body": SECRET}) for _ in range(2)]
    late = scene.graph.say(BOB, "m.room.message", {"body": SECRET}, [scene.join])
    redactions = [quarrel.redaction(BOB, one, scene.join) for one in (*secrets, late)]
    # That somebody else was faster, who was not allowed to, changes nothing.
    faster = [quarrel.redaction(CAT, one, scene.join) for one in (secrets[0], late)]
    assert await scene.receive(*faster, *redactions) == ["accepted"] * 5
    assert await scene.receive(late) == ["accepted"]
    own = await scene.alice.send(scene.room, SECRET)
    await good(scene.alice.put(f"/rooms/{part(scene.room)}/redact/{part(own)}/r", {}))
    assert await where(scene.world) == {"originals"}
    await scene.become_whole()
    assert await where(scene.world) == set()
    for event, redaction in zip((*secrets, late), redactions, strict=True):
        shown = await quarrel.shown(event)
        assert shown["content"] == {}
        assert shown["unsigned"]["redacted_because"]["event_id"] == redaction.event_id


async def test_originals_go_with_the_room(network: Network) -> None:
    quarrel = await Quarrel.begin(network, "12")
    scene = quarrel.scene
    event = await quarrel.says({"body": SECRET})
    assert await scene.receive(quarrel.redaction(CAT, event, scene.join)) == ["accepted"]
    assert await where(scene.world) == {"originals"}
    job = await purge(scene.world, scene.room, is_forced=True)
    assert job.failure is None
    assert await where(scene.world) == set()


async def test_originals_are_kept_for_a_week_and_go_with_who_said_them(network: Network) -> None:
    quarrel = await Quarrel.begin(network, "12")
    scene = quarrel.scene
    assert await where(scene.world) == set()
    for days in (3, 6):
        event = await quarrel.says({"body": SECRET})
        assert await scene.receive(quarrel.redaction(CAT, event, scene.join)) == ["accepted"]
        network.clock.time += days * DAY_MS
    database = scene.world.container.database
    own = await scene.alice.send(scene.room, SECRET)
    await good(scene.alice.put(f"/rooms/{part(scene.room)}/redact/{part(own)}/r", {}))

    async def count() -> int:
        room = await scene.world.container.hot.find(scene.room)  # type: ignore[arg-type]
        assert room.room_nid is not None
        return await database.read(originals.count_in_room, room.room_nid)

    assert await count() == 3
    await scene.failed((await scene.failed(0)).failures + 1)
    assert await count() == 2
    accounts = scene.world.container.accounts
    await accounts.deactivate(UserId(scene.alice.user_id), erase=True)
    assert await count() == 1
    # Who comes again, in part or not, does not judge again what was before.
    again = await scene.world.user("again")
    join = join_event(scene.world, scene.graph, again.user_id)
    before = scene.graph.before([scene.graph.by_id[one] for one in join.prev_events])
    await scene.world.container.arrivals.arrive(
        scene.graph.room_id,  # type: ignore[arg-type]
        scene.graph.version,
        join.pdu,
        [one.pdu for pair, one in before.items() if pair[0] != "m.room.member"],
        [one.pdu for one in scene.graph.events if one.state_key is not None],
        partial=[ServerName(name) for name in room_graphs.SERVERS],
        via=RESIDENT,
    )
    assert await where(scene.world) == set()
