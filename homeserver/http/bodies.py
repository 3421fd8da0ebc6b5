"""Request bodies and queries: read once, capped, decoded into typed structs with the specification's errors."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from homeserver.errors import BadJson, InvalidParam, MissingParam, NotJson, TooLarge
from homeserver.matrix import identifiers

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")

_OBJECT: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])


class Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A JSON object that a client sends. Unknown keys are ignored, as the specification's data allows them."""


class JsonObject:
    """A JSON object of no fixed shape: its text, for what is passed on as it is, and its value."""

    def __init__(self, raw: bytes, value: dict[str, Any]) -> None:
        self.raw = raw
        self.value = value


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters after the question mark."""


def identifier(parse: Callable[[str], T], text: str) -> T:
    """An identifier of a body or a path. Raises `InvalidParam`."""
    try:
        return parse(text)
    except identifiers.InvalidIdentifier as error:
        raise InvalidParam(str(error)) from None


class Empty(msgspec.Struct, frozen=True):
    """The answer `{}`."""


async def read_capped(request: Request, limit: int) -> bytes:
    """The body's bytes. Raises `TooLarge` as soon as they are more than `limit`."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"The body may have at most {limit} bytes.")
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"The body may have at most {limit} bytes.")
            chunks.append(chunk)
    except ClientDisconnect:
        raise NotJson("The connection ended before the body did.") from None
    return b"".join(chunks)


def decode_object(raw: bytes) -> JsonObject:
    """The object; unlike a struct it must be there."""
    if not raw.strip(b" \t\r\n"):
        raise NotJson("The body is empty.")
    return JsonObject(raw, decode_body(raw, _OBJECT))


def decode_body(raw: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The value. An empty body counts as `{}`; a struct's required keys then say what is missing."""
    raw = raw.strip(b" \t\r\n") or b"{}"
    try:
        raw.decode("utf-8")
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NotJson("The body is not JSON.") from None
    except RecursionError:
        raise BadJson("The body is nested too deeply.") from None


def decode_query(pairs: list[tuple[str, str]], kind: type[S]) -> S:
    """The struct. A repeated parameter is a list where the struct has one; else the last one counts."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    lists, required = _shape(kind)
    shaped = {name: (given if lists[name] else given[-1]) for name, given in values.items() if name in lists}
    for name in required:
        if name not in shaped:
            raise MissingParam(f"The query parameter {name} is missing.")
    try:
        return msgspec.convert(shaped, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidParam(_in_words(str(error))) from None


@cache
def _shape(kind: type[msgspec.Struct]) -> tuple[dict[str, bool], list[str]]:
    """For each parameter whether it is a list, and which are required; to ask the struct takes 50 µs."""
    fields = msgspec.structs.fields(kind)
    return {info.encode_name: _is_list(info.type) for info in fields}, [
        info.encode_name for info in fields if info.required
    ]


def _is_list(kind: Any) -> bool:
    return getattr(kind, "__origin__", None) in (list, tuple)


def _wrong_shape(text: str) -> BadJson | MissingParam:
    if "missing required field" in text:
        return MissingParam(_in_words(text))
    return BadJson(_in_words(text))


def _in_words(text: str) -> str:
    return text.replace("Object", "The object").replace("`$.", "`")
