"""What can be wrong with a stored room, in words, and what an operator can do about it (`homeserver fsck`)."""

from dataclasses import dataclass

from homeserver.matrix.identifiers import RoomId

_MOST = 10

_DAMAGED = (
    "Stop the server, keep a copy of the database as it is, have the disk and the database checked (`PRAGMA "
    "integrity_check` of SQLite, `pg_amcheck` of PostgreSQL), then restore the last backup in which fsck finds nothing."
)
_DERIVED = (
    "The events themselves are whole. Keep a copy of the database and report this with the lines above: it is a fault "
    "of the server, or something else wrote to its database. The last backup in which fsck finds nothing is free of it."
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One way of being wrong: the invariant that does not hold, and what to do."""

    invariant: str
    remedy: str


UNREADABLE = Kind("I5", _DAMAGED)
FALSE_ID = Kind("I1", _DAMAGED)
FALSE_ROW = Kind("I1", _DAMAGED)
ROOMLESS = Kind("I1", _DAMAGED)
MISSING = Kind("I5", _DAMAGED)
FALSE_POSITION = Kind(
    "I4",
    "Positions went backwards, as after a backup that was restored from before: clients must not be shown the same "
    "position twice. Keep the server stopped, and restore a complete backup of one moment.",
)
FALSE_TRANSACTION = Kind("I2", "A client that repeats its request would be told of a wrong event. " + _DERIVED)
NO_STATE = Kind("I5", _DAMAGED)
FALSE_STATE = Kind("I5", _DERIVED)
FALSE_ENDS = Kind("I5", "New events would be built upon the wrong ones. " + _DERIVED)
FALSE_CURRENT = Kind("I5", "The room is shown as it is not. " + _DERIVED)
NOT_ALLOWED = Kind("I6", "Something that was not allowed has an effect. " + _DERIVED)
OTHER_ROOM = Kind("I6", _DERIVED)
FALSE_AUTH = Kind("I6", _DERIVED)
FALSE_MEMBER = Kind("I7", "Somebody is shown a room, or is not, against its state. " + _DERIVED)
FALSE_SERVER = Kind("I7", "A server is sent what is said, or is not, against the room's state. " + _DERIVED)
FALSE_CURSOR = Kind("I8", "A server would not be sent what is said. " + _DERIVED)
FALSE_RELATION = Kind("I7", _DERIVED)
NOT_REDACTED = Kind("I11", "Something that was redacted can still be read. " + _DERIVED)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, with a room or with the whole."""

    kind: Kind
    room_id: RoomId | None
    what: str


class Report:
    """Gathers findings; of many alike, the first few and how many there are more."""

    def __init__(self, room_id: RoomId | None = None) -> None:
        self._room_id = room_id
        self._found: list[Finding] = []
        self._counts: dict[Kind, int] = {}

    def add(self, kind: Kind, what: str) -> None:
        """Note one."""
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count <= _MOST:
            self._found.append(Finding(kind, self._room_id, what))

    def close(self) -> list[Finding]:
        """All of them."""
        more = [
            Finding(kind, self._room_id, f"And {count - _MOST} more like these.")
            for kind, count in self._counts.items()
            if count > _MOST
        ]
        return [*self._found, *more]
