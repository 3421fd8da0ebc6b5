"""Data that waits for servers is kept until it is delivered."""

import pytest

from homeserver.matrix.identifiers import ServerName, UserId
from homeserver.storage import outgoing_edus
from homeserver.storage.engine import Database
from homeserver.storage.outgoing_edus import DEVICE_LIST, SIGNING_KEY, TO_DEVICE, OutgoingEdu

A, B = ServerName("a.test"), ServerName("b.test")
ALICE, CAROL = UserId("@alice:c.test"), UserId("@carol:c.test")


async def test_data_that_is_no_event_is_kept_until_it_is_delivered(database: Database) -> None:
    edus = [OutgoingEdu(to, TO_DEVICE, content, ALICE) for to, content in ((A, b"1"), (B, b"2"), (A, b"3"))]
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


async def add(database: Database, *edus: tuple[ServerName, str, UserId]) -> list[int]:
    """Have such data wait; its positions."""
    new = [OutgoingEdu(server, edu_type, b"{}", user_id) for server, edu_type, user_id in edus]
    await database.write(outgoing_edus.add_many, new)
    found = {position for server, _, _ in edus for position in await waiting(database, server)}
    return sorted(found)


async def waiting(database: Database, server: ServerName) -> list[int]:
    return [edu.position for edu in await database.read(outgoing_edus.list_for, server, after=0, limit=100)]


@pytest.mark.trust("C20", "F32", "R6")
async def test_of_changes_of_devices_the_newest_of_each_user_waits(database: Database) -> None:
    kinds = [DEVICE_LIST, DEVICE_LIST, SIGNING_KEY, DEVICE_LIST, SIGNING_KEY, TO_DEVICE, TO_DEVICE]
    of_a = await add(database, *((A, kind, ALICE) for kind in kinds))
    others = await add(database, (A, DEVICE_LIST, CAROL), (B, DEVICE_LIST, ALICE), (B, DEVICE_LIST, ALICE))
    # The first is in a transaction that is under way, which stays as it is.
    assert await database.write(outgoing_edus.supersede, [A], under_way=of_a[:1], limit=10) == 2
    assert await waiting(database, A) == [of_a[0], *of_a[3:], others[-3]]
    assert len(await waiting(database, B)) == 2


@pytest.mark.trust("C19", "F32", "R6")
async def test_of_messages_to_devices_each_user_has_so_many_waiting(database: Database) -> None:
    of_a = await add(database, *[(A, TO_DEVICE, ALICE)] * 6, (A, DEVICE_LIST, ALICE), (A, TO_DEVICE, CAROL))
    await add(database, *[(B, TO_DEVICE, ALICE)] * 4)
    dropped = await database.write(outgoing_edus.drop_oldest, [A, B], under_way=of_a[:2], kept=3, limit=10)
    assert dropped == {A: 1, B: 1}
    assert await waiting(database, A) == [*of_a[:2], *of_a[3:]]
    assert len(await waiting(database, B)) == 3
