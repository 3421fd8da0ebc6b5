"""The auth chain of events, compared with what the events themselves say; on both databases."""

import pytest

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.rooms.auth_chain import auth_chain
from homeserver.storage import event_log, events, rooms
from homeserver.storage.engine import ReadTx
from tests.statements import counted
from tests.world import User, World


async def a_long_story(world: World, version: str) -> tuple[User, str]:
    """A room in which each of many power levels stands on the one before it."""
    alice, bob = await world.user("alice"), await world.user("bob")
    room = await alice.create_room(preset="public_chat", room_version=version)
    await bob.join(room)
    levels = (await alice.get(f"/rooms/{room}/state/m.room.power_levels")).json()
    for number in range(20):
        await alice.set_state(room, "m.room.power_levels", {**levels, "redact": number})
    await bob.set_state(room, "m.room.member", {"membership": "join", "displayname": "Bob"}, state_key=bob.user_id)
    return bob, room


def _expected(found: dict[str, Event], start: list[str]) -> set[str]:
    chain: set[str] = set()
    waiting = list(start)
    while waiting:
        cited = [one for one in found[waiting.pop()].auth_events if one not in chain]
        chain.update(cited)
        waiting.extend(cited)
    return chain


def _ask(tx: ReadTx, room_id: str, event_ids: list[str], page: int = 100) -> tuple[set[str], dict[str, Event]]:
    room = rooms.find(tx, RoomId(room_id))
    assert room is not None
    rows = {str(row.event_id): row for row in event_log.list_all(tx, room.room_nid)}
    found = auth_chain(tx, room, [rows[one].position for one in event_ids], page=page)
    assert found == sorted(found)
    ids = events.find_ids(tx, found)
    return set(ids.values()), {one: Event.parse(row.pdu, room.version, one) for one, row in rows.items()}


@pytest.mark.parametrize("version", ["10", "12"])
async def test_the_auth_chain_of_a_message_is_all_that_its_events_cite(world: World, version: str) -> None:
    bob, room = await a_long_story(world, version)
    said = await bob.send(room, "hello")
    chain, all_of_room = await world.container.database.snapshot(_ask, room, [said])
    expected = _expected(all_of_room, [said])
    create = next(one for one, event in all_of_room.items() if event.type == "m.room.create")
    assert len(expected) > 20
    # The create event of version 12 is not cited, but named by the room's id.
    assert (create in expected) == (version == "10")
    assert chain == expected | {create}


async def test_the_auth_chain_of_a_whole_state_has_what_others_in_it_cite(world: World) -> None:
    bob, room = await a_long_story(world, "10")
    state = [event["event_id"] for event in (await bob.get(f"/rooms/{room}/state")).json()]
    chain, all_of_room = await world.container.database.snapshot(_ask, room, state)
    assert chain == _expected(all_of_room, state)
    assert chain & set(state)


async def test_a_long_chain_costs_a_bounded_number_of_statements(world: World) -> None:
    bob, room = await a_long_story(world, "10")
    said = await bob.send(room, "hello")

    def ask(tx: ReadTx) -> int:
        found = rooms.find(tx, RoomId(room))
        assert found is not None
        [at] = events.find_positions(tx, [EventId(said)]).values()
        with counted() as statements:
            auth_chain(tx, found, [at])
        return len(statements)

    assert await world.container.database.snapshot(ask) < 15
    # Page by page it comes to the same.
    chain, all_of_room = await world.container.database.snapshot(_ask, room, [said], page=3)
    assert chain == _expected(all_of_room, [said])
