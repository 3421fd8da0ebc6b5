"""Keys for end-to-end encryption: of devices, one-time, fallback, cross-signing, and signatures upon them.

`device_list_changes` has, for each user, the position at which others had to look at the user's keys again.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Table,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from homeserver.matrix.identifiers import DeviceId, UserId
from homeserver.storage import stream_rows
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, chunks, metadata

device_keys = Table(
    "device_keys",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("body", Text, nullable=False),  # A JSON object, as all bodies here.
)

one_time_keys = Table(
    "one_time_keys",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),  # With the algorithm in front: `signed_curve25519:AAAAHg`.
    Column("algorithm", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),  # The order of upload.
    Column("body", Text, nullable=False),
    Index("ix_one_time_keys_user_id_device_id_algorithm_sequence", "user_id", "device_id", "algorithm", "sequence"),
)

fallback_keys = Table(
    "fallback_keys",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("algorithm", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("used", Boolean, nullable=False),
)

cross_signing_keys = Table(
    "cross_signing_keys",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("usage", Text, primary_key=True),  # `master`, `self_signing`, `user_signing`.
    Column("public_key", Text, nullable=False),
    Column("body", Text, nullable=False),
)

key_signatures = Table(
    "key_signatures",
    metadata,
    Column("user_id", Text, primary_key=True),  # Whose key is signed.
    Column("target", Text, primary_key=True),  # A device id, or the public part of a cross-signing key.
    Column("signer_id", Text, primary_key=True),
    Column("signer_key", Text, primary_key=True),
    Column("signature", Text, nullable=False),
)

device_list_changes = Table(
    "device_list_changes",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    # What other servers were told last of a local user's devices, by its number.
    Column("stream_id", BigInteger, nullable=False, server_default=text("0")),
    Index("ix_device_list_changes_position", "position"),
)

Device = tuple[UserId, DeviceId]


@dataclass(frozen=True, slots=True)
class OneTimeKey:
    """A one-time or fallback key. `key_id` has the algorithm in front."""

    key_id: str
    body: str

    @property
    def algorithm(self) -> str:
        """What stands in front of the colon."""
        return self.key_id.partition(":")[0]


@dataclass(frozen=True, slots=True)
class CrossSigningKey:
    """A user's key of one usage."""

    user_id: UserId
    usage: str
    public_key: str
    body: str


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature upon a device's keys or a cross-signing key of a user."""

    user_id: UserId
    target: str
    signer_id: UserId
    signer_key: str
    signature: str


def _of_device(table: Table) -> ColumnElement[bool]:
    return (table.c.user_id == bindparam("user")) & (table.c.device_id == bindparam("device"))


_INSERT_DEVICE = insert(device_keys)
_PUT_DEVICE = _INSERT_DEVICE.on_conflict_do_update(
    index_elements=["user_id", "device_id"], set_={"body": _INSERT_DEVICE.excluded.body}
)
_DEVICES = select(device_keys).where(device_keys.c.user_id.in_(bindparam("user_ids", expanding=True)))
_DEVICE = select(device_keys.c.body).where(_of_device(device_keys))
_COUNT_DEVICES = select(func.count()).where(device_keys.c.user_id == bindparam("user"))
_REMOVE_KEYS = delete(device_keys).where(_of_device(device_keys))
_REMOVE_CROSS = delete(cross_signing_keys).where(
    cross_signing_keys.c.user_id == bindparam("user"), cross_signing_keys.c.usage == bindparam("of_usage")
)
_KNOWN_ONE_TIME = select(one_time_keys.c.key_id, one_time_keys.c.body).where(
    _of_device(one_time_keys), one_time_keys.c.key_id.in_(bindparam("key_ids", expanding=True))
)
_ADD_ONE_TIME = insert(one_time_keys)
_LAST_SEQUENCE = select(func.coalesce(func.max(one_time_keys.c.sequence), 0)).where(_of_device(one_time_keys))
_COUNTS = (
    select(one_time_keys.c.algorithm, func.count()).where(_of_device(one_time_keys)).group_by(one_time_keys.c.algorithm)
)
_oldest = (
    select(
        one_time_keys.c.user_id,
        one_time_keys.c.device_id,
        one_time_keys.c.key_id,
        func.row_number()
        .over(
            partition_by=(one_time_keys.c.user_id, one_time_keys.c.device_id, one_time_keys.c.algorithm),
            order_by=(one_time_keys.c.sequence, one_time_keys.c.key_id),
        )
        .label("place"),
    )
    .where(
        tuple_(one_time_keys.c.user_id, one_time_keys.c.device_id, one_time_keys.c.algorithm).in_(
            bindparam("wanted", expanding=True)
        )
    )
    .subquery()
)
_OLDEST = select(_oldest.c.user_id, _oldest.c.device_id, _oldest.c.key_id).where(_oldest.c.place == 1)
_TAKE = (
    delete(one_time_keys)
    .where(
        tuple_(one_time_keys.c.user_id, one_time_keys.c.device_id, one_time_keys.c.key_id).in_(
            bindparam("keys", expanding=True)
        )
    )
    .returning(one_time_keys.c.user_id, one_time_keys.c.device_id, one_time_keys.c.key_id, one_time_keys.c.body)
)
_INSERT_FALLBACK = insert(fallback_keys)
_PUT_FALLBACK = _INSERT_FALLBACK.on_conflict_do_update(
    index_elements=["user_id", "device_id", "algorithm"],
    set_={name: _INSERT_FALLBACK.excluded[name] for name in ("key_id", "body", "used")},
)
_FALLBACKS = select(fallback_keys).where(_of_device(fallback_keys))
_USE_FALLBACKS = (
    update(fallback_keys)
    .where(
        tuple_(fallback_keys.c.user_id, fallback_keys.c.device_id, fallback_keys.c.algorithm).in_(
            bindparam("wanted", expanding=True)
        )
    )
    .values(used=True)
    .returning(fallback_keys.c.user_id, fallback_keys.c.device_id, fallback_keys.c.key_id, fallback_keys.c.body)
)
_UNUSED = select(fallback_keys.c.algorithm).where(_of_device(fallback_keys), fallback_keys.c.used.is_(False))
_INSERT_CROSS = insert(cross_signing_keys)
_PUT_CROSS = _INSERT_CROSS.on_conflict_do_update(
    index_elements=["user_id", "usage"],
    set_={name: _INSERT_CROSS.excluded[name] for name in ("public_key", "body")},
)
_CROSS = select(cross_signing_keys).where(cross_signing_keys.c.user_id.in_(bindparam("user_ids", expanding=True)))
_INSERT_SIGNATURE = insert(key_signatures)
_PUT_SIGNATURE = _INSERT_SIGNATURE.on_conflict_do_update(
    index_elements=["user_id", "target", "signer_id", "signer_key"],
    set_={"signature": _INSERT_SIGNATURE.excluded.signature},
)
_SIGNATURES = select(key_signatures).where(
    key_signatures.c.user_id.in_(bindparam("user_ids", expanding=True)),
    or_(key_signatures.c.signer_id == key_signatures.c.user_id, key_signatures.c.signer_id == bindparam("requester")),
)
_REMOVE_SIGNATURES = delete(key_signatures).where(
    key_signatures.c.user_id == bindparam("user"), key_signatures.c.target.in_(bindparam("targets", expanding=True))
)
_REMOVE_SIGNED_WITH = delete(key_signatures).where(
    key_signatures.c.signer_id == bindparam("user"), key_signatures.c.signer_key.in_(bindparam("keys", expanding=True))
)
_INSERT_CHANGE = insert(device_list_changes)
_PUT_CHANGE = _INSERT_CHANGE.on_conflict_do_update(
    index_elements=["user_id"], set_={"position": _INSERT_CHANGE.excluded.position}
)
_PUT_UPDATE = _INSERT_CHANGE.on_conflict_do_update(
    index_elements=["user_id"],
    set_={name: _INSERT_CHANGE.excluded[name] for name in ("position", "stream_id")},
)
_STREAM = select(device_list_changes.c.stream_id).where(device_list_changes.c.user_id == bindparam("user"))
_CHANGED = select(device_list_changes.c.user_id).where(
    device_list_changes.c.position > bindparam("after"), device_list_changes.c.position <= bindparam("upto")
)


def put_device(tx: WriteTx, device: Device, body: str) -> None:
    """Keep the identity keys of a device."""
    tx.connection.execute(_PUT_DEVICE, {"user_id": device[0], "device_id": device[1], "body": body})


def find_device(tx: ReadTx, device: Device) -> str | None:
    """The identity keys of a device."""
    return tx.connection.execute(_DEVICE, _key(device)).scalar_one_or_none()


def find_devices(tx: ReadTx, user_ids: Iterable[UserId]) -> dict[Device, str]:
    """The identity keys of all devices of these users."""
    found: dict[Device, str] = {}
    for part in chunks(user_ids):
        rows = tx.connection.execute(_DEVICES, {"user_ids": part})
        found.update(((row.user_id, row.device_id), row.body) for row in rows)
    return found


def put_devices(tx: WriteTx, bodies: Mapping[Device, str]) -> None:
    """Keep the identity keys of devices."""
    tx.connection.execute(
        _PUT_DEVICE,
        [{"user_id": device[0], "device_id": device[1], "body": body} for device, body in sorted(bodies.items())],
    )


def count_devices(tx: ReadTx, user_id: UserId) -> int:
    """How many devices of the user have identity keys."""
    return int(tx.connection.execute(_COUNT_DEVICES, {"user": user_id}).scalar_one())


def remove_keys_of(tx: WriteTx, gone: Iterable[Device]) -> None:
    """Remove the identity keys of devices."""
    tx.connection.execute(_REMOVE_KEYS, [_key(device) for device in gone])


def find_one_time(tx: ReadTx, device: Device, key_ids: Collection[str]) -> dict[str, str]:
    """Those of the one-time keys which the device has, by id."""
    rows = tx.connection.execute(_KNOWN_ONE_TIME, _key(device) | {"key_ids": list(key_ids)})
    return {row.key_id: row.body for row in rows}


def add_one_time(tx: WriteTx, device: Device, keys: Sequence[OneTimeKey]) -> None:
    """Add one-time keys behind those that are there."""
    sequence = tx.connection.execute(_LAST_SEQUENCE, _key(device)).scalar_one()
    tx.connection.execute(
        _ADD_ONE_TIME,
        [
            {
                "user_id": device[0],
                "device_id": device[1],
                "key_id": key.key_id,
                "algorithm": key.algorithm,
                "sequence": sequence + number,
                "body": key.body,
            }
            for number, key in enumerate(keys, 1)
        ],
    )


def count_one_time(tx: ReadTx, device: Device) -> dict[str, int]:
    """How many one-time keys a device has, by algorithm."""
    return {row[0]: row[1] for row in tx.connection.execute(_COUNTS, _key(device))}


def take_one_time(tx: WriteTx, wanted: Collection[tuple[UserId, DeviceId, str]]) -> dict[Device, list[OneTimeKey]]:
    """Take the oldest key of each device and algorithm; nobody else gets it. Those that have none are left out."""
    taken: dict[Device, list[OneTimeKey]] = {}
    missing = set(wanted)
    while missing:
        candidates = [tuple(row) for row in tx.connection.execute(_OLDEST, {"wanted": list(missing)})]
        if not candidates:
            break
        # Somebody else may have taken some of them in the meantime; for those the next in line is tried.
        for user_id, device_id, key_id, body in tx.connection.execute(_TAKE, {"keys": candidates}).all():
            key = OneTimeKey(key_id, body)
            taken.setdefault((user_id, device_id), []).append(key)
            missing.discard((user_id, device_id, key.algorithm))
    return taken


def put_fallbacks(tx: WriteTx, device: Device, keys: Sequence[OneTimeKey]) -> None:
    """Replace the fallback keys of these algorithms. A key that is uploaded again stays used if it was."""
    known = {row.algorithm: row for row in tx.connection.execute(_FALLBACKS, _key(device))}
    new = [
        {
            "user_id": device[0],
            "device_id": device[1],
            "algorithm": key.algorithm,
            "key_id": key.key_id,
            "body": key.body,
            "used": False,
        }
        for key in keys
        if (before := known.get(key.algorithm)) is None or (before.key_id, before.body) != (key.key_id, key.body)
    ]
    if new:
        tx.connection.execute(_PUT_FALLBACK, new)


def use_fallbacks(tx: WriteTx, wanted: Collection[tuple[UserId, DeviceId, str]]) -> dict[Device, list[OneTimeKey]]:
    """The fallback keys of these devices and algorithms, which count as used from now on."""
    found: dict[Device, list[OneTimeKey]] = {}
    for user_id, device_id, key_id, body in tx.connection.execute(_USE_FALLBACKS, {"wanted": list(wanted)}).all():
        found.setdefault((user_id, device_id), []).append(OneTimeKey(key_id, body))
    return found


def list_unused_fallbacks(tx: ReadTx, device: Device) -> list[str]:
    """The algorithms for which the device has a fallback key that nobody was given."""
    return sorted(tx.connection.execute(_UNUSED, _key(device)).scalars())


def put_cross_signing(tx: WriteTx, keys: Sequence[CrossSigningKey]) -> None:
    """Keep cross-signing keys in the place of those before."""
    tx.connection.execute(
        _PUT_CROSS,
        [{"user_id": key.user_id, "usage": key.usage, "public_key": key.public_key, "body": key.body} for key in keys],
    )


def find_cross_signing(tx: ReadTx, user_ids: Iterable[UserId]) -> dict[tuple[UserId, str], CrossSigningKey]:
    """The cross-signing keys of these users, by user and usage."""
    found: dict[tuple[UserId, str], CrossSigningKey] = {}
    for part in chunks(user_ids):
        rows = tx.connection.execute(_CROSS, {"user_ids": part})
        found.update(((row.user_id, row.usage), CrossSigningKey(*row)) for row in rows)
    return found


def remove_cross_signing(tx: WriteTx, gone: Iterable[tuple[UserId, str]]) -> None:
    """Remove cross-signing keys, by user and usage."""
    tx.connection.execute(_REMOVE_CROSS, [{"user": user_id, "of_usage": usage} for user_id, usage in gone])


def put_signatures(tx: WriteTx, signatures: Sequence[Signature]) -> None:
    """Keep signatures."""
    tx.connection.execute(
        _PUT_SIGNATURE,
        [
            {
                "user_id": one.user_id,
                "target": one.target,
                "signer_id": one.signer_id,
                "signer_key": one.signer_key,
                "signature": one.signature,
            }
            for one in signatures
        ],
    )


def list_signatures(tx: ReadTx, user_ids: Iterable[UserId], *, requester: UserId) -> list[Signature]:
    """The signatures upon these users' keys that the requester may see: their own, and the requester's."""
    found: list[Signature] = []
    for part in chunks(user_ids):
        rows = tx.connection.execute(_SIGNATURES, {"user_ids": part, "requester": requester})
        found.extend(Signature(*row) for row in rows)
    return found


def remove_signatures(tx: WriteTx, user_id: UserId, targets: Collection[str]) -> None:
    """Remove the signatures upon keys that are no more."""
    tx.connection.execute(_REMOVE_SIGNATURES, {"user": user_id, "targets": list(targets)})


def remove_signatures_with(tx: WriteTx, user_id: UserId, names: Iterable[str]) -> None:
    """Remove the signatures that the user made with keys that are no more: named by a device, or its public part."""
    tx.connection.execute(_REMOVE_SIGNED_WITH, {"user": user_id, "keys": [f"ed25519:{name}" for name in names]})


def remove_devices(tx: WriteTx, user_id: UserId, device_ids: Collection[DeviceId]) -> None:
    """Remove everything of these devices."""
    for table in (device_keys, one_time_keys, fallback_keys):
        tx.connection.execute(delete(table).where(table.c.user_id == user_id, table.c.device_id.in_(list(device_ids))))
    remove_signatures(tx, user_id, device_ids)
    remove_signatures_with(tx, user_id, device_ids)


def note_changes(tx: WriteTx, user_ids: Sequence[UserId], audience: Iterable[UserId]) -> int:
    """Others have to look at these users' keys again; the audience is woken. The last position that was taken."""
    last = stream_rows.advance(tx, len(user_ids))
    rows = [
        {"user_id": user_id, "position": last - number, "stream_id": 0}
        for number, user_id in enumerate(sorted(user_ids))
    ]
    tx.connection.execute(_PUT_CHANGE, rows)
    tx.wake({*user_ids, *audience})
    return last


def note_updates(tx: WriteTx, user_id: UserId, count: int, audience: Iterable[UserId]) -> tuple[int, int]:
    """A local user's devices have changed, in so many ways: the number of the update before, and of the last."""
    before = find_stream_id(tx, user_id)
    last = stream_rows.advance(tx, count)
    tx.connection.execute(_PUT_UPDATE, {"user_id": user_id, "position": last, "stream_id": last})
    tx.wake({user_id, *audience})
    return before, last


def find_stream_id(tx: ReadTx, user_id: UserId) -> int:
    """The number of the last update to a local user's devices; 0 if there was none."""
    return tx.connection.execute(_STREAM, {"user": user_id}).scalar_one_or_none() or 0


def list_changed(tx: ReadTx, *, after: int, upto: int) -> set[UserId]:
    """The users whose keys changed in (after, upto]."""
    return set(tx.connection.execute(_CHANGED, {"after": after, "upto": upto}).scalars())


def _key(device: Device) -> dict[str, str]:
    return {"user": device[0], "device": device[1]}
