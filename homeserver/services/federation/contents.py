"""What other servers tell, taken apart: of the wrong shape, or of others than their own users, it is refused."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from homeserver.errors import BadJson, Forbidden, InvalidParam
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import InvalidIdentifier, ServerName, UserId, domain_of

T = TypeVar("T")


def decoded(content: dict[str, Any], kind: type[T]) -> T:
    """The content as a struct of this kind. Raises `BadJson`."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise BadJson(str(error)) from None


def identifier(parse: Callable[[str], T], text: str) -> T:
    """The text as an identifier. Raises `InvalidParam`."""
    try:
        return parse(text)
    except InvalidIdentifier as error:
        raise InvalidParam(str(error)) from None


def user_of(origin: ServerName, text: str) -> UserId:
    """The text as a user of the server. Raises `InvalidParam`, or `Forbidden` for another server's.

    Users whose ids have characters that only old ones have are taken in events alone (appendices, Historical User IDs).
    """
    user_id = identifier(identifiers.user_id, text)
    if domain_of(user_id) != origin:
        raise Forbidden("A server tells of its own users only.")
    if not identifiers.is_compliant(user_id):
        raise InvalidParam("Users with such an id are heard of in events only.")
    return user_id
