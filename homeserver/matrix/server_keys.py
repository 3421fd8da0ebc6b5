"""The keys that a server publishes (server-server API, Retrieving server keys)."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.signing import SignatureError, SigningKey, sign_json, verify_json

LONGEST_VALIDITY_MS = 7 * 24 * 60 * 60 * 1000
"""No key is believed for longer than that, whatever its server says."""

KEY_ID = re.compile(r"ed25519:[a-zA-Z0-9_]{1,100}")
_PUBLIC_KEY = re.compile(r"[a-zA-Z0-9+/]{43}=?")
LARGEST_DOCUMENT = 32 << 10
"""More than a hundred old keys take. It is kept as it came, and told to whoever asks."""
_MOST_KEYS = 100


class BadKeys(ValueError):
    """The document does not tell a server's keys; the message says why."""


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """A public key, and the time up to which it signs."""

    public_key: str
    valid_until_ts: int


@dataclass(frozen=True, slots=True)
class KeyDocument:
    """What a server says of its keys, in words of its own that it signed."""

    server_name: str
    valid_until_ts: int
    keys: dict[str, PublishedKey]
    """By id: those in use, and old ones, which sign nothing that is newer than the time they were given up."""
    raw: bytes

    @classmethod
    def parse(cls, raw: bytes, server_name: str, *, now: int) -> "KeyDocument":
        """The document, checked against the keys that it names. Raises `BadKeys`."""
        if len(raw) > LARGEST_DOCUMENT:
            raise BadKeys("The keys take too many bytes.")
        try:
            shape = msgspec.json.decode(raw, type=_Shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadKeys(f"The keys are not in the form of the specification: {error}") from None
        if shape.server_name != server_name:
            raise BadKeys(f"The keys are those of {shape.server_name!r}.")
        current = {key_id: key.key for key_id, key in shape.verify_keys.items() if _is_key(key_id, key.key)}
        if len(shape.verify_keys) > _MOST_KEYS or len(shape.old_verify_keys) > _MOST_KEYS:
            raise BadKeys("There are too many keys.")
        signed_by = [key_id for key_id in shape.signatures.get(server_name, {}) if key_id in current]
        if not signed_by:
            raise BadKeys("The keys are not signed with one of themselves.")
        for key_id in signed_by:
            check_signature(raw, server_name, key_id, current[key_id])
        # The numbers are whatever the server has signed, and any number of digits long.
        valid_until = max(0, min(shape.valid_until_ts, now + LONGEST_VALIDITY_MS))
        old = {
            key_id: PublishedKey(key.key, max(0, min(key.expired_ts, now)))
            for key_id, key in shape.old_verify_keys.items()
            if _is_key(key_id, key.key)
        }
        new = {key_id: PublishedKey(key, valid_until) for key_id, key in current.items()}
        return cls(server_name, valid_until, {**old, **new}, raw)


def check_signature(raw: bytes, signer: str, key_id: str, public_key: str) -> None:
    """Raise `BadKeys` unless the document bears a good signature by this key."""
    try:
        verify_json(raw, signer, key_id, public_key)
    except (SignatureError, CanonicalJsonError) as error:
        raise BadKeys(f"The signature of {signer} is wrong: {error}") from None


def publish(server_name: str, key: SigningKey, old: dict[str, PublishedKey], *, valid_until_ts: int) -> bytes:
    """The document of this server, signed."""
    document: dict[str, Any] = {
        "server_name": server_name,
        "valid_until_ts": valid_until_ts,
        "verify_keys": {key.key_id: {"key": key.public_key}},
        "old_verify_keys": {
            key_id: {"key": one.public_key, "expired_ts": one.valid_until_ts} for key_id, one in old.items()
        },
    }
    return sign_json(msgspec.json.encode(document), server_name, key)


def server_named_in(raw: bytes) -> str | None:
    """Whose keys the document says it tells, if it says so at all."""
    try:
        return msgspec.json.decode(raw, type=_Named).server_name
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def signers_of(raw: bytes) -> dict[str, dict[str, str]]:
    """Who signed the document, by server and key."""
    try:
        return msgspec.json.decode(raw, type=_Signed).signatures
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _is_key(key_id: str, public_key: str) -> bool:
    """Whether this looks like a key of a kind that is known; others say nothing to this server."""
    return bool(KEY_ID.fullmatch(key_id) and _PUBLIC_KEY.fullmatch(public_key))


class _Signed(msgspec.Struct, frozen=True):
    signatures: dict[str, dict[str, str]] = {}


class _Named(msgspec.Struct, frozen=True):
    server_name: str


class _Key(msgspec.Struct, frozen=True):
    key: str


class _OldKey(msgspec.Struct, frozen=True):
    key: str
    expired_ts: int


class _Shape(msgspec.Struct, frozen=True):
    server_name: str
    valid_until_ts: int
    verify_keys: dict[str, _Key]
    signatures: dict[str, dict[str, str]]
    old_verify_keys: dict[str, _OldKey] = {}
