"""What relations a client may not make (client-server API, Avoiding duplicate annotations, Validation of threads)."""

import msgspec

from homeserver.errors import Unsupported
from homeserver.matrix.identifiers import EventId, UserId
from homeserver.matrix.relations import ANNOTATION, THREAD, relates_to, relation_in
from homeserver.services.rooms.hot import HotRoom, parse
from homeserver.storage import events, relations
from homeserver.storage.engine import ReadTx


def check_relation(tx: ReadTx, room: HotRoom, user_id: UserId, type_: str, content: bytes) -> None:
    """Refuse a relation that says the same twice (`M_DUPLICATE_ANNOTATION`), or a thread upon a relation."""
    related = relation_in(msgspec.json.decode(content))
    if related is None or room.room_nid is None:
        return
    parent_id = EventId(related.event_id)
    if related.rel_type == THREAD:
        root = events.find_by_id(tx, room.room_nid, parent_id)
        if root is not None and relates_to(parse(root, room.version.identifier)) is not None:
            raise Unsupported("M_UNKNOWN", "A thread cannot begin at an event that relates to another.")
    elif (
        related.rel_type == ANNOTATION
        and related.key is not None
        and relations.is_annotated(tx, room.room_nid, parent_id, type_=type_, sender=user_id, key=related.key)
    ):
        raise Unsupported("M_DUPLICATE_ANNOTATION", "You have said this of the event already.")
