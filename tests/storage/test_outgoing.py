"""What a server is to be sent follows from when it was in which room."""

import pytest

from homeserver.matrix.identifiers import ServerName
from homeserver.storage import destinations, outgoing, room_servers
from homeserver.storage.destinations import Destination, Parcel, Skipped
from homeserver.storage.engine import Database
from homeserver.storage.outgoing import OutgoingEvent

A, B, C = ServerName("a.test"), ServerName("b.test"), ServerName("c.test")


async def prepare(database: Database) -> None:
    """A is in rooms 1 and 2, left 1 at 50, came back at 70; B is in room 1; there is an event at each ten."""
    await database.write(room_servers.change, [(A, 1, 5), (A, 2, 15), (B, 1, 40), (A, 1, 70)], [(A, 1, 50)])
    events = [OutgoingEvent(position, 1 + position // 10 % 2) for position in range(10, 110, 10)]
    await database.write(outgoing.add_events, events)
    await database.write(outgoing.add_events, [OutgoingEvent(111, 1, except_for=A, also_to=C)])


@pytest.mark.behaviours("SS-PDU-10")
async def test_a_server_is_to_have_what_was_said_while_it_was_there(database: Database) -> None:
    await prepare(database)
    # Room 1 has the events at 20, 40, 60, 80, 100; room 2 those at 10, 30, 50, 70, 90.
    all_of_a = await database.read(outgoing.list_for, A, after=0, upto=200, limit=100)
    assert all_of_a == [20, 30, 40, 50, 70, 80, 90, 100]
    assert await database.read(outgoing.list_for, B, after=0, upto=200, limit=100) == [60, 80, 100, 111]
    assert await database.read(outgoing.list_for, C, after=0, upto=200, limit=100) == [111]
    assert await database.read(outgoing.list_for, A, after=40, upto=80, limit=2) == [50, 70]


@pytest.mark.behaviours("SS-TXN-06")
@pytest.mark.trust("F30", "F32")
async def test_after_an_outage_the_newest_event_of_each_stay_is_due(database: Database) -> None:
    await prepare(database)
    newest = await database.read(outgoing.list_newest_for, A, after=0, upto=200, limit=100)
    assert newest == [40, 90, 100]
    assert await database.read(outgoing.list_newest_for, A, after=40, upto=200, limit=100) == [90, 100]
    assert await database.read(outgoing.list_newest_for, A, after=0, upto=85, limit=100) == [40, 70, 80]
    assert await database.read(outgoing.list_newest_for, A, after=100, upto=200, limit=100) == []
    assert await database.read(outgoing.list_newest_for, C, after=0, upto=200, limit=100) == [111]


@pytest.mark.trust("K7", "I8")
async def test_who_lacks_something_is_known_after_a_start(database: Database) -> None:
    await prepare(database)
    assert await database.read(outgoing.list_pending_servers) == {A, B, C}
    rows = [Destination(A, delivered=100), Destination(B, delivered=100), Destination(C, delivered=111)]
    await database.write(destinations.save_many, rows)
    assert await database.read(outgoing.list_pending_servers) == {A, B}  # Of A it is found out when it is looked at.
    await database.write(destinations.save_many, [Destination(A, delivered=111), Destination(B, delivered=111)])
    assert await database.read(outgoing.list_pending_servers) == set()


@pytest.mark.trust("R6", "F32")
async def test_what_nobody_will_be_sent_is_forgotten(database: Database) -> None:
    await prepare(database)
    await database.write(destinations.save_many, [Destination(B, delivered=111), Destination(C, delivered=111)])
    before = await database.read(outgoing.list_newest_for, A, after=0, upto=200, limit=100)
    assert await database.write(outgoing.trim, below=105, limit=100) == 7
    assert await database.read(outgoing.list_newest_for, A, after=0, upto=200, limit=100) == before
    kept = await database.read(outgoing.list_new, after=0, upto=200, limit=100)
    assert [event.position for event in kept] == [40, 90, 100, 111]
    # The stay that ended is remembered until what was said then is delivered.
    await database.write(outgoing.forget_stays, below=105)
    assert 40 in await database.read(outgoing.list_newest_for, A, after=0, upto=200, limit=100)
    await database.write(destinations.save_many, [Destination(A, delivered=111)])
    await database.write(outgoing.forget_stays, below=105)
    assert await database.write(outgoing.trim, below=105, limit=100) == 1
    assert await database.read(outgoing.list_newest_for, A, after=0, upto=200, limit=100) == [90, 100]


async def test_how_it_goes_with_a_server_is_written_down(database: Database) -> None:
    parcel = Parcel(pdus=(1, 2), edus=(3,), ephemeral=(), upto=4)
    row = Destination(A, 1, 2, 3, 4, 5, 6, "no answer", 25, "txn", parcel)
    await database.write(destinations.save_many, [row])
    assert await database.read(destinations.find, A) == row
    await database.write(destinations.save_many, [Destination(A)])
    assert await database.read(destinations.list_all) == [Destination(A)]
    skipped = Skipped(A, 5, 6, "never")
    await database.write(destinations.skip_many, [skipped])
    assert await database.read(destinations.list_skipped, A, limit=10) == [skipped]
