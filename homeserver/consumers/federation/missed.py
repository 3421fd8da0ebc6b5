"""What a server lacks that was away: all of it, or the newest event of each room.

Whoever lacks much is sent the newest event of each room: it fetches what lies between, or does not.
"""

from homeserver.matrix.identifiers import ServerName
from homeserver.storage import outgoing
from homeserver.storage.engine import ReadTx

_FEW = 1000
"""Up to so many events of this server, all those for a server are looked up; else the newest of each room."""
_FEW_MISSED = 100
"""Up to so many events that it has missed, a server is sent all of them."""


def list_missed(tx: ReadTx, server: ServerName, *, after: int, upto: int, at_most: int) -> tuple[list[int], bool]:
    """The events that a server has missed, and whether they are all; or some of the newest of each room."""
    if outgoing.count(tx, after=after, upto=upto, limit=_FEW + 1) <= _FEW:
        found = outgoing.list_for(tx, server, after=after, upto=upto, limit=_FEW_MISSED + 1)
        if len(found) <= _FEW_MISSED:
            return found, True
    found = outgoing.list_newest_for(tx, server, after=after, upto=upto, limit=at_most + 1)
    return found[:at_most], len(found) <= at_most
