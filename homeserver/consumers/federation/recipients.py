"""The servers to which this one sends, and what each is to have next.

For servers that keep up, the positions of what comes next are in memory, a few hundred at most. Any other is behind:
nothing is kept for it, and what it lacks is looked up when it is its turn.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.ephemeral import Ephemeral
from homeserver.storage.destinations import Destination
from homeserver.storage.outgoing_edus import StoredEdu

_MOST_QUEUED = 200
"""So many positions of a server are in memory."""


class Stage(Enum):
    """Where a server is on the way to its next transaction."""

    AT_REST = auto()
    """There is nothing for it; or it is down, and a timer runs."""
    QUEUED = auto()
    """It waits for its turn."""
    SERVED = auto()
    """A transaction is being made for it, or is under way."""


@dataclass(slots=True, eq=False)
class Recipient:
    """A server, and what it is to have next."""

    row: Destination
    stage: Stage = Stage.AT_REST
    queue: deque[int] = field(default_factory=deque)
    """Positions of events, the oldest first: all that it is to have, unless it is behind."""
    is_behind: bool = False
    """What it is to have has to be looked up."""
    has_edus: bool = False
    """There is data for it, behind `edus_after`."""
    edus_after: int = 0
    has_grown: bool = False
    """More data has come for it than what waits was last bounded with."""
    packing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a transaction is made, and while what waits for one is bounded."""
    fetched: list[StoredEdu] | None = None
    """Data of the transaction under way, as far as it was just read."""
    is_greeted: bool = True
    """It need not be told that this server is there again."""
    tries: int = 0
    """How often the transaction under way was sent in vain."""
    blamed: int = 0
    """How often it was not taken while an empty one was."""
    good: int = 0
    """How many in a row were taken while they are smaller than they may be."""
    waiting_since: float | None = None
    """Since when there has been something for it, by the monotonic clock."""
    packed_all_at: float | None = None
    """When the transaction under way was made, if all that there was went into it."""
    due: float = 0.0
    """When its timer ends."""
    noted_success_ts: int = 0
    is_dirty: bool = False
    """There is something to write down that can wait."""

    @property
    def name(self) -> ServerName:
        """The server's name."""
        return self.row.server_name

    def fall_behind(self) -> None:
        """Keep nothing for it: what it lacks is looked up when it is its turn."""
        self.is_behind = True
        self.queue.clear()

    def enqueue(self, position: int) -> bool:
        """The event at this position is for the server; whether that was news."""
        if self.is_behind:
            return False
        if len(self.queue) >= _MOST_QUEUED:
            self.fall_behind()
            return False
        self.queue.append(position)
        return True


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
        """The server's, if there was ever something for it."""
        return self._recipients.get(server)

    def ensure(self, server: ServerName) -> Recipient:
        """The server's."""
        recipient = self._recipients.get(server)
        # Whoever lacked something at the start is known: this one has all that there was for it.
        return recipient or self.add(Destination(server, delivered=self.tail))

    def add(self, row: Destination) -> Recipient:
        """A new one."""
        recipient = self._recipients[row.server_name] = Recipient(row)
        return recipient

    def has_work(self, recipient: Recipient) -> bool:
        """Whether there is something to be sent to the server."""
        return bool(
            recipient.row.txn is not None
            or recipient.queue
            or recipient.is_behind
            or recipient.has_edus
            or not recipient.is_greeted
            or self._ephemeral.has(recipient.name)
        )
