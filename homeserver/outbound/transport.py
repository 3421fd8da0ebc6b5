"""What carries a request to another server, and brings the answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from homeserver.errors import Unreachable
from homeserver.matrix.identifiers import ServerName


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request to another server."""

    operation: str
    """What is asked, as the specification names it (`getServerKey`)."""
    destination: ServerName
    method: str
    target: str
    """The path and the query, as they are to be sent."""
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    timeout_s: float
    largest: int
    """So many bytes at most are to be read of the answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it came. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """Over TLS to where the name leads, or, in tests, from one server to the next within one process."""

    async def exchange(self, call: Call) -> Reply:
        """The answer of a server to a request.

        Raises `Unreachable` where there is none: no address, no connection, no trust, no answer in time, or one that
        is too large (`AnswerTooLarge`).
        """
        ...

    async def fetch(
        self, url: str, *, timeout_s: float, largest: int, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """What is at an `https:` address, redirects followed, each to an address that may be connected to.

        Raises `Unreachable`.
        """
        ...


class Nowhere:
    """A transport for servers that are alone in the world."""

    async def exchange(self, call: Call) -> Reply:
        """Raise `Unreachable`."""
        raise Unreachable("This server does not speak to others.")

    async def fetch(
        self, url: str, *, timeout_s: float, largest: int, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Raise `Unreachable`."""
        raise Unreachable("This server does not speak to others.")
