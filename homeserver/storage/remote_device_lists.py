"""What is known of the device lists of other servers' users; their keys are where those of local users are.

A list is in step (`is_stale` is false) from when it was fetched until an update comes that does not follow what was
seen. It is good for as long as a room has been shared without a break since then: its server tells only those of
changes who share one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, Row, Table, bindparam, delete, select, text, update
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import ServerName, UserId
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

remote_device_lists = Table(
    "remote_device_lists",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("server_name", Text, nullable=False),
    Column("seen", Text, nullable=False),  # A JSON list of numbers, the newest last.
    Column("touched", BigInteger, nullable=False),
    Column("filled", BigInteger, nullable=False),
    Column("is_stale", Boolean, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("retry_ts", BigInteger, nullable=False),
    Index("ix_remote_device_lists_stale", "retry_ts", postgresql_where=text("is_stale"), sqlite_where=text("is_stale")),
)

_SEEN = 20
_numbers: msgspec.json.Decoder[list[int]] = msgspec.json.Decoder(list[int])


@dataclass(frozen=True, slots=True)
class RemoteDeviceList:
    """What is known of a user's list."""

    user_id: UserId
    server_name: ServerName
    seen: tuple[int, ...]
    """The numbers of the updates that came last."""
    touched: int
    """The position at which its server was heard last: what it was asked for before that may be older."""
    filled: int
    """The position at which it was fetched; 0 if it never was."""
    is_stale: bool
    failures: int
    """How often it could not be fetched, one time after the other."""
    retry_ts: int
    """It is not to be fetched by itself before that time."""


_INSERT = insert(remote_device_lists)
_BEGIN = _INSERT.on_conflict_do_nothing(index_elements=["user_id"])
_FIND = select(remote_device_lists).where(remote_device_lists.c.user_id.in_(bindparam("user_ids", expanding=True)))
_LOCK = _FIND.order_by(remote_device_lists.c.user_id).with_for_update()
_OF_USER = remote_device_lists.c.user_id == bindparam("of_user")
_SET = (
    update(remote_device_lists)
    .where(_OF_USER)
    .values(
        seen=bindparam("new_seen"),
        touched=bindparam("new_touched"),
        filled=bindparam("new_filled"),
        is_stale=bindparam("new_stale"),
        failures=bindparam("new_failures"),
        retry_ts=bindparam("new_retry"),
    )
)
_DUE = (
    select(remote_device_lists)
    .where(text("is_stale"), remote_device_lists.c.retry_ts <= bindparam("now"))
    .order_by(remote_device_lists.c.retry_ts)
    .limit(bindparam("limit"))
)
_NEXT = select(remote_device_lists.c.retry_ts).where(text("is_stale")).order_by(remote_device_lists.c.retry_ts).limit(1)
_BRING_FORWARD = (
    update(remote_device_lists)
    .where(text("is_stale"), remote_device_lists.c.retry_ts > bindparam("latest"))
    .values(retry_ts=bindparam("at"))
)
_PUT_OFF = (
    update(remote_device_lists)
    .where(
        remote_device_lists.c.server_name == bindparam("of_server"),
        text("is_stale"),
        remote_device_lists.c.retry_ts < bindparam("until"),
    )
    .values(retry_ts=bindparam("until"), failures=bindparam("new_failures"))
)
_PAGE = (
    select(remote_device_lists.c.user_id)
    .where(remote_device_lists.c.user_id > bindparam("after"))
    .order_by(remote_device_lists.c.user_id)
    .limit(bindparam("limit"))
)
_REMOVE = delete(remote_device_lists).where(remote_device_lists.c.user_id.in_(bindparam("user_ids", expanding=True)))


def begin_many(tx: WriteTx, owners: Mapping[UserId, ServerName]) -> None:
    """Keep lists that are not known yet; nothing changes for those that are."""
    tx.connection.execute(
        _BEGIN,
        [
            {
                "user_id": user_id,
                "server_name": server_name,
                "seen": "[]",
                "touched": 0,
                "filled": 0,
                "is_stale": True,
                "failures": 0,
                "retry_ts": 0,
            }
            for user_id, server_name in sorted(owners.items())
        ],
    )


def find_many(tx: ReadTx, user_ids: Iterable[UserId]) -> dict[UserId, RemoteDeviceList]:
    """Those of the lists that are known."""
    found: dict[UserId, RemoteDeviceList] = {}
    for part in chunks(user_ids):
        found.update((row.user_id, _list(row)) for row in tx.connection.execute(_FIND, {"user_ids": part}))
    return found


def lock_many(tx: WriteTx, user_ids: Iterable[UserId]) -> dict[UserId, RemoteDeviceList]:
    """Those of the lists that are known; nobody else changes them until the transaction ends."""
    found: dict[UserId, RemoteDeviceList] = {}
    for part in chunks(sorted(user_ids)):
        found.update((row.user_id, _list(row)) for row in tx.connection.execute(_LOCK, {"user_ids": part}))
    return found


def set_many(tx: WriteTx, lists: Sequence[RemoteDeviceList]) -> None:
    """Change what is known of lists."""
    tx.connection.execute(
        _SET,
        [
            {
                "of_user": one.user_id,
                "new_seen": msgspec.json.encode(one.seen[-_SEEN:]).decode(),
                "new_touched": one.touched,
                "new_filled": one.filled,
                "new_stale": one.is_stale,
                "new_failures": one.failures,
                "new_retry": one.retry_ts,
            }
            for one in lists
        ],
    )


def list_due(tx: ReadTx, *, now: int, limit: int) -> list[RemoteDeviceList]:
    """Stale lists that are to be fetched now, those first that have waited for the longest time."""
    return [_list(row) for row in tx.connection.execute(_DUE, {"now": now, "limit": limit})]


def next_due(tx: ReadTx) -> int | None:
    """When the next stale list is to be fetched."""
    return tx.connection.execute(_NEXT).scalar_one_or_none()


def bring_forward(tx: WriteTx, *, latest: int, now: int) -> None:
    """Stale lists that would be fetched later than that are due now: the clock was wrong when that was written down."""
    tx.connection.execute(_BRING_FORWARD, {"latest": latest, "at": now})


def put_off(tx: WriteTx, server_name: ServerName, *, failures: int, until: int) -> None:
    """A server could not be asked: none of its lists is fetched before that time."""
    tx.connection.execute(_PUT_OFF, {"of_server": server_name, "until": until, "new_failures": failures})


def list_page(tx: ReadTx, *, after: UserId, limit: int) -> list[UserId]:
    """The users with the next higher ids whose lists are known, in order."""
    return list(tx.connection.execute(_PAGE, {"after": after, "limit": limit}).scalars())


def remove_many(tx: WriteTx, user_ids: Sequence[UserId]) -> None:
    """Forget that these lists were ever known."""
    for part in chunks(user_ids):
        tx.connection.execute(_REMOVE, {"user_ids": part})


def _list(row: Row[Any]) -> RemoteDeviceList:
    seen = tuple(_numbers.decode(row.seen))
    return RemoteDeviceList(
        row.user_id, row.server_name, seen, row.touched, row.filled, row.is_stale, row.failures, row.retry_ts
    )
