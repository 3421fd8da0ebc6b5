"""Signatures against the specification's vectors and the reference implementation in Python."""

import base64
import json
from pathlib import Path
from typing import Any

import nacl.exceptions
import nacl.signing
import pytest
import signedjson.key
import signedjson.sign
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.canonical import canonicalize, sha256_base64
from homeserver.matrix.events import Event, build_event, build_template, redact_pdu
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import (
    SignatureError,
    SigningKey,
    sign_event,
    sign_json,
    sign_pdu,
    verify_batch,
    verify_events,
    verify_json,
    verify_signature,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "signing.json").read_text(encoding="utf-8"))
KEY = SigningKey.from_seed("1", VECTORS["seed"])

objects = st.dictionaries(
    st.text(),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
        lambda children: st.lists(children) | st.dictionaries(st.text(), children),
        max_leaves=10,
    ),
).filter(lambda value: "signatures" not in value)
seeds = st.binary(min_size=32, max_size=32)


def unpadded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


@pytest.mark.behaviours("SIG-03", "SS-SIGN-02")
@pytest.mark.parametrize("vector", VECTORS["json"])
def test_sign_json_of_specification_vectors(vector: dict[str, Any]) -> None:
    signed = sign_json(json.dumps(vector["unsigned"]).encode(), "domain", KEY)
    assert json.loads(signed) == vector["signed"]
    verify_json(signed, "domain", "ed25519:1", KEY.public_key)


@pytest.mark.behaviours("SIG-03", "SS-SIGN-01", "SS-SIGN-02")
def test_sign_pdu_of_specification_vector() -> None:
    # Only this vector has all fields of an event, and only in versions 3 to 10 does its form fit.
    vector = VECTORS["events"][0]
    event = sign_pdu(json.dumps(vector["unsigned"]).encode(), "3", "domain", KEY)
    expected = {key: value for key, value in vector["signed"].items() if key != "unsigned"}
    assert json.loads(event.pdu) == expected


@pytest.mark.behaviours("SS-SIGN-01", "SS-SIGN-02")
def test_hash_redaction_and_signature_of_the_specification_vector_that_is_redactable() -> None:
    # It lacks fields that an event has, so it goes through the steps one by one: hash, redact, sign, copy back.
    vector = VECTORS["events"][1]
    given = {key: value for key, value in vector["unsigned"].items() if key not in ("unsigned", "signatures")}
    given["hashes"] = {"sha256": sha256_base64(canonicalize(json.dumps(given).encode()))}
    redacted = redact_pdu(json.dumps(given).encode(), "1")
    assert json.loads(redacted)["content"] == {}
    signatures = json.loads(sign_json(redacted, "domain", KEY))["signatures"]
    assert given | {"signatures": signatures, "unsigned": vector["unsigned"]["unsigned"]} == vector["signed"]


@pytest.mark.behaviours("SIG-01", "SIG-03")
@given(objects, seeds)
def test_sign_json_equals_reference(value: dict[str, Any], seed: bytes) -> None:
    key = SigningKey.generate("k1", seed)
    reference = signedjson.key.decode_signing_key_base64("ed25519", "k1", unpadded(seed))
    assert key.key_id == f"ed25519:{reference.version}"
    assert key.seed == signedjson.key.encode_signing_key_base64(reference)
    assert key.public_key == signedjson.key.encode_verify_key_base64(signedjson.key.get_verify_key(reference))
    signed = sign_json(json.dumps(value).encode(), "one", key)
    expected = signedjson.sign.sign_json(json.loads(json.dumps(value)), "one", reference)
    assert json.loads(signed) == expected
    verify_json(signed, "one", "ed25519:k1", key.public_key)
    signedjson.sign.verify_signed_json(json.loads(signed), "one", signedjson.key.get_verify_key(reference))


@given(st.binary(), seeds)
def test_sign_of_bytes_equals_reference(message: bytes, seed: bytes) -> None:
    key = SigningKey.generate("1", seed)
    signature = key.sign(message)
    assert signature == unpadded(nacl.signing.SigningKey(seed).sign(message).signature)
    verify_signature(message, signature, key.public_key)
    with pytest.raises(SignatureError):
        verify_signature(message + b"x", signature, key.public_key)


@given(seeds, st.binary(min_size=64, max_size=64), st.binary(min_size=32, max_size=32))
def test_verify_signature_of_anything_equals_reference(seed: bytes, signature: bytes, public: bytes) -> None:
    good = nacl.signing.SigningKey(seed)
    cases = [
        (good.verify_key.encode(), signature),
        (public, signature),
        # Keys of small order, and the identity as a signature.
        (bytes(32), bytes(64)),
        (bytes([1]) + bytes(31), bytes([1]) + bytes(63)),
        (good.verify_key.encode(), bytes([1]) + bytes(63)),
    ]
    for key, candidate in cases:
        try:
            nacl.signing.VerifyKey(key).verify(b"message", candidate)
        except nacl.exceptions.BadSignatureError:
            with pytest.raises(SignatureError):
                verify_signature(b"message", unpadded(candidate), unpadded(key))
        else:
            verify_signature(b"message", unpadded(candidate), unpadded(key))


@pytest.mark.behaviours("SIG-01")
def test_base64_is_read_with_and_without_padding() -> None:
    signed = json.loads(sign_json(b'{"a":1}', "one", KEY))
    signed["signatures"]["one"]["ed25519:1"] += "=="
    verify_json(json.dumps(signed).encode(), "one", "ed25519:1", KEY.public_key + "=")
    assert SigningKey.from_seed("1", KEY.seed + "=").public_key == KEY.public_key


@pytest.mark.behaviours("SIG-03")
def test_verify_json_of_wrong_signatures_is_an_error() -> None:
    signed = sign_json(b'{"a":1,"unsigned":{"b":2}}', "one", KEY)
    verify_json(signed.replace(b'"b":2', b'"b":3'), "one", "ed25519:1", KEY.public_key)
    for raw, signer, key_id, public_key in [
        (signed.replace(b'"a":1', b'"a":2'), "one", "ed25519:1", KEY.public_key),
        (signed, "two", "ed25519:1", KEY.public_key),
        (signed, "one", "ed25519:2", KEY.public_key),
        (signed, "one", "curve:1", KEY.public_key),
        (signed, "one", "ed25519:1", SigningKey.generate("1", bytes(32)).public_key),
        (signed, "one", "ed25519:1", "bad"),
        (b"{}", "one", "ed25519:1", KEY.public_key),
        (b"[]", "one", "ed25519:1", KEY.public_key),
        (b"", "one", "ed25519:1", KEY.public_key),
    ]:
        with pytest.raises(SignatureError):
            verify_json(raw, signer, key_id, public_key)


def test_verify_batch_tells_each_item() -> None:
    good = sign_json(b'{"a":1}', "one", KEY)
    bad = good.replace(b'"a":1', b'"a":2')
    items = [(raw, "one", "ed25519:1", KEY.public_key) for raw in (good, bad, b"{", good)]
    first, second, third, fourth = verify_batch(items)
    assert (first, fourth) == (None, None)
    assert second == "the signature does not match"
    assert third is not None
    assert verify_batch([]) == []


@pytest.mark.parametrize(("version", "seed"), [("1", "AAAA"), ("1", "!"), ("", "A" * 43), ("a:b", "A" * 43)])
def test_signing_key_of_wrong_parts_is_an_error(version: str, seed: str) -> None:
    with pytest.raises(SignatureError):
        SigningKey.from_seed(version, seed)


def test_signing_key_does_not_show_its_seed() -> None:
    assert KEY.seed not in repr(KEY)
    assert KEY.seed not in str(KEY)


def template(version: str) -> bytes:
    return build_template(
        version,
        room_id="!r:one",
        type="m.room.member",
        sender="@a:two",
        state_key="@a:two",
        content=b'{"membership":"join","displayname":"A"}',
        origin_server_ts=1,
        depth=2,
        prev_events=[],
        auth_events=[],
        event_id="$id:two" if ROOM_VERSIONS[version].event_ids_in_pdu else None,
    )


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_events_verify_whole_redacted_and_with_more_signatures(version: str) -> None:
    event = sign_pdu(template(version), version, "two", KEY)
    second = SigningKey.generate("s", bytes(32))
    both = sign_event(event, "one", second)
    assert both.event_id == event.event_id
    assert set(both.signatures) == {"one", "two"}
    good: list[tuple[Event, str, str, str]] = [
        (event, "two", "ed25519:1", KEY.public_key),
        (event.redacted(), "two", "ed25519:1", KEY.public_key),
        (both, "two", "ed25519:1", KEY.public_key),
        (both, "one", "ed25519:s", second.public_key),
    ]
    changed = Event.parse(event.pdu.replace(b'"depth":2', b'"depth":3'), version)
    bad = [
        (changed, "two", "ed25519:1", KEY.public_key),
        (event, "one", "ed25519:s", second.public_key),
        (both, "two", "ed25519:1", second.public_key),
    ]
    assert verify_events(good) == [None] * 4
    assert None not in verify_events(bad)
    # A redacted event is a plain signed object, so the reference can check it.
    verify_json(event.redacted().pdu, "two", "ed25519:1", KEY.public_key)
    reference = signedjson.key.decode_verify_key_bytes("ed25519:1", base64.b64decode(KEY.public_key + "="))
    signedjson.sign.verify_signed_json(json.loads(event.redacted().pdu), "two", reference)


def test_sign_pdu_equals_build_event() -> None:
    built = build_event(
        "12",
        server_name="two",
        key=KEY,
        room_id="!r:one",
        type="m.room.member",
        sender="@a:two",
        state_key="@a:two",
        content=b'{"membership":"join","displayname":"A"}',
        origin_server_ts=1,
        depth=2,
        prev_events=[],
        auth_events=[],
    )
    assert sign_pdu(template("12"), "12", "two", KEY).pdu == built.pdu
