"""The servers to which this one sends.

What is known of each is in parts, each of which changes by its own methods: what the server is still to have
(`Pending`), how far it has got (`Progress`), how it goes with the transaction under way (`Attempt`), and since when it
has been waiting (`Age`). Whose turn it is, `Turns` alone knows.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from homeserver.consumers.federation.pending import Pending
from homeserver.consumers.federation.progress import Progress
from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.ephemeral import Ephemeral
from homeserver.storage.destinations import Destination
from homeserver.storage.outgoing_edus import StoredEdu


@dataclass(slots=True, eq=False)
class Attempt:
    """The transaction under way, as far as it is not written down; a new one for each."""

    fetched: list[StoredEdu] | None = None
    """Its data, as far as it was just read."""
    tries: int = 0
    """How often it was sent in vain."""
    blamed: int = 0
    """How often it was not taken while an empty one was."""

    def take_fetched(self) -> list[StoredEdu] | None:
        """Its data, the first time it is sent."""
        fetched, self.fetched = self.fetched, None
        return fetched

    def fail(self) -> None:
        """It was sent in vain."""
        self.tries += 1

    def blame(self) -> None:
        """It was not taken while an empty one was."""
        self.blamed += 1


@dataclass(slots=True, eq=False)
class Age:
    """Since when there has been something for a server, by the monotonic clock."""

    since: float | None = None
    _packed_all_at: float | None = field(default=None, init=False)
    """When the transaction under way was made, if all that there was went into it."""

    def begin(self, now: float) -> None:
        """There is something for it, if there was nothing before."""
        if self.since is None:
            self.since = now

    def pack(self, now: float, *, is_all: bool) -> None:
        """A transaction was begun then, into which all there was has gone, or some of it."""
        self.begin(now)
        self._packed_all_at = now if is_all else None

    def conclude(self, *, is_waiting: bool) -> None:
        """A transaction is done with. If all there was went into it, whatever there is for it now came later."""
        if self._packed_all_at is not None:
            self.since = self._packed_all_at if is_waiting else None
            self._packed_all_at = None

    def end(self) -> None:
        """There is nothing for it."""
        self.since = None


@dataclass(slots=True, eq=False)
class Recipient:
    """A server, what it is to have next, and how it goes."""

    progress: Progress
    pending: Pending = field(default_factory=Pending)
    attempt: Attempt = field(default_factory=Attempt)
    age: Age = field(default_factory=Age)
    packing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a transaction is made, and while what waits for one is bounded."""

    @property
    def name(self) -> ServerName:
        """The server's name."""
        return self.progress.row.server_name


class Recipients:
    """All servers that this one has to do with since it was started."""

    def __init__(self, own: ServerName, ephemeral: Ephemeral) -> None:
        self.own = own
        self.tail = 0
        """Of the events up to this position it is known whom they concern."""
        self._ephemeral = ephemeral
        self._recipients: dict[ServerName, Recipient] = {}

    def __len__(self) -> int:
        return len(self._recipients)

    def __iter__(self) -> Iterator[Recipient]:
        return iter(self._recipients.values())

    def find(self, server: ServerName) -> Recipient | None:
        """The server, if there was ever something for it."""
        return self._recipients.get(server)

    def ensure(self, server: ServerName) -> Recipient:
        """The server."""
        recipient = self._recipients.get(server)
        # Whoever lacked something at the start is known: this one has all that there was for it.
        return recipient or self.add(Destination(server, delivered=self.tail))

    def add(self, row: Destination) -> Recipient:
        """A new one."""
        recipient = self._recipients[row.server_name] = Recipient(Progress(row))
        return recipient

    def has_more(self, recipient: Recipient) -> bool:
        """Whether something waits for the server that is not in a transaction yet."""
        return recipient.pending.is_any or self._ephemeral.has(recipient.name)

    def has_work(self, recipient: Recipient) -> bool:
        """Whether there is something to be sent to the server."""
        is_under_way = recipient.progress.row.txn is not None
        return is_under_way or not recipient.pending.is_greeted or self.has_more(recipient)
