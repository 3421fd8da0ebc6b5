"""Rooms in memory: they cost what they may cost, and what is not in memory is found when it is needed."""

from pathlib import Path
from urllib.parse import quote

import pytest

from homeserver.matrix.identifiers import RoomId
from homeserver.services.rooms.receipts import Outcome
from homeserver.storage import server_keys
from tests import room_graphs
from tests.services.rooms.test_branches import Scene
from tests.world import running, settings


@pytest.mark.timeout(120)  # A room of more than five hundred members is made.
@pytest.mark.trust("R6")
async def test_a_large_room_works_when_its_members_do_not_fit_into_memory(database_url: str, tmp_path: Path) -> None:
    async with running(settings(database_url, str(tmp_path), room_memory_mib=1)) as world:
        await world.container.database.write(server_keys.put_many, room_graphs.server_keys())
        alice = await world.user("alice")
        scene = Scene(world, alice, await alice.create_room(preset="public_chat"))
        graph = await scene.graph()
        users = [f"@user{number}:b.example" for number in range(550)]
        tip, joins = graph.events[-1], []
        for user in users:
            tip = graph.say(user, "m.room.member", {"membership": "join"}, [tip], state_key=user)
            joins.append(tip.pdu)
        receipts = await world.container.inbox.receive(RoomId(scene.room_id), joins)
        assert {receipt.outcome for receipt in receipts} == {Outcome.ACCEPTED}
        # Another room takes the memory, and old members say something again.
        await alice.send(await alice.create_room(), "elsewhere")
        for user in users[:3]:
            tip = graph.say(user, "m.room.message", {"msgtype": "m.text", "body": "still here"}, [tip])
            assert await scene.outcomes(tip) == [Outcome.ACCEPTED]
        ban = await alice.post(f"/rooms/{quote(scene.room_id)}/ban", {"user_id": users[7]})
        assert ban.status_code == 200
        page = (await alice.get(f"/rooms/{quote(scene.room_id)}/messages", dir="b", limit="4")).json()
        assert [event["content"].get("body") for event in page["chunk"]] == [None, *["still here"] * 3]
