"""Public keys of other servers, with the times up to which they are good."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Table, bindparam, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

KeyName = tuple[str, str]
"""A server's name and the id of one of its keys."""

server_keys = Table(
    "server_keys",
    metadata,
    Column("server_name", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("public_key", Text, nullable=False),
    Column("valid_until_ts", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class ServerKey:
    """A key; what was signed after `valid_until_ts` is not signed by it."""

    server_name: str
    key_id: str
    public_key: str
    valid_until_ts: int


_INSERT = insert(server_keys)
_UPSERT = _INSERT.on_conflict_do_update(
    index_elements=["server_name", "key_id"],
    set_={"public_key": _INSERT.excluded.public_key, "valid_until_ts": _INSERT.excluded.valid_until_ts},
)
_FIND = select(server_keys).where(
    tuple_(server_keys.c.server_name, server_keys.c.key_id).in_(bindparam("names", expanding=True))
)


def put_many(tx: WriteTx, keys: Sequence[ServerKey]) -> None:
    """Keep keys, in the place of what was known of them."""
    tx.connection.execute(
        _UPSERT,
        [
            {
                "server_name": key.server_name,
                "key_id": key.key_id,
                "public_key": key.public_key,
                "valid_until_ts": key.valid_until_ts,
            }
            for key in keys
        ],
    )


def find_many(tx: ReadTx, names: Iterable[KeyName]) -> dict[KeyName, ServerKey]:
    """Those of the keys that are known."""
    found: dict[KeyName, ServerKey] = {}
    for part in chunks(names):
        rows = tx.connection.execute(_FIND, {"names": part})
        found.update(((row.server_name, row.key_id), ServerKey(*row)) for row in rows)
    return found
