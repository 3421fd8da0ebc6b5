"""Refusals of other servers, as clients of this one are told of them."""

import re

from homeserver.errors import Refused, RemoteFailure, RequestError, Unsupported

_LONGEST = 500
_ERRCODE = re.compile(r"[A-Z][A-Z0-9_.]{0,99}")
_NOT_FOR_CLIENTS = {
    "M_INVALID_PARAM",
    "M_MISSING_PARAM",
    "M_MISSING_TOKEN",
    "M_UNAUTHORIZED",
    "M_UNKNOWN_TOKEN",
    "M_UNRECOGNIZED",
    "M_USER_DEACTIVATED",
    "M_USER_LOCKED",
    "M_USER_SUSPENDED",
}
"""What these say is about our request, or could be taken to be about the client's own session."""
_TELLING = {403: 3, 400: 2, 404: 1}
"""Of several refusals that one is passed on which says most."""


def for_client(failure: RemoteFailure) -> RequestError | RemoteFailure:
    """The failure as our client is told of it: a refusal with its reason, all else as trouble between servers."""
    if not isinstance(failure, Refused) or failure.status not in _TELLING or failure.errcode in _NOT_FOR_CLIENTS:
        return failure
    if _ERRCODE.fullmatch(failure.errcode) is None:
        return failure
    version = failure.body.get("room_version")
    details = {"room_version": version} if isinstance(version, str) and version.isprintable() else {}
    return Unsupported(failure.errcode, words_of(failure), status=failure.status, **details)


def words_of(refusal: Refused) -> str:
    """What the other server says, if that can be shown."""
    words = "".join(char for char in refusal.message[:_LONGEST] if char.isprintable())
    return words or "The other server refuses it."


def tells(failure: RemoteFailure) -> int:
    """How much a failure says; that which says most is passed on."""
    return _TELLING.get(failure.status, 0) if isinstance(failure, Refused) else 0
