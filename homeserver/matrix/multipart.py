"""Files as servers give them to each other: `multipart/mixed` of two parts (server-server API, Content Repository)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

_LONGEST_HEADERS = 8192
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,199}[0-9A-Za-z'()+_,./:=?-]")
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,127}/[!#$%&'*+.^_`|~0-9A-Za-z-]{1,127}")
_LONGEST_TYPE = 255
_LONGEST_NAME = 255


class MalformedMultipart(ValueError):
    """The bytes are not what they should be; the message says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part; names of headers are in lower case."""

    headers: Mapping[str, str]
    body: bytes


def file_part(content_type: str, body: bytes) -> Part:
    """The part that has the file, or says where it is: the second of exactly two, the first being JSON.

    Raises `MalformedMultipart`.
    """
    kind, parameters = parameters_of(content_type)
    boundary = parameters.get("boundary", "")
    if kind != "multipart/mixed" or _BOUNDARY.fullmatch(boundary) is None:
        raise MalformedMultipart("It is no multipart answer with a boundary.")
    delimiter = b"--" + boundary.encode("ascii")
    at, is_last = _after_delimiter(body, delimiter, _find_first(body, delimiter))
    spans: list[tuple[int, int]] = []
    while not is_last:
        end = body.find(b"\r\n" + delimiter, at - 2)
        if end < 0 or len(spans) == 2:
            raise MalformedMultipart("It has no end." if end < 0 else "It has more than two parts.")
        spans.append((at, max(at, end)))
        at, is_last = _after_delimiter(body, delimiter, end + 2)
    if len(spans) != 2:
        raise MalformedMultipart("It does not have two parts.")
    if parameters_of(_part(body, *spans[0]).headers.get("content-type", ""))[0] != "application/json":
        raise MalformedMultipart("Its first part is not JSON.")
    return _part(body, *spans[1])


def parameters_of(value: str) -> tuple[str, dict[str, str]]:
    """A header like `Content-Type`: its value in lower case, and its parameters, whose names are in lower case."""
    pieces = _split(value[:_LONGEST_HEADERS])
    found: dict[str, str] = {}
    for piece in pieces[1:]:
        name, _, text = piece.partition("=")
        text = text.strip()
        if len(text) >= 2 and text[0] == text[-1] == '"':
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        found.setdefault(name.strip().lower(), text)
    return pieces[0].strip().lower(), found


def safe_type(value: str | None) -> str | None:
    """The content type, if it is one and has nothing in it that could do harm."""
    if value is None or len(value) > _LONGEST_TYPE or not all(" " <= char <= "~" for char in value):
        return None
    return value if _MEDIA_TYPE.fullmatch(parameters_of(value)[0]) is not None else None


def filename_of(disposition: str | None) -> str | None:
    """The name of the file in a `Content-Disposition`, if it has a usable one."""
    _, parameters = parameters_of(disposition or "")
    name = parameters.get("filename")
    charset, _, rest = parameters.get("filename*", "").partition("'")
    if charset.lower() in ("utf-8", "us-ascii") and "'" in rest:
        name = unquote(rest.partition("'")[2], errors="replace")
    if not name:
        return None
    name = "".join(char for char in name if char.isprintable() and char not in "/\\")
    return name[:_LONGEST_NAME].encode("utf-8", "replace").decode() or None


def _find_first(body: bytes, delimiter: bytes) -> int:
    """Where the first delimiter is: at the beginning, or behind lines that do not count."""
    if body.startswith(delimiter):
        return 0
    found = body.find(b"\r\n" + delimiter, 0, _LONGEST_HEADERS)
    if found < 0:
        raise MalformedMultipart("It does not begin.")
    return found + 2


def _after_delimiter(body: bytes, delimiter: bytes, at: int) -> tuple[int, bool]:
    """Where the part behind a delimiter begins, and whether there is none."""
    at += len(delimiter)
    if body[at : at + 2] == b"--":
        return at, True
    # Blanks may stand behind the boundary.
    end = body.find(b"\r\n", at, at + 100)
    if end < 0 or body[at:end].strip(b" \t"):
        raise MalformedMultipart("A boundary does not end.")
    return end + 2, False


def _part(body: bytes, start: int, end: int) -> Part:
    if body.startswith(b"\r\n", start):
        return Part({}, body[start + 2 : max(start + 2, end)])
    stop = body.find(b"\r\n\r\n", start, min(end + 4, start + _LONGEST_HEADERS))
    if stop < 0:
        raise MalformedMultipart("The headers of a part do not end.")
    headers: dict[str, str] = {}
    for line in body[start:stop].decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon:
            raise MalformedMultipart("A part has a header without a colon.")
        headers.setdefault(name.strip().lower(), value.strip())
    return Part(headers, body[min(stop + 4, end) : end])


def _split(value: str) -> list[str]:
    """What stands between semicolons that are not within quotes."""
    pieces, start, is_quoted, is_escaped = [], 0, False, False
    for at, char in enumerate(value):
        if is_escaped:
            is_escaped = False
        elif is_quoted and char == "\\":
            is_escaped = True
        elif char == '"':
            is_quoted = not is_quoted
        elif char == ";" and not is_quoted:
            pieces.append(value[start:at])
            start = at + 1
    return [*pieces, value[start:]]
