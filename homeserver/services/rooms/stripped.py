"""Stripped state: what somebody who is not in a room is told of it, invited or knocking (client-server API).

Between servers it is whole events, so that whoever is told of a room can check that its server does not lie
(server-server API, Inviting to a room).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from homeserver.errors import InvalidParam
from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.events import Event, MalformedEvent
from homeserver.matrix.identifiers import RoomId
from homeserver.matrix.room_versions import RoomVersion
from homeserver.services.rooms.author import Drafts
from homeserver.services.rooms.signatures import Signatures

STRIPPED = (
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
)
"""The types of these events, all with an empty state key."""
_MOST = 100
_LARGEST = 1 << 18
_MOST_KEPT = 1 << 15
"""So many bytes are kept: they are in each answer to a sync from the beginning, for as long as the invite is open."""
_PATIENCE_S = 2.0

Json = dict[str, Any]


class _Stripped(msgspec.Struct, frozen=True):
    """What older servers send."""

    type: str
    state_key: str
    sender: str
    content: Json


_decode = msgspec.json.Decoder(_Stripped).decode


class Stripper:
    """Makes stripped state of what other servers say about a room."""

    def __init__(self, signatures: Signatures) -> None:
        self._signatures = signatures

    async def strip(
        self, version: RoomVersion, room_id: RoomId, entries: Sequence[bytes], *, is_strict: bool
    ) -> list[bytes]:
        """The stripped events, one for each type and state key.

        What is no event of the room, or wrongly signed, is an `InvalidParam` where one is strict, as is a missing
        create event. Else it is left out, but that events may have come stripped. What cannot be proven soon is left
        out, too: nobody's invite hangs on whether the server is still there whose user once set the topic.
        """
        if len(entries) > _MOST or sum(map(len, entries)) > _LARGEST:
            if is_strict:
                raise InvalidParam("The state of the room that came along is too large.")
            entries = ()
        kept: list[Event | bytes] = []
        for entry in entries:
            try:
                kept.append(_whole(entry, version, room_id))
            except (CanonicalJsonError, MalformedEvent) as error:
                if is_strict:
                    raise InvalidParam(f"The state of the room has what is no event of it: {error}") from None
                if (stripped := _as_stripped(entry)) is not None:
                    kept.append(stripped)
        whole = [event for event in kept if isinstance(event, Event)]
        wrong = dict(zip(map(id, whole), await self._signatures.check(whole, patience_s=_PATIENCE_S), strict=True))
        if is_strict:
            for doubt in wrong.values():
                if doubt is not None and doubt.is_wrong:
                    raise InvalidParam(doubt.reason)
            creates = [event for event in whole if _is_create_of(event, version)]
            if not creates:
                raise InvalidParam("The create event is not in the state of the room.")
            # It proves itself where one is strict: the room's id is its hash.
            wrong.update((id(event), None) for event in creates)
        return _distinct([event for event in kept if wrong.get(id(event)) is None])


def stripped_state(drafts: Drafts) -> list[bytes]:
    """The events that say to somebody outside what room it is."""
    found = (drafts.state(type_) for type_ in STRIPPED)
    return [event.pdu for event in found if event is not None]


def _whole(entry: bytes, version: RoomVersion, room_id: RoomId) -> Event:
    """The state event, redacted if it is not as it was hashed. Raises `MalformedEvent`, or `CanonicalJsonError`."""
    event = Event.parse(entry, version.identifier)
    if event.room_id != room_id or event.state_key is None:
        raise MalformedEvent("It is of another room, or no state.")
    return event if event.content_hash_matches() else event.redacted()


def _as_stripped(entry: bytes) -> bytes | None:
    """An event that came stripped, if it is nothing but that: what is signed has to pass as a whole."""
    try:
        value = msgspec.json.decode(entry)
        if not isinstance(value, dict) or "signatures" in value:
            return None
        return msgspec.json.encode(_decode(entry))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _is_create_of(event: Event, version: RoomVersion) -> bool:
    return event.type == "m.room.create" and event.content.get("room_version", "1") == version.identifier


def _distinct(found: Sequence[Event | bytes]) -> list[bytes]:
    stripped = [one.stripped_json() if isinstance(one, Event) else one for one in found]
    decoded = [_decode(one) for one in stripped]
    last = {(one.type, one.state_key): index for index, one in enumerate(decoded)}
    return [stripped[index] for index in sorted(_smallest(stripped, last.values()))]


def _smallest(stripped: Sequence[bytes], indexes: Iterable[int]) -> list[int]:
    """Those that are kept: one long topic shall not cost the room its name."""
    kept, size = [], 0
    for index in sorted(indexes, key=lambda index: len(stripped[index])):
        size += len(stripped[index])
        if size > _MOST_KEPT:
            break
        kept.append(index)
    return kept
