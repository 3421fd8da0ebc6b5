"""Events in the format of their room version: parse, build, redact, show to clients.

:class:`Event` is immutable. ``Event.parse(pdu, version, event_id=None)`` takes an event in federation format out of
storage or from another server, drops ``unsigned``, checks types and sizes, and computes the event id unless the
caller knows it. Whatever is wrong, it raises :class:`MalformedEvent`, or its subclass :class:`EventTooLarge`.
The numbers of ``prev_events`` and ``auth_events`` are not limited here: backfilled events may exceed the limits.

Attributes: ``event_id``, ``room_id`` (for a create event of version 12 derived from the event id), ``type``,
``state_key``, ``is_state``, ``sender``, ``depth``, ``origin_server_ts``, ``room_version``, ``redacts`` (from where the
version has it, only of ``m.room.redaction``), ``prev_events`` and ``auth_events`` (ids), ``membership`` (of a member
event), ``pdu`` (canonical JSON in federation format without ``unsigned``), ``size`` (of ``pdu`` in bytes), ``content``
(a new dict at each access), ``content_json``, ``signatures`` (a new dict), ``reference_hash`` (standard base64).

Methods: ``client_json(*, include_room_id=True)`` is the client format without ``unsigned``, made once; redactions
have ``redacts`` at the top level and in the content. ``stripped_json()`` is stripped state. ``redacted()`` is the
event after a redaction, under the same id. ``content_hash_matches()`` tells whether the event is as its server
made it; if not, only ``redacted()`` may be used.

``build_event(version, *, server_name, key, room_id, type, sender, state_key, content, ...) -> Event``
    Makes, hashes and signs an event. ``room_id`` is None for a create event of version 12; ``event_id`` is needed in
    versions 1 and 2 and forbidden in others; ``redacts`` goes to where the version has it, and a client's
    ``content.redacts`` moves to the top level before version 11. ``depth`` is held at the version's limit.
    Raises CanonicalJsonError for the content, EventTooLarge, MalformedEvent.

``build_template(version, *, room_id, ...) -> bytes``
    The same without hashes and signatures: what ``make_join`` answers. ``signing.sign_pdu`` finishes it.

``receive_events(pdus, version) -> list[tuple[Event, bool] | str]``
    Many events that came from elsewhere, parsed without the interpreter lock: each with whether its content hash
    matches, or what is wrong with it.

``redact_pdu(pdu, version) -> bytes`` and ``event_id_of(pdu, version) -> str``
    Redaction and event id of JSON text that need not be a complete event.
"""

from homeserver._rust.errors import EventTooLarge, MalformedEvent
from homeserver._rust.events import (
    Event,
    build_event,
    build_template,
    event_id_of,
    receive_events,
    redact_pdu,
)

__all__ = [
    "Event",
    "EventTooLarge",
    "MalformedEvent",
    "build_event",
    "build_template",
    "event_id_of",
    "receive_events",
    "redact_pdu",
]
