"""Who is in which room now, for local and remote users alike."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Boolean, Column, Index, Table, bindparam, delete, false, func, select, update
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.rooms import rooms
from homeserver.storage.tables import Text, among, chunks, domain, metadata, some_of_room
from homeserver.storage.users import users

GUESTS = "guests"
"""The notifier's key of rooms that may not let guests in any longer."""

memberships = Table(
    "memberships",
    metadata,
    Column("room_nid", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", Text, primary_key=True),
    Column("membership", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("position", BigInteger, nullable=False),  # At which this became so.
    Column("event", BigInteger, nullable=False),  # Position of the member event, which resolution can bring back.
    Column("forgotten", Boolean, nullable=False, server_default=false()),
    # All rooms of a user; and, by position, what changed for a user.
    Index("ix_memberships_user_id_membership", "user_id", "membership"),
    Index("ix_memberships_user_id_position", "user_id", "position"),
    # Who has come to a room or left it of late.
    Index("ix_memberships_room_nid_position", "room_nid", "position"),
)


@dataclass(frozen=True, slots=True)
class Member:
    """One user's membership of one room. `sender` made it so, by the event at `event`; it is so since `position`."""

    room_nid: int
    user_id: UserId
    membership: str
    sender: UserId
    position: int
    event: int
    forgotten: bool = False


_INSERT = insert(memberships)
_UPSERT = _INSERT.on_conflict_do_update(
    index_elements=["room_nid", "user_id"],
    set_={
        "membership": _INSERT.excluded.membership,
        "sender": _INSERT.excluded.sender,
        "position": _INSERT.excluded.position,
        "event": _INSERT.excluded.event,
        "forgotten": _INSERT.excluded.forgotten,
    },
)
_OF_USER = select(memberships).where(memberships.c.user_id == bindparam("user_id"))
_OF_USER_WITH = _OF_USER.where(memberships.c.membership.in_(bindparam("kinds", expanding=True)))
_OF_USER_SINCE = _OF_USER.where(
    memberships.c.position > bindparam("after"), memberships.c.position <= bindparam("upto")
).order_by(memberships.c.position)
_ONE = _OF_USER.where(memberships.c.room_nid == bindparam("room_nid"))
_JOINED = select(memberships.c.user_id).where(
    memberships.c.room_nid == bindparam("room_nid"), memberships.c.membership == "join"
)
_IN_ROOM = select(memberships).where(memberships.c.room_nid == bindparam("room_nid"))
_JOINED_MEMBERS = select(memberships).where(
    memberships.c.room_nid == bindparam("room_nid"), memberships.c.membership == "join"
)
_JOINED_ROOMS = (
    select(memberships.c.user_id, rooms.c.room_id)
    .select_from(memberships.join(rooms, rooms.c.room_nid == memberships.c.room_nid))
    .where(memberships.c.user_id.in_(bindparam("user_ids", expanding=True)), memberships.c.membership == "join")
)
_IN_ROOM = select(memberships).where(memberships.c.room_nid == bindparam("room_nid"))
_CHANGED = select(memberships).where(
    memberships.c.room_nid.in_(bindparam("room_nids", expanding=True)),
    memberships.c.position > bindparam("after"),
    memberships.c.position <= bindparam("upto"),
)
_COUNTS = (
    select(memberships.c.membership, func.count())
    .where(memberships.c.room_nid == bindparam("room_nid"))
    .group_by(memberships.c.membership)
)
_JOINED_COUNTS = (
    select(memberships.c.room_nid, func.count().label("joined"))
    .where(memberships.c.room_nid.in_(bindparam("room_nids", expanding=True)), memberships.c.membership == "join")
    .group_by(memberships.c.room_nid)
)
_FIRST = (
    select(memberships.c.user_id)
    .where(
        memberships.c.room_nid == bindparam("room_nid"),
        memberships.c.user_id != bindparam("but"),
        memberships.c.membership.in_(bindparam("kinds", expanding=True)),
    )
    .order_by(memberships.c.position)
    .limit(bindparam("limit"))
)
_REMOVE = delete(memberships).where(
    memberships.c.room_nid == bindparam("nid"), memberships.c.user_id == bindparam("who")
)
_FORGET = (
    update(memberships)
    .where(
        memberships.c.room_nid == bindparam("nid"),
        memberships.c.user_id == bindparam("who"),
        memberships.c.membership.in_(["leave", "ban"]),
    )
    .values(forgotten=True)
)
OF_SERVER = memberships.c.user_id.like(bindparam("of_server", type_=Text), escape="\\")
"""That a membership is that of a user of one server, by the pattern `of_server`."""
_LOCAL = (
    select(memberships)
    .where(
        memberships.c.room_nid == bindparam("room_nid"),
        memberships.c.membership.in_(bindparam("kinds", expanding=True)),
        OF_SERVER,
    )
    .order_by(memberships.c.position)
    .limit(bindparam("limit"))
)
_ALL_OF_SERVER = select(memberships).where(
    memberships.c.room_nid == bindparam("room_nid"), domain(memberships.c.user_id) == bindparam("server_name")
)
_ROOMS_OF_SERVER = select(rooms.c.room_nid).where(
    among(rooms.c.room_nid, "room_nids"),
    # One is enough, which is found without looking at all of the others.
    select(memberships.c.user_id)
    .where(
        memberships.c.room_nid == rooms.c.room_nid,
        memberships.c.membership.in_(bindparam("kinds", expanding=True)),
        domain(memberships.c.user_id) == bindparam("server_name"),
    )
    .exists(),
)
_ROOMS_OF_GUESTS = (
    select(memberships.c.room_nid)
    .join(users, users.c.user_id == memberships.c.user_id)
    .where(users.c.is_guest, memberships.c.membership == "join", memberships.c.room_nid > bindparam("after"))
    .distinct()
    .order_by(memberships.c.room_nid)
    .limit(bindparam("limit"))
)
_LOCAL_USERS = select(memberships.c.user_id).where(memberships.c.room_nid == bindparam("room_nid"), OF_SERVER)
_REMOVE_LOCAL = delete(memberships).where(memberships.c.room_nid == bindparam("room_nid"), OF_SERVER)
_REMOVE_SOME = some_of_room(memberships)
_EVENTS_BELOW = select(memberships.c.event).where(
    memberships.c.room_nid == bindparam("room_nid"), memberships.c.event < bindparam("below")
)
_theirs = memberships.alias("theirs")
_JOINS = select(memberships.c.user_id, memberships.c.room_nid, memberships.c.position).where(
    memberships.c.user_id.in_(bindparam("user_ids", expanding=True)), memberships.c.membership == "join"
)
_FIRST_OF_SERVER = (
    select(memberships.c.room_nid, func.min(memberships.c.position))
    .where(
        memberships.c.room_nid.in_(bindparam("room_nids", expanding=True)),
        memberships.c.membership == "join",
        OF_SERVER,
    )
    .group_by(memberships.c.room_nid)
)
_OF_SERVER_SHARING = (
    select(memberships.c.user_id)
    .distinct()
    .select_from(memberships.join(_theirs, memberships.c.room_nid == _theirs.c.room_nid))
    .where(
        _theirs.c.user_id.in_(bindparam("user_ids", expanding=True)),
        _theirs.c.membership == "join",
        memberships.c.membership == "join",
        OF_SERVER,
    )
)
_SHARING = (
    select(_theirs.c.user_id)
    .distinct()
    .select_from(memberships.join(_theirs, memberships.c.room_nid == _theirs.c.room_nid))
    .where(
        memberships.c.user_id == bindparam("user_id"),
        memberships.c.membership == "join",
        _theirs.c.membership == "join",
    )
)


def set_many(tx: WriteTx, changes: Sequence[Member]) -> None:
    """Record memberships; the key is room and user, and each may be named once."""
    tx.connection.execute(
        _UPSERT,
        [
            {
                "room_nid": member.room_nid,
                "user_id": member.user_id,
                "membership": member.membership,
                "sender": member.sender,
                "position": member.position,
                "event": member.event,
                "forgotten": member.forgotten,
            }
            for member in changes
        ],
    )


def remove_many(tx: WriteTx, gone: Iterable[tuple[int, UserId]]) -> None:
    """Forget that these users, as pairs with a room, ever had to do with the room."""
    tx.connection.execute(_REMOVE, [{"nid": room_nid, "who": user_id} for room_nid, user_id in gone])


def find(tx: ReadTx, room_nid: int, user_id: UserId) -> Member | None:
    """The user's membership, or None if there never was one."""
    row = tx.connection.execute(_ONE, {"room_nid": room_nid, "user_id": user_id}).one_or_none()
    return None if row is None else Member(*row)


def list_of_user(tx: ReadTx, user_id: UserId, kinds: Iterable[str]) -> list[Member]:
    """The user's memberships of these kinds (`join`, `invite`, …), forgotten rooms included."""
    rows = tx.connection.execute(_OF_USER_WITH, {"user_id": user_id, "kinds": list(kinds)})
    return [Member(*row) for row in rows]


def list_joined_rooms(tx: ReadTx, user_ids: Iterable[UserId]) -> dict[UserId, list[RoomId]]:
    """The rooms that these users are in; who is in none is left out."""
    found: dict[UserId, list[RoomId]] = {}
    for part in chunks(user_ids):
        for row in tx.connection.execute(_JOINED_ROOMS, {"user_ids": part}):
            found.setdefault(row.user_id, []).append(row.room_id)
    return found


def list_of_user_since(tx: ReadTx, user_id: UserId, *, after: int, upto: int) -> list[Member]:
    """The user's memberships whose last change lies in (after, upto], the oldest change first."""
    values = {"user_id": user_id, "after": after, "upto": upto}
    return [Member(*row) for row in tx.connection.execute(_OF_USER_SINCE, values)]


def list_in_room(tx: ReadTx, room_nid: int) -> list[Member]:
    """Everybody who ever had to do with the room."""
    return [Member(*row) for row in tx.connection.execute(_IN_ROOM, {"room_nid": room_nid})]


def list_changed(tx: ReadTx, room_nids: Iterable[int], *, after: int, upto: int) -> list[Member]:
    """The memberships of these rooms whose last change lies in (after, upto]."""
    found: list[Member] = []
    for part in chunks(room_nids):
        rows = tx.connection.execute(_CHANGED, {"room_nids": part, "after": after, "upto": upto})
        found.extend(Member(*row) for row in rows)
    return found


def count(tx: ReadTx, room_nid: int) -> dict[str, int]:
    """How many users have each kind of membership."""
    return {row[0]: row[1] for row in tx.connection.execute(_COUNTS, {"room_nid": room_nid})}


def count_joined(tx: ReadTx, room_nids: Iterable[int]) -> dict[int, int]:
    """How many users are in each of the rooms; empty rooms are left out."""
    found: dict[int, int] = {}
    for part in chunks(room_nids):
        rows = tx.connection.execute(_JOINED_COUNTS, {"room_nids": part})
        found.update((row.room_nid, row.joined) for row in rows)
    return found


def list_first(tx: ReadTx, room_nid: int, kinds: Iterable[str], *, but: UserId, limit: int) -> list[UserId]:
    """The users who have had these memberships for the longest time, without one of them."""
    values = {"room_nid": room_nid, "kinds": list(kinds), "but": but, "limit": limit}
    return list(tx.connection.execute(_FIRST, values).scalars())


def list_joined(tx: ReadTx, room_nid: int) -> list[Member]:
    """Those who are in the room."""
    return [Member(*row) for row in tx.connection.execute(_JOINED_MEMBERS, {"room_nid": room_nid})]


def list_joined_users(tx: ReadTx, room_nid: int) -> list[UserId]:
    """The users who are in the room."""
    return list(tx.connection.execute(_JOINED, {"room_nid": room_nid}).scalars())


def list_sharing(tx: ReadTx, user_id: UserId) -> list[UserId]:
    """The users who are in a room together with this one, the user included."""
    return list(tx.connection.execute(_SHARING, {"user_id": user_id}).scalars())


def list_sharing_of_server(tx: ReadTx, user_ids: Iterable[UserId], server_name: str) -> set[UserId]:
    """The users of a server who are in a room together with one of these."""
    found: set[UserId] = set()
    for part in chunks(user_ids):
        values = {"user_ids": part, "of_server": of_server(server_name)}
        found.update(tx.connection.execute(_OF_SERVER_SHARING, values).scalars())
    return found


def list_joins(tx: ReadTx, user_ids: Iterable[UserId]) -> dict[UserId, dict[int, int]]:
    """The rooms that each of the users is in, and since when."""
    found: dict[UserId, dict[int, int]] = {}
    for part in chunks(user_ids):
        for user_id, room_nid, position in tx.connection.execute(_JOINS, {"user_ids": part}):
            found.setdefault(user_id, {})[room_nid] = position
    return found


def first_joins_of_server(tx: ReadTx, room_nids: Iterable[int], server_name: str) -> dict[int, int]:
    """Since when a user of the server is in each of the rooms; no entry where none is."""
    found: dict[int, int] = {}
    for part in chunks(room_nids):
        values = {"room_nids": part, "of_server": of_server(server_name)}
        found.update((nid, position) for nid, position in tx.connection.execute(_FIRST_OF_SERVER, values))
    return found


def find_sharing_with_server(tx: ReadTx, user_ids: Collection[UserId], server_name: str) -> set[UserId]:
    """Those of the users who are in a room together with a user of the server."""
    joins = list_joins(tx, user_ids)
    shared = first_joins_of_server(tx, {nid for rooms_of in joins.values() for nid in rooms_of}, server_name).keys()
    return {user_id for user_id, rooms_of in joins.items() if rooms_of.keys() & shared}


def forget(tx: WriteTx, room_nid: int, user_id: UserId) -> bool:
    """Mark the room as forgotten; False where the user is still in it, or never was."""
    return tx.connection.execute(_FORGET, {"nid": room_nid, "who": user_id}).rowcount == 1


def of_server(server_name: str) -> str:
    """The pattern of the users of a server."""
    return "%:" + server_name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def list_local(tx: ReadTx, room_nid: int, server_name: str, kinds: Iterable[str], *, limit: int) -> list[Member]:
    """Some users of this server with these memberships of the room."""
    values = {"room_nid": room_nid, "of_server": of_server(server_name), "kinds": list(kinds), "limit": limit}
    return [Member(*row) for row in tx.connection.execute(_LOCAL, values)]


def find_rooms_of_server(tx: ReadTx, room_nids: Iterable[int], server_name: str, kinds: Iterable[str]) -> set[int]:
    """Those of the rooms in which a user of this server has one of these memberships."""
    values = {"room_nids": list(room_nids), "server_name": server_name, "kinds": list(kinds)}
    return set(tx.connection.execute(_ROOMS_OF_SERVER, values).scalars())


def list_rooms_of_guests(tx: ReadTx, *, after: int, limit: int) -> list[int]:
    """Some of the rooms that guests of this server are in, behind a number."""
    return list(tx.connection.execute(_ROOMS_OF_GUESTS, {"after": after, "limit": limit}).scalars())


def list_of_server(tx: ReadTx, room_nid: int, server_name: str) -> list[Member]:
    """Everybody of this server who ever had to do with the room."""
    values = {"room_nid": room_nid, "server_name": server_name}
    return [Member(*row) for row in tx.connection.execute(_ALL_OF_SERVER, values)]


def remove_local(tx: WriteTx, room_nid: int, server_name: str) -> list[UserId]:
    """Forget what users of this server had to do with the room; who they are."""
    values = {"room_nid": room_nid, "of_server": of_server(server_name)}
    found = list(tx.connection.execute(_LOCAL_USERS, values).scalars())
    tx.connection.execute(_REMOVE_LOCAL, values)
    return found


def remove_some(tx: WriteTx, room_nid: int, *, limit: int) -> int:
    """Remove some of the memberships of a room that is not known any more; how many."""
    return tx.connection.execute(_REMOVE_SOME, {"nid": room_nid, "limit": limit}).rowcount


def list_events_below(tx: ReadTx, room_nid: int, position: int) -> set[int]:
    """The positions below this one of the member events by which users are what they are."""
    return set(tx.connection.execute(_EVENTS_BELOW, {"room_nid": room_nid, "below": position}).scalars())
