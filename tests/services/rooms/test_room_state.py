"""The state of a room in memory, while some of it is being read from the database."""

from homeserver.matrix.identifiers import UserId
from homeserver.services.rooms.room_state import RoomState
from tests import room_graphs
from tests.room_graphs import Graph


def of_absent_members(graph: Graph) -> RoomState:
    """The state of a room whose members are not in memory."""
    members = [event for event in graph.events if event.type == "m.room.member"]
    return RoomState({}, {UserId(str(event.state_key)): "join" for event in members})


def test_what_is_redacted_while_it_is_read_stays_redacted() -> None:
    graph = room_graphs.begin("11")
    state = of_absent_members(graph)
    found = {(event.type, str(event.state_key)): event for event in graph.events if event.type == "m.room.member"}
    pair, event = next(iter(found.items()))
    state.replace({event.event_id: event.redacted()})
    state.add(found)
    kept = state.get(pair)
    assert kept is not None
    assert kept.pdu == event.redacted().pdu
    others = {one: state.get(one) for one in found if one != pair}
    assert others == {one: found[one] for one in others}
