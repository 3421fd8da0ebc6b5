"""Reading what relates to events, where there is much of it; on both databases."""

from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.storage import relations, rooms
from homeserver.storage.engine import ReadTx
from tests.world import World


async def test_of_many_children_the_newest_are_listed_for_each_parent_and_type(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    parents = [EventId(await alice.send(room_id, "parent")) for _ in range(2)]
    kinds = ("m.reference", "m.replace")
    sent: dict[tuple[EventId, str], list[str]] = {}
    for _ in range(4):
        for parent in parents:
            for kind in kinds:
                content = {"m.relates_to": {"rel_type": kind, "event_id": parent}}
                sent.setdefault((parent, kind), []).append(await alice.send(room_id, content, "org.example"))
    wanted = [(parents[0], "m.reference"), (parents[1], "m.replace")]

    def look(tx: ReadTx) -> dict[tuple[EventId, str], list[relations.Child]]:
        room = rooms.find(tx, RoomId(room_id))
        assert room is not None
        return relations.list_of_types(tx, room.room_nid, wanted, most=3)

    found = await world.container.database.read(look)
    assert {key: [child.event_id for child in children] for key, children in found.items()} == {
        key: sent[key][1:] for key in wanted
    }
