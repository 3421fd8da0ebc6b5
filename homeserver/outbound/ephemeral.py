"""What other servers are told while it is new: typing, presence, receipts. It is in memory only, and bounded.

Of what is said again under the same key, the newest wins; where a server takes nothing for a while, the oldest goes.
What a server does not take at all (it is known to be down) is not kept for it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from homeserver.matrix.identifiers import ServerName

_MOST = 200
"""So many for one server."""
_MOST_SERVERS = 20_000


@dataclass(frozen=True, slots=True)
class EphemeralEdu:
    """Data that is no event; `content` is a JSON object."""

    edu_type: str
    content: bytes


_Waiting = OrderedDict[tuple[str, str], EphemeralEdu]


class Ephemeral:
    """Data that waits for being sent, by server."""

    def __init__(self) -> None:
        self._waiting: dict[ServerName, _Waiting] = {}
        self._fresh: set[ServerName] = set()
        self._changed = asyncio.Event()
        self.deaf: set[ServerName] = set()
        """Servers for which nothing is kept."""

    def put(self, destinations: Iterable[ServerName], edu_type: str, key: str, content: bytes) -> None:
        """Have this sent, in the place of what still waits under the same type and key (a room, or a user)."""
        edu = EphemeralEdu(edu_type, content)
        for destination in destinations:
            if destination in self.deaf:
                continue
            waiting = self._waiting.get(destination)
            if waiting is None:
                if len(self._waiting) >= _MOST_SERVERS:
                    continue
                waiting = self._waiting[destination] = OrderedDict()
            waiting.pop((edu_type, key), None)
            waiting[edu_type, key] = edu
            if len(waiting) > _MOST:
                waiting.popitem(last=False)
            self._fresh.add(destination)
        if self._fresh:
            self._changed.set()

    def has(self, destination: ServerName) -> bool:
        """Whether something waits for the server."""
        return destination in self._waiting

    def take(self, destination: ServerName, limit: int) -> list[EphemeralEdu]:
        """What waits for the server, the oldest first; it is given once."""
        waiting = self._waiting.get(destination)
        if waiting is None:
            return []
        taken = [waiting.popitem(last=False)[1] for _ in range(min(limit, len(waiting)))]
        if not waiting:
            del self._waiting[destination]
        return taken

    def forget(self, destination: ServerName) -> None:
        """Keep nothing for the server from now on, until it is taken from `deaf`."""
        self.deaf.add(destination)
        self._waiting.pop(destination, None)
        self._fresh.discard(destination)

    async def fresh(self) -> set[ServerName]:
        """Wait until something was put; for whom."""
        await self._changed.wait()
        self._changed.clear()
        fresh, self._fresh = self._fresh, set()
        return fresh
