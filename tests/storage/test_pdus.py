"""Events' bytes as the database has them."""

import hashlib
from importlib import resources

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import LargeBinary, select, type_coerce

from homeserver.storage import pdus
from homeserver.storage.events import events
from tests.world import World


async def test_a_message_is_stored_small_and_read_as_it_was(world: World) -> None:
    alice = await world.user("alice")
    room_id = await alice.create_room()
    event_id = await alice.send(room_id, "Shall we meet at the harbour tomorrow?")
    as_stored = select(type_coerce(events.c.pdu, LargeBinary)).where(events.c.event_id == event_id)
    whole = select(events.c.pdu).where(events.c.event_id == event_id)
    [stored, pdu] = await world.container.database.read(
        lambda tx: [tx.connection.execute(statement).scalar_one() for statement in (as_stored, whole)]
    )
    assert b"Shall we meet at the harbour tomorrow?" in pdu
    assert len(stored) < 0.65 * len(pdu)
    assert pdus.unpack(stored) == pdu


@given(st.binary())
def test_whatever_is_packed_comes_back(pdu: bytes) -> None:
    assert pdus.unpack(pdus.pack(pdu)) == pdu


def test_what_was_stored_before_there_was_compression_is_read() -> None:
    assert pdus.unpack(b'{"type":"m.room.message"}') == b'{"type":"m.room.message"}'


def test_a_dictionary_never_changes() -> None:
    # What is stored cannot be read with another one; a better dictionary is a further file.
    dictionary = (resources.files("homeserver.storage") / "pdus-1.dictionary").read_bytes()
    assert hashlib.sha256(dictionary).hexdigest() == "df231f045e62e6130ccd65cf6f5686ed4f7fc0da8e8aba5a17a04f4db31e5e0a"
