"""Signatures of events that several servers must have signed."""

import pytest

from homeserver.matrix.events import Event
from homeserver.matrix.signing import sign_event
from homeserver.storage import server_keys
from tests import room_graphs
from tests.room_graphs import CREATOR, key_of
from tests.services.rooms.test_arrival import altered
from tests.world import World


@pytest.mark.trust("S1")
async def test_what_is_wrong_stays_wrong_whatever_else_is_not_known_yet(world: World) -> None:
    await world.container.database.write(server_keys.put_many, room_graphs.server_keys())
    graph = room_graphs.begin("10")
    events = []
    for number in range(8):  # In which order signers are looked at is a matter of chance.
        authoriser = f"unknown{number}.example"
        content = {"membership": "join", "join_authorised_via_users_server": f"@x:{authoriser}"}
        made = graph.build(CREATOR, "m.room.member", content, [graph.events[-1]], state_key=CREATOR)
        signatures = sign_event(made, authoriser, key_of(authoriser)).signatures
        del signatures["a.example"]
        events.append(Event.parse(altered(made.pdu, signatures=signatures), "10"))
    doubts = await world.container.signatures.check(events)
    assert [doubt is not None and doubt.is_wrong for doubt in doubts] == [True] * 8
