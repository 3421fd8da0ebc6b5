"""How many statements it takes to read history; on both databases."""

from tests.statements import counted
from tests.world import World


async def test_history_is_read_in_a_number_of_statements_that_does_not_grow(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    for number in range(15):
        parent = await alice.send(room_id, str(number))
        for kind in ("m.thread", "m.reference", "m.replace"):
            relation = {"rel_type": kind, "event_id": parent}
            content = {"msgtype": "m.text", "body": "x", "m.new_content": {}, "m.relates_to": relation}
            await alice.send(room_id, content)
        await alice.set_state(room_id, "m.room.topic", {"topic": str(number)})
        slip = await bob.send(room_id, "a slip")
        await bob.put(f"/rooms/{room_id}/redact/{slip}/{number}")
    needed = []
    for limit in (14, 98):
        with counted() as sent:
            answer = await bob.get(f"/rooms/{room_id}/messages", dir="b", limit=limit)
        assert len(answer.json()["chunk"]) == limit
        needed.append(len(sent))
    assert needed[1] <= needed[0]
    assert needed[1] < 20, needed
