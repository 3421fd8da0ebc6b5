"""Public keys of other servers, with the times up to which they are good; and those by which this one has signed."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import BigInteger, Column, LargeBinary, Table, bindparam, delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from homeserver.storage.destinations import destinations
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

# What servers published last, as they signed it: for those who ask this server about their keys.
server_key_documents = Table(
    "server_key_documents",
    metadata,
    Column("server_name", Text, primary_key=True),
    Column("fetched_ts", BigInteger, nullable=False),
    Column("valid_until_ts", BigInteger, nullable=False),
    Column("document", LargeBinary, nullable=False),
)


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """What a server published, and when it was fetched."""

    server_name: str
    fetched_ts: int
    valid_until_ts: int
    document: bytes


@dataclass(frozen=True, slots=True)
class DocumentHead:
    """What is known of a document without reading it."""

    server_name: str
    fetched_ts: int
    valid_until_ts: int
    size: int


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
_ADD = _INSERT.on_conflict_do_nothing()
_INSERT_DOCUMENT = insert(server_key_documents)
_UPSERT_DOCUMENT = _INSERT_DOCUMENT.on_conflict_do_update(
    index_elements=["server_name"],
    set_={name: _INSERT_DOCUMENT.excluded[name] for name in ("fetched_ts", "valid_until_ts", "document")},
)
_OF_SERVERS = server_key_documents.c.server_name.in_(bindparam("servers", expanding=True))
_FIND_HEADS = select(
    server_key_documents.c.server_name,
    server_key_documents.c.fetched_ts,
    server_key_documents.c.valid_until_ts,
    func.length(server_key_documents.c.document).label("size"),
).where(_OF_SERVERS)
_FIND_DOCUMENTS = select(server_key_documents.c.server_name, server_key_documents.c.document).where(_OF_SERVERS)
_SURPLUS_STRANGERS = (
    select(server_key_documents.c.server_name)
    .where(~select(destinations).where(destinations.c.server_name == server_key_documents.c.server_name).exists())
    .order_by(server_key_documents.c.fetched_ts.desc(), server_key_documents.c.server_name)
    .offset(bindparam("keep"))
    .limit(bindparam("limit"))
)
_FORGET_DOCUMENTS = delete(server_key_documents).where(_OF_SERVERS)
_FORGET_KEYS = delete(server_keys).where(server_keys.c.server_name.in_(bindparam("servers", expanding=True)))
_FIND = select(server_keys).where(
    tuple_(server_keys.c.server_name, server_keys.c.key_id).in_(bindparam("names", expanding=True))
)
_OF_SERVER = select(server_keys).where(server_keys.c.server_name == bindparam("server"))


def put_many(tx: WriteTx, keys: Sequence[ServerKey]) -> None:
    """Keep keys, in the place of what was known of them."""
    if keys:
        tx.connection.execute(_UPSERT, [asdict(key) for key in keys])


def add_many(tx: WriteTx, keys: Sequence[ServerKey]) -> None:
    """Keep those of the keys that are not known."""
    if keys:
        tx.connection.execute(_ADD, [asdict(key) for key in keys])


def find_many(tx: ReadTx, names: Iterable[KeyName]) -> dict[KeyName, ServerKey]:
    """Those of the keys that are known."""
    found: dict[KeyName, ServerKey] = {}
    for part in chunks(names):
        rows = tx.connection.execute(_FIND, {"names": part})
        found.update(((row.server_name, row.key_id), ServerKey(*row)) for row in rows)
    return found


def find_of_server(tx: ReadTx, server: str) -> dict[str, ServerKey]:
    """Those of a server that are known, by id."""
    return {row.key_id: ServerKey(*row) for row in tx.connection.execute(_OF_SERVER, {"server": server})}


def put_documents(tx: WriteTx, documents: Sequence[StoredDocument]) -> None:
    """Keep what servers published, in the place of what they published before."""
    if documents:
        tx.connection.execute(_UPSERT_DOCUMENT, [asdict(one) for one in documents])


def find_heads(tx: ReadTx, servers: Iterable[str]) -> dict[str, DocumentHead]:
    """What is known of the documents of these servers, as far as there are any."""
    found: dict[str, DocumentHead] = {}
    for part in chunks(servers):
        rows = tx.connection.execute(_FIND_HEADS, {"servers": part})
        found.update((row.server_name, DocumentHead(*row)) for row in rows)
    return found


def find_documents(tx: ReadTx, servers: Iterable[str]) -> dict[str, bytes]:
    """What these servers published last, as far as it is known."""
    found: dict[str, bytes] = {}
    for part in chunks(servers):
        rows = tx.connection.execute(_FIND_DOCUMENTS, {"servers": part})
        found.update((row.server_name, row.document) for row in rows)
    return found


def forget_strangers(tx: WriteTx, *, keep: int, limit: int) -> int:
    """Forget the keys of some servers that nothing was ever sent to, the latest `keep` of these excepted; how many."""
    servers = tx.connection.execute(_SURPLUS_STRANGERS, {"keep": keep, "limit": limit}).scalars().all()
    for part in chunks(servers):
        tx.connection.execute(_FORGET_DOCUMENTS, {"servers": part})
        tx.connection.execute(_FORGET_KEYS, {"servers": part})
    return len(servers)
