"""Data that waits for servers is kept until it is delivered."""

from homeserver.matrix.identifiers import ServerName
from homeserver.storage import outgoing_edus
from homeserver.storage.engine import Database
from homeserver.storage.outgoing_edus import OutgoingEdu

A, B = ServerName("a.test"), ServerName("b.test")


async def test_data_that_is_no_event_is_kept_until_it_is_delivered(database: Database) -> None:
    edus = [OutgoingEdu(to, "m.direct_to_device", content) for to, content in ((A, b"1"), (B, b"2"), (A, b"3"))]
    await database.write(outgoing_edus.add_many, edus)
    found = await database.read(outgoing_edus.list_for, A, after=0, limit=10)
    assert [edu.content for edu in found] == [b"1", b"3"]
    assert await database.read(outgoing_edus.count_waiting) == {A: 2, B: 1}
    await database.write(outgoing_edus.remove_many, [(A, found[0].position)])
    assert await database.read(outgoing_edus.find_many, A, [edu.position for edu in found]) == [found[1]]
    positions = [edu.position for edu in found]
    destinations_of = await database.read(outgoing_edus.list_new_destinations, after=positions[0], upto=positions[1])
    assert destinations_of == {A, B}
    assert await database.read(outgoing_edus.list_destinations) == {A, B}
