"""When a user was in a room, by the member events that replaced one another."""

from collections.abc import Iterator
from itertools import pairwise

from homeserver.services.rooms.hot import parse
from homeserver.storage import events
from homeserver.storage.engine import ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.members import Member


def last_end(tx: ReadTx, version: str, position: int) -> StoredEvent | None:
    """The event that ended the user's last stay, from a member event of no stay backwards; None for never there."""
    for later, earlier in pairwise(_backwards(tx, position)):
        if parse(earlier, version).membership == "join":
            return later
    return None


def joined_since(tx: ReadTx, version: str, position: int) -> int | None:
    """Where the stay began that the user is in with this member event, names changed since; None for in none."""
    began = None
    for row in _backwards(tx, position):
        if parse(row, version).membership != "join":
            break
        began = row.came_at
    return began


def is_joined_since(tx: ReadTx, version: str, member: Member, since: int) -> bool:
    """Whether the stay of somebody who is in the room had begun by then."""
    if member.position <= since:
        return True
    began = joined_since(tx, version, member.event)
    return began is not None and began <= since


def _backwards(tx: ReadTx, position: int | None) -> Iterator[StoredEvent]:
    """The state event at the position, the one that it replaced, and so on back."""
    while position is not None:
        row = events.find_many(tx, [position])[position]
        yield row
        position = row.replaces
