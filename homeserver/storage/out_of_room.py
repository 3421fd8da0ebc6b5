"""Memberships of local users in rooms that this server is not in: invites that came, and knocks that were sent.

Nothing is known of such a room but what its servers told along. Once the room's own state says anything of the user,
that counts, as it is newer (`storage/members.py`).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    Row,
    Table,
    bindparam,
    delete,
    false,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import RoomId, ServerName, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.members import memberships
from homeserver.storage.pdus import Pdu
from homeserver.storage.rooms import rooms
from homeserver.storage.tables import Text, metadata

out_of_room = Table(
    "out_of_room",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("room_id", Text, primary_key=True),
    Column("membership", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("position", BigInteger, nullable=False),  # At which this became so.
    Column("pdu", Pdu, nullable=False),  # The member event.
    Column("stripped", Text, nullable=False),  # The room's stripped state, a JSON array.
    Column("servers", Text, nullable=False),  # Those that can be asked about the room, a JSON array.
    Column("forgotten", Boolean, nullable=False, server_default=false()),
    # What changed for a user.
    Index("ix_out_of_room_user_id_position", "user_id", "position"),
)


@dataclass(frozen=True, slots=True)
class Outsider:
    """What a user is to a room that this server is not in; it is so since `position`."""

    user_id: UserId
    room_id: RoomId
    membership: str
    sender: UserId
    version: str
    position: int
    pdu: bytes
    stripped: bytes
    """The room's stripped state, as the text of a JSON array."""
    servers: tuple[ServerName, ...]
    forgotten: bool = False


_INSERT = insert(out_of_room)
_UPSERT = _INSERT.on_conflict_do_update(
    index_elements=["user_id", "room_id"],
    set_={
        name: getattr(_INSERT.excluded, name)
        for name in ("membership", "sender", "version", "position", "pdu", "stripped", "servers", "forgotten")
    },
)
_newer = (
    select(memberships.c.user_id)
    .select_from(memberships.join(rooms, rooms.c.room_nid == memberships.c.room_nid))
    .where(
        rooms.c.room_id == out_of_room.c.room_id,
        memberships.c.user_id == out_of_room.c.user_id,
        memberships.c.position > out_of_room.c.position,
    )
)
_OF_USER = (
    select(out_of_room)
    .where(out_of_room.c.user_id == bindparam("user_id"), ~_newer.exists())
    .order_by(out_of_room.c.position)
)
_OF_USER_WITH = _OF_USER.where(
    out_of_room.c.membership.in_(bindparam("kinds", expanding=True)), out_of_room.c.forgotten == false()
)
_OF_USER_SINCE = _OF_USER.where(
    out_of_room.c.position > bindparam("after"),
    out_of_room.c.position <= bindparam("upto"),
    out_of_room.c.forgotten == false(),
)
_ONE = _OF_USER.where(out_of_room.c.room_id == bindparam("room_id"))
_INVITES = (
    select(out_of_room.c.sender, func.count().label("invites"))
    .where(
        out_of_room.c.user_id == bindparam("user_id"),
        out_of_room.c.room_id != bindparam("besides"),
        out_of_room.c.membership == "invite",
        ~_newer.exists(),
    )
    .group_by(out_of_room.c.sender)
)
_ended_by_others = (
    out_of_room.c.user_id == bindparam("who"),
    out_of_room.c.membership.in_(["leave", "ban"]),
    out_of_room.c.sender != bindparam("who"),
)
_REMOVE_OLD_ENDED = delete(out_of_room).where(
    *_ended_by_others,
    out_of_room.c.position
    <= select(out_of_room.c.position)
    .where(*_ended_by_others)
    .order_by(out_of_room.c.position.desc())
    .offset(bindparam("kept", type_=Integer))
    .limit(1)
    .correlate(None)
    .scalar_subquery(),
)
_FORGET = (
    update(out_of_room)
    .where(
        out_of_room.c.user_id == bindparam("who"),
        out_of_room.c.room_id == bindparam("of_room"),
        out_of_room.c.membership.in_(["leave", "ban"]),
    )
    .values(forgotten=True)
)
_REMOVE = delete(out_of_room).where(
    out_of_room.c.user_id == bindparam("who"), out_of_room.c.room_id == bindparam("of_room")
)
_REMOVE_OF_ROOM = delete(out_of_room).where(out_of_room.c.room_id == bindparam("of_room"))


def put(tx: WriteTx, outsider: Outsider) -> None:
    """Record what a user is to a room, in the place of what they were."""
    tx.connection.execute(
        _UPSERT,
        {
            "user_id": outsider.user_id,
            "room_id": outsider.room_id,
            "membership": outsider.membership,
            "sender": outsider.sender,
            "version": outsider.version,
            "position": outsider.position,
            "pdu": outsider.pdu,
            "stripped": outsider.stripped.decode(),
            "servers": msgspec.json.encode(outsider.servers).decode(),
            "forgotten": outsider.forgotten,
        },
    )


def find(tx: ReadTx, user_id: UserId, room_id: RoomId) -> Outsider | None:
    """What the user is to the room; None where nothing is known, or the room's own state is newer."""
    row = tx.connection.execute(_ONE, {"user_id": user_id, "room_id": room_id}).one_or_none()
    return None if row is None else _outsider(row)


def list_of_user(tx: ReadTx, user_id: UserId, kinds: Iterable[str]) -> list[Outsider]:
    """What the user is to rooms, of these kinds; what was forgotten is left out."""
    values = {"user_id": user_id, "kinds": list(kinds)}
    return [_outsider(row) for row in tx.connection.execute(_OF_USER_WITH, values)]


def list_of_user_since(tx: ReadTx, user_id: UserId, *, after: int, upto: int) -> list[Outsider]:
    """What the user became to rooms in (after, upto], the oldest first."""
    values = {"user_id": user_id, "after": after, "upto": upto}
    return [_outsider(row) for row in tx.connection.execute(_OF_USER_SINCE, values)]


def count_invites(tx: ReadTx, user_id: UserId, *, besides: RoomId) -> Counter[UserId]:
    """How many invites the user has, by who sent them; one to the room `besides` does not count."""
    found = tx.connection.execute(_INVITES, {"user_id": user_id, "besides": besides})
    return Counter({row.sender: row.invites for row in found})


def remove_old_ended(tx: WriteTx, user_id: UserId, *, kept: int) -> None:
    """Of the invites and knocks of a user that others have ended, keep the newest alone."""
    tx.connection.execute(_REMOVE_OLD_ENDED, {"who": user_id, "kept": kept})


def remove_of_room(tx: WriteTx, room_id: RoomId) -> None:
    """Forget what anybody was to the room."""
    tx.connection.execute(_REMOVE_OF_ROOM, {"of_room": room_id})


def forget(tx: WriteTx, user_id: UserId, room_id: RoomId) -> bool:
    """Mark the room as forgotten; False where the user has not left it."""
    return tx.connection.execute(_FORGET, {"who": user_id, "of_room": room_id}).rowcount == 1


def remove(tx: WriteTx, user_id: UserId, room_id: RoomId) -> None:
    """Remove what is known, as the room itself says now what the user is to it."""
    tx.connection.execute(_REMOVE, {"who": user_id, "of_room": room_id})


def _outsider(row: Row[Any]) -> Outsider:
    return Outsider(
        user_id=row.user_id,
        room_id=row.room_id,
        membership=row.membership,
        sender=row.sender,
        version=row.version,
        position=row.position,
        pdu=row.pdu,
        stripped=row.stripped.encode(),
        servers=msgspec.json.decode(row.servers, type=tuple[ServerName, ...]),
        forgotten=row.forgotten,
    )
