"""Rooms that were removed from this server although users had to do with them: the users are still to be told."""

from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Table, bindparam, false, insert, select

from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.members import OF_SERVER, memberships, of_server
from homeserver.storage.tables import Text, metadata

departures = Table(
    "departures",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),  # At which the user left the room.
    Column("room_id", Text, primary_key=True),
)


@dataclass(frozen=True, slots=True)
class Departure:
    """A user left a room at this position, and the room is no more."""

    user_id: UserId
    position: int
    room_id: RoomId


_INSERT = insert(departures).from_select(
    ["user_id", "position", "room_id"],
    select(memberships.c.user_id, memberships.c.position, bindparam("gone_id", type_=Text)).where(
        memberships.c.room_nid == bindparam("room_nid"), memberships.c.forgotten == false(), OF_SERVER
    ),
)
_SINCE = (
    select(departures)
    .where(
        departures.c.user_id == bindparam("user_id"),
        departures.c.position > bindparam("after"),
        departures.c.position <= bindparam("upto"),
    )
    .order_by(departures.c.position)
)


def note_members(tx: WriteTx, room_nid: int, room_id: RoomId, server_name: str) -> None:
    """Note for all users of this server who have had to do with a room, and who did not forget it, that they left."""
    values = {"room_nid": room_nid, "gone_id": room_id, "of_server": of_server(server_name)}
    tx.connection.execute(_INSERT, values)


def list_since(tx: ReadTx, user_id: UserId, *, after: int, upto: int) -> list[Departure]:
    """The rooms that the user left in (after, upto] and that are no more."""
    values = {"user_id": user_id, "after": after, "upto": upto}
    return [Departure(*row) for row in tx.connection.execute(_SINCE, values)]
