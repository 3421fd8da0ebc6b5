"""When a user was in a room, by the member events that replaced one another."""

from collections.abc import Iterator

from homeserver.services.rooms.hot import parse
from homeserver.storage import events
from homeserver.storage.engine import ReadTx


def last_join(tx: ReadTx, version: str, position: int | None) -> int:
    """The newest event by which the user was in the room, from that member event backwards; 0 for never."""
    return next((at for at, membership in _backwards(tx, version, position) if membership == "join"), 0)


def joined_since(tx: ReadTx, version: str, position: int) -> int | None:
    """Where the stay began that the user is in with this member event, names changed since; None for in none."""
    began = None
    for at, membership in _backwards(tx, version, position):
        if membership != "join":
            break
        began = at
    return began


def _backwards(tx: ReadTx, version: str, position: int | None) -> Iterator[tuple[int, str | None]]:
    """The user's memberships, with the positions of their events, the newest first."""
    while position is not None:
        row = events.find_many(tx, [position])[position]
        yield position, parse(row, version).membership
        position = row.replaces
