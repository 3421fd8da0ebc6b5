"""What the content of an event must look like for this server to say it, beyond what the authorisation rules ask.

Only types that servers or all clients depend on are checked, and only when a local user sends them: events of other
servers, and older ones, are taken as the rules of their room version allow.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType


class BadContent(ValueError):
    """The content is not of the shape that its type demands; the message says where."""


class _Message(Struct):
    msgtype: str
    body: str


class _PowerLevels(Struct):
    users: dict[str, int] | UnsetType = UNSET
    events: dict[str, int] | UnsetType = UNSET
    notifications: dict[str, int] | UnsetType = UNSET
    users_default: int | UnsetType = UNSET
    events_default: int | UnsetType = UNSET
    state_default: int | UnsetType = UNSET
    ban: int | UnsetType = UNSET
    kick: int | UnsetType = UNSET
    redact: int | UnsetType = UNSET
    invite: int | UnsetType = UNSET


class _CanonicalAlias(Struct):
    alias: str | None = None
    alt_aliases: list[str] | None = None


class _Member(Struct):
    membership: str
    displayname: str | None = None
    avatar_url: str | None = None
    reason: str | None = None
    is_direct: bool | None = None


class _Predecessor(Struct):
    room_id: str
    event_id: str | UnsetType = UNSET


class _Create(Struct):
    federate: bool | UnsetType = msgspec.field(default=UNSET, name="m.federate")
    type: str | UnsetType = UNSET
    predecessor: _Predecessor | UnsetType = UNSET


_MESSAGES: dict[str, msgspec.json.Decoder[Any]] = {"m.room.message": msgspec.json.Decoder(_Message)}
_STATE: dict[str, msgspec.json.Decoder[Any]] = {
    "m.room.canonical_alias": msgspec.json.Decoder(_CanonicalAlias),
    "m.room.create": msgspec.json.Decoder(_Create),
    "m.room.member": msgspec.json.Decoder(_Member),
    "m.room.power_levels": msgspec.json.Decoder(_PowerLevels),
}


def check_content(type_: str, content: bytes, *, is_state: bool) -> None:
    """Raise `BadContent` where the content, the text of a JSON object, cannot be that of an event of this type."""
    decoder = (_STATE if is_state else _MESSAGES).get(type_)
    if decoder is None:
        return
    try:
        decoder.decode(content)
    except msgspec.DecodeError as error:
        raise BadContent(f"This is no content of {type_}: {error}") from None
