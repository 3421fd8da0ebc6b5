"""Identifiers and their grammar (appendices, Common Identifier Format). All are case-sensitive and opaque."""

import re
from typing import NewType

UserId = NewType("UserId", str)
RoomId = NewType("RoomId", str)
EventId = NewType("EventId", str)
RoomAlias = NewType("RoomAlias", str)
DeviceId = NewType("DeviceId", str)
ServerName = NewType("ServerName", str)
Origin = NewType("Origin", ServerName)
"""The server that makes a request, as its signature proves."""

LONGEST = 255  # bytes

_LOCALPART = re.compile(r"[a-z0-9._=/+-]+")
_COMPLIANT = re.compile(r"@[!-9;-~]+:")
_SERVER_NAME = re.compile(r"(?:[0-9A-Za-z.-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_OPAQUE = re.compile(r"[0-9A-Za-z._~-]{1,255}")


class InvalidIdentifier(ValueError):
    """The text is no identifier of its kind; the message says why."""


def user_id(text: str) -> UserId:
    """The text as a user id, the historical grammar included. Raises `InvalidIdentifier`."""
    _with_domain(text, "@", "user id")
    return UserId(text)


def room_id(text: str) -> RoomId:
    """The text as a room id, with or without a domain. Raises `InvalidIdentifier`."""
    _sized(text, "!", "room id")
    return RoomId(text)


def event_id(text: str) -> EventId:
    """The text as an event id. Raises `InvalidIdentifier`."""
    _sized(text, "$", "event id")
    return EventId(text)


def room_alias(text: str) -> RoomAlias:
    """The text as a room alias. Raises `InvalidIdentifier`."""
    _with_domain(text, "#", "room alias")
    return RoomAlias(text)


def device_id(text: str) -> DeviceId:
    """The text as a device id: no grammar, but a size, and nothing that a database could not hold."""
    if not text or len(text.encode()) > LONGEST or "\0" in text:
        raise InvalidIdentifier("A device id has 1 to 255 bytes.")
    return DeviceId(text)


def server_name(text: str) -> ServerName:
    """The text as a server name. Raises `InvalidIdentifier`."""
    if not is_server_name(text):
        raise InvalidIdentifier("A server name is a host, and a port if need be.")
    return ServerName(text)


def is_new_localpart(text: str) -> bool:
    """Whether a new account may have this localpart."""
    return _LOCALPART.fullmatch(text) is not None


def is_compliant(text: UserId) -> bool:
    """Whether clients are told of a user with this id outside of events (appendices, Historical User IDs)."""
    return _COMPLIANT.match(text) is not None


def is_opaque(text: str) -> bool:
    """Whether the text is an opaque identifier (appendices, Opaque Identifiers)."""
    return _OPAQUE.fullmatch(text) is not None


def is_server_name(text: str) -> bool:
    """Whether the text is a server name."""
    return _SERVER_NAME.fullmatch(text) is not None


def domain_of(identifier: str) -> str:
    """What stands behind the first colon; empty for a room id without a domain."""
    return identifier.partition(":")[2]


def localpart_of(identifier: str) -> str:
    """What stands between the sigil and the first colon."""
    return identifier[1:].partition(":")[0]


def _sized(text: str, sigil: str, kind: str) -> None:
    if not text.startswith(sigil) or len(text) < 2:
        raise InvalidIdentifier(f"A {kind} begins with {sigil}.")
    if len(text.encode("utf-8", "surrogatepass")) > LONGEST:
        raise InvalidIdentifier(f"A {kind} has at most {LONGEST} bytes.")
    if "\0" in text:
        raise InvalidIdentifier(f"A {kind} has no NUL in it.")


def _with_domain(text: str, sigil: str, kind: str) -> None:
    _sized(text, sigil, kind)
    if not is_server_name(domain_of(text)):
        raise InvalidIdentifier(f"A {kind} ends in a colon and a server name.")
