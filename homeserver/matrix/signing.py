"""Ed25519 signatures over canonical JSON (appendices, "Signing JSON").

:class:`SigningKey` is a server's private key: ``SigningKey.from_seed(version, seed_base64)``, or
``SigningKey.generate(version, seed)`` with 32 random bytes of the caller's. It has ``key_id`` (``ed25519:version``),
``public_key`` and ``seed`` (unpadded base64), and ``sign(message) -> str`` for plain bytes.

``sign_json(raw, signer, key) -> bytes``
    The JSON object with a signature added; ``signatures`` and ``unsigned`` stay and are not covered.

``verify_json(raw, signer, key_id, public_key) -> None``
    Raises :class:`SignatureError` unless the object carries a good signature of this signer with this key.

``verify_signature(message, signature, public_key) -> None``
    The same for plain bytes.

``verify_batch(items) -> list[str | None]``
    Many times ``verify_json``, without the interpreter lock: per item None if good, else the reason.

``verify_events(items) -> list[str | None]``
    The same for events, as (event, signer, key_id, public_key); the event is redacted before it is checked,
    so full and redacted events pass alike.

``sign_event(event, server_name, key) -> Event``
    The event with one more signature, such as that of the server that authorises a restricted join.

``sign_pdu(pdu, version, server_name, key) -> Event``
    Gives a template, as ``make_join`` answers it, its content hash, signature and event id.
    Existing ``hashes``, ``signatures`` and ``unsigned`` are replaced.
"""

from homeserver._rust.errors import SignatureError
from homeserver._rust.signing import (
    SigningKey,
    sign_event,
    sign_json,
    sign_pdu,
    verify_batch,
    verify_events,
    verify_json,
    verify_signature,
)

__all__ = [
    "SignatureError",
    "SigningKey",
    "sign_event",
    "sign_json",
    "sign_pdu",
    "verify_batch",
    "verify_events",
    "verify_json",
    "verify_signature",
]
