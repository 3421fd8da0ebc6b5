"""Signed requests between servers (server-server API, Request Authentication)."""

import re
from dataclasses import dataclass

import msgspec

from homeserver.matrix.canonical import canonicalize
from homeserver.matrix.signing import SigningKey, verify_signature

_TCHAR = r"!#$%&'*+\-.^_`|~0-9A-Za-z"
# Servers of old quote nothing: a colon is allowed for their sake, and what else a name, a key or a signature has in it.
_UNQUOTED = _TCHAR + r":/=\[\]"
_PARAMETER = re.compile(
    rf'([{_TCHAR}]+)[ \t]*=[ \t]*(?:"((?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*)"|([{_UNQUOTED}]+))'
)
_COMMAS = re.compile(r"[ \t]*,[ \t,]*")
_ESCAPED = re.compile(r"\\(.)")
_LONGEST = 4096
_quote = msgspec.json.encode


class MalformedHeader(ValueError):
    """The header is not what it should be; the message says what is wrong."""


def is_x_matrix(header: str) -> bool:
    """Whether an Authorization header is one that servers sign with."""
    return header.partition(" ")[0].lower() == "x-matrix"


@dataclass(frozen=True, slots=True)
class XMatrix:
    """What an `Authorization: X-Matrix` header says. Old servers leave the destination out."""

    origin: str
    destination: str | None
    key_id: str
    signature: str

    @classmethod
    def parse(cls, header: str) -> "XMatrix":
        """The values of a header. Raises `MalformedHeader`."""
        if not is_x_matrix(header):
            raise MalformedHeader("The request needs an Authorization header of the scheme X-Matrix.")
        rest = header[len("X-Matrix") :]
        if len(rest) > _LONGEST:
            raise MalformedHeader("The Authorization header is too long.")
        values = _parameters(rest.lstrip(" ").rstrip(" \t"))
        for name in ("origin", "key", "sig"):
            if not values.get(name):
                raise MalformedHeader(f"The Authorization header names no {name}.")
        return cls(values["origin"], values.get("destination"), values["key"], values["sig"])

    def __str__(self) -> str:
        """The header; servers of old want one blank, lower case, and no backslashes."""
        return (
            f'X-Matrix origin="{self.origin}",destination="{self.destination}",key="{self.key_id}",'
            f'sig="{self.signature}"'
        )


def sign_request(
    key: SigningKey, *, origin: str, destination: str, method: str, target: str, content: bytes | None
) -> XMatrix:
    """The header of a request. `target` is the path and the query as they are sent, `content` the body, JSON."""
    message = _message(origin, destination, method, target, content)
    return XMatrix(origin, destination, key.key_id, key.sign(message))


def verify_request(
    header: XMatrix, public_key: str, *, method: str, target: str, content: bytes | None, destination: str
) -> None:
    """Raise `SignatureError` or `CanonicalJsonError` unless the request is signed with the key."""
    said = None if header.destination is None else destination
    verify_signature(_message(header.origin, said, method, target, content), header.signature, public_key)


def _parameters(text: str) -> dict[str, str]:
    """The values by name (RFC 9110, Authentication Parameters; nothing between two commas is nothing)."""
    values: dict[str, str] = {}
    at = _after_commas(text, 0)
    while at < len(text):
        found = _PARAMETER.match(text, at)
        if found is None:
            raise MalformedHeader("The Authorization header is not a list of name=value pairs.")
        name = found[1].lower()
        if name in values:
            raise MalformedHeader("The Authorization header gives one name twice.")
        values[name] = found[3] if found[2] is None else _unescaped(found[2])
        at = _after_commas(text, found.end())
        if at == found.end() < len(text):
            raise MalformedHeader("The Authorization header has no comma between two values.")
    return values


def _after_commas(text: str, at: int) -> int:
    commas = _COMMAS.match(text, at)
    return at if commas is None else commas.end()


def _unescaped(text: str) -> str:
    # To look for what is hardly ever there costs more than all the rest of the header.
    return _ESCAPED.sub(r"\1", text) if "\\" in text else text


def _message(origin: str, destination: str | None, method: str, target: str, content: bytes | None) -> bytes:
    """What is signed, in canonical JSON: the keys are in order, and only the content can be out of it."""
    parts = []
    if content is not None:
        parts.append(b'"content":' + canonicalize(content, strict=False))
    if destination is not None:
        parts.append(b'"destination":' + _quote(destination))
    parts += [b'"method":' + _quote(method), b'"origin":' + _quote(origin), b'"uri":' + _quote(target)]
    return b"{" + b",".join(parts) + b"}"
