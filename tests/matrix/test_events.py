"""Events: what is parsed, what is built, and the forms in which others see them."""

import hashlib
import json
from typing import Any

import canonicaljson
import pytest
import unpaddedbase64
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.events import (
    Event,
    EventTooLarge,
    MalformedEvent,
    build_event,
    build_template,
    event_id_of,
    receive_events,
    redact_pdu,
)
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.matrix.signing import SigningKey
from tests import room_graphs

KEY = SigningKey.generate("1", bytes(32))
VERSIONS = list(ROOM_VERSIONS.values())
by_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.identifier)


def build(version: RoomVersion, **fields: Any) -> Event:
    arguments: dict[str, Any] = {
        "server_name": "one",
        "key": KEY,
        "room_id": "!r:one",
        "type": "m.room.message",
        "sender": "@a:one",
        "state_key": None,
        "content": b'{"body":"hello","msgtype":"m.text"}',
        "origin_server_ts": 1_700_000_000_000,
        "depth": 3,
        "prev_events": [],
        "auth_events": [],
        "event_id": "$id:one" if version.event_ids_in_pdu else None,
    }
    return build_event(version.identifier, **(arguments | fields))


def create(version: RoomVersion) -> Event:
    room_id = None if version.room_ids_are_hashes else "!r:one"
    return build(version, type="m.room.create", state_key="", room_id=room_id, content=b'{"m.federate":true}')


@by_version
def test_build_event_has_the_fields_it_was_given(version: RoomVersion) -> None:
    first = create(version)
    event = build(
        version,
        type="m.room.member",
        state_key="@a:one",
        content=b' { "membership" : "join" } ',
        prev_events=[first],
        auth_events=[first],
    )
    assert (event.type, event.sender, event.state_key) == ("m.room.member", "@a:one", "@a:one")
    assert (event.room_id, event.depth, event.origin_server_ts) == ("!r:one", 3, 1_700_000_000_000)
    assert (event.prev_events, event.auth_events) == ([first.event_id], [first.event_id])
    assert (event.membership, event.redacts, event.is_state) == ("join", None, True)
    assert event.room_version == version.identifier
    assert event.content == {"membership": "join"}
    assert event.content is not event.content
    assert event.content_json == b'{"membership":"join"}'
    assert event.size == len(event.pdu)
    assert event.content_hash_matches()
    message = build(version)
    assert (message.state_key, message.is_state, message.membership) == (None, False, None)


@pytest.mark.behaviours("RV-03")
@by_version
def test_hashes_and_ids_equal_reference(version: RoomVersion) -> None:
    first = create(version)
    event = build(version, prev_events=[first])
    pdu = json.loads(event.pdu)
    assert event.pdu == canonicaljson.encode_canonical_json(pdu)

    def digest(value: dict[str, Any]) -> bytes:
        return hashlib.sha256(canonicaljson.encode_canonical_json(value)).digest()

    unhashed = {key: value for key, value in pdu.items() if key not in ("hashes", "signatures", "unsigned")}
    assert pdu["hashes"] == {"sha256": unpaddedbase64.encode_base64(digest(unhashed))}
    redacted = json.loads(event.redacted().pdu)
    assert redacted["content"] == {}
    del redacted["signatures"]
    reference = digest(redacted)
    assert event.reference_hash == unpaddedbase64.encode_base64(reference)
    expected = {
        "opaque": "$id:one",
        "hash": "$" + unpaddedbase64.encode_base64(reference),
        "url_safe_hash": "$" + unpaddedbase64.encode_base64(reference, urlsafe=True),
    }[version.event_id_format]
    assert event.event_id == expected
    assert event_id_of(event.pdu, version.identifier) == expected
    if version.references_are_pairs:
        assert pdu["prev_events"] == [[first.event_id, {"sha256": first.reference_hash}]]
        assert pdu["event_id"] == "$id:one"
    else:
        assert pdu["prev_events"] == [first.event_id]
        assert "event_id" not in pdu


@pytest.mark.behaviours("RV-06")
@by_version
def test_room_id_of_a_create_event(version: RoomVersion) -> None:
    event = create(version)
    if version.room_ids_are_hashes:
        assert "room_id" not in json.loads(event.pdu)
        assert event.room_id == "!" + event.event_id[1:]
        with pytest.raises(MalformedEvent, match="room_id"):
            build(version, type="m.room.create", state_key="", room_id="!r:one")
    else:
        assert event.room_id == "!r:one"
        with pytest.raises(MalformedEvent, match="room_id"):
            build(version, type="m.room.create", state_key="", room_id=None)
    assert json.loads(event.client_json())["room_id"] == event.room_id
    with pytest.raises(MalformedEvent, match="room_id"):
        build(version, room_id=None)


@by_version
def test_parse_gives_back_what_was_built(version: RoomVersion) -> None:
    event = build(version)
    pdu = json.loads(event.pdu)
    sloppy = json.dumps(pdu | {"unsigned": {"age": 4}}, indent=2).encode()
    for again in (
        Event.parse(event.pdu, version.identifier),
        Event.parse(event.pdu, version.identifier, event.event_id),
        Event.parse(sloppy, version.identifier),
    ):
        assert again.pdu == event.pdu
        assert again.event_id == event.event_id
        assert again.reference_hash == event.reference_hash
        assert again.client_json() == event.client_json()


def test_parse_of_unknown_version_is_an_error() -> None:
    with pytest.raises(MalformedEvent, match="unknown room version"):
        Event.parse(b"{}", "13")


@by_version
@pytest.mark.parametrize("key", ["type", "sender", "depth", "origin_server_ts", "content", "prev_events", "hashes"])
def test_parse_of_missing_and_wrong_fields_is_malformed(version: RoomVersion, key: str) -> None:
    pdu = json.loads(build(version).pdu)
    for wrong in (None, [7], {"x": "y"}):
        if key in ("content", "hashes") and isinstance(wrong, dict):
            continue
        with pytest.raises(MalformedEvent, match=key):
            Event.parse(json.dumps(pdu | {key: wrong}).encode(), version.identifier)
    del pdu[key]
    with pytest.raises(MalformedEvent, match=f"{key} is"):
        Event.parse(json.dumps(pdu).encode(), version.identifier)


@given(st.binary())
def test_parse_of_any_bytes_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedEvent):
        Event.parse(raw, "12")


@pytest.mark.behaviours("RV-03")
@by_version
def test_parse_of_floats_and_large_integers(version: RoomVersion) -> None:
    pdu = build(version).pdu.replace(b'"body":"hello"', b'"body":[1.5,12345678901234567890,1e400]')
    if version.strict_canonical_json:
        with pytest.raises(MalformedEvent):
            Event.parse(pdu, version.identifier)
    else:
        event = Event.parse(pdu, version.identifier)
        assert event.content["body"] == [1.5, 12345678901234567890, float("inf")]
        assert b"[1.5,12345678901234567890,1e400]" in event.client_json()


@pytest.mark.behaviours("CS-EV-01", "CS-EV-02")
@by_version
def test_events_that_are_too_large(version: RoomVersion) -> None:
    with pytest.raises(EventTooLarge, match="65536"):
        build(version, content=b'{"body":"%s"}' % (b"x" * 65_536))
    with pytest.raises(EventTooLarge, match="state_key"):
        build(version, state_key="é" * 128)
    pdu = json.loads(build(version).pdu)
    with pytest.raises(EventTooLarge):
        Event.parse(json.dumps(pdu | {"type": "x" * 256}).encode(), version.identifier)
    with pytest.raises(EventTooLarge):
        Event.parse(json.dumps(pdu | {"more": "x" * 65_536}).encode(), version.identifier)
    # What is too large is malformed, and a wrong value, too.
    assert issubclass(EventTooLarge, MalformedEvent)
    assert issubclass(MalformedEvent, ValueError)


@by_version
def test_build_event_of_wrong_content_is_an_error(version: RoomVersion) -> None:
    for content in (b"", b"[]", b"5", b'{"a":"\\ud800"}', b'{"a":1', b"\xff"):
        with pytest.raises(CanonicalJsonError):
            build(version, content=content)
    if version.strict_canonical_json:
        with pytest.raises(CanonicalJsonError):
            build(version, content=b'{"a":1.5}')
    else:
        assert build(version, content=b'{"a":1.5}').content == {"a": 1.5}


@pytest.mark.behaviours("CS-EV-03")
@by_version
def test_client_json_is_the_client_format(version: RoomVersion) -> None:
    event = build(version, state_key="k")
    expected = {
        "content": {"body": "hello", "msgtype": "m.text"},
        "event_id": event.event_id,
        "origin_server_ts": 1_700_000_000_000,
        "room_id": "!r:one",
        "sender": "@a:one",
        "state_key": "k",
        "type": "m.room.message",
    }
    assert json.loads(event.client_json()) == expected
    assert event.client_json() is event.client_json()
    del expected["room_id"]
    assert json.loads(event.client_json(include_room_id=False)) == expected
    del expected["state_key"]
    assert json.loads(build(version).client_json(include_room_id=False)) == expected | {
        "event_id": build(version).event_id
    }


@pytest.mark.behaviours("CS-EV-09")
@by_version
def test_stripped_json_has_four_keys(version: RoomVersion) -> None:
    stripped = json.loads(build(version, type="m.room.name", state_key="", content=b'{"name":"n"}').stripped_json())
    assert stripped == {"content": {"name": "n"}, "sender": "@a:one", "state_key": "", "type": "m.room.name"}


@pytest.mark.behaviours("RV-03")
@by_version
def test_redacts_is_where_the_version_has_it_and_clients_see_both(version: RoomVersion) -> None:
    for content, redacts in ((b'{"reason":"r"}', "$x"), (b'{"reason":"r","redacts":"$x"}', None)):
        event = build(version, type="m.room.redaction", content=content, redacts=redacts)
        assert event.redacts == "$x"
        assert ("redacts" in event.content) is version.redacts_in_content
        assert ("redacts" in json.loads(event.pdu)) is not version.redacts_in_content
        shown = json.loads(event.client_json())
        assert shown["redacts"] == "$x"
        assert shown["content"] == {"reason": "r", "redacts": "$x"}
    with pytest.raises(MalformedEvent):
        build(version, redacts="$x")


REDACTION_SETS = ["R1", "R6", "R8", "R9", "R11"]
REDACTIONS: list[tuple[str, dict[str, Any], dict[str, dict[str, Any]]]] = [
    # The type, the content, and what stays of it from a redaction set on.
    ("m.room.member", {"membership": "join", "displayname": "x"}, {"R1": {"membership": "join"}}),
    (
        "m.room.member",
        {"join_authorised_via_users_server": "@a:one"},
        {"R1": {}, "R9": {"join_authorised_via_users_server": "@a:one"}},
    ),
    (
        "m.room.member",
        {"third_party_invite": {"signed": {"a": 1}, "display_name": "x"}},
        {"R1": {}, "R11": {"third_party_invite": {"signed": {"a": 1}}}},
    ),
    (
        "m.room.create",
        {"creator": "@a:one", "other": 1},
        {"R1": {"creator": "@a:one"}, "R11": {"creator": "@a:one", "other": 1}},
    ),
    (
        "m.room.join_rules",
        {"join_rule": "x", "allow": []},
        {"R1": {"join_rule": "x"}, "R8": {"join_rule": "x", "allow": []}},
    ),
    (
        "m.room.power_levels",
        {"ban": 1, "invite": 2, "notifications": {}},
        {"R1": {"ban": 1}, "R11": {"ban": 1, "invite": 2}},
    ),
    ("m.room.history_visibility", {"history_visibility": "x", "other": 1}, {"R1": {"history_visibility": "x"}}),
    ("m.room.aliases", {"aliases": ["#a:one"]}, {"R1": {"aliases": ["#a:one"]}, "R6": {}}),
    ("m.room.redaction", {"redacts": "$x", "reason": "y"}, {"R1": {}, "R11": {"redacts": "$x"}}),
    ("m.room.message", {"body": "x", "membership": "join"}, {"R1": {}}),
]


@pytest.mark.behaviours("RV-03")
@by_version
@pytest.mark.parametrize(("kind", "content", "stays"), REDACTIONS)
def test_redaction_keeps_what_its_version_says(
    version: RoomVersion, kind: str, content: dict[str, Any], stays: dict[str, dict[str, Any]]
) -> None:
    pdu = json.loads(build(version).pdu) | {
        "type": kind,
        "content": content,
        "origin": "one",
        "prev_state": [],
        "membership": "join",
        "redacts": "$x",
        "org.example": 1,
    }
    if version.room_ids_are_hashes and kind == "m.room.create":
        del pdu["room_id"]
    redacted = json.loads(redact_pdu(json.dumps(pdu | {"unsigned": {}}).encode(), version.identifier))
    so_far = REDACTION_SETS[: REDACTION_SETS.index(version.redaction_set) + 1]
    assert redacted["content"] == [stays[name] for name in so_far if name in stays][-1]
    gone = {"redacts", "org.example"}
    if version.redaction_set == "R11":
        gone |= {"origin", "prev_state", "membership"}
    assert set(redacted) == set(pdu) - gone
    event = Event.parse(json.dumps(pdu).encode(), version.identifier)
    assert json.loads(event.redacted().pdu) == redacted
    assert event.redacted().event_id == event.event_id
    assert event.redacted().redacted().pdu == event.redacted().pdu


@by_version
def test_content_hash_shows_a_changed_event(version: RoomVersion) -> None:
    event = build(version)
    changed = Event.parse(event.pdu.replace(b"hello", b"other"), version.identifier)
    assert not changed.content_hash_matches()
    # Its redacted form, and so its id, is the same all the same.
    assert changed.event_id == event.event_id
    assert changed.redacted().pdu == event.redacted().pdu


def test_build_template_has_neither_hashes_nor_signatures() -> None:
    template = build_template(
        "12",
        room_id="!r",
        type="m.room.member",
        sender="@a:two",
        state_key="@a:two",
        content=b'{"membership":"join"}',
        origin_server_ts=1,
        depth=2**53,
        prev_events=[],
        auth_events=[],
    )
    assert json.loads(template) == {
        "auth_events": [],
        "content": {"membership": "join"},
        "depth": 2**53 - 1,
        "origin_server_ts": 1,
        "prev_events": [],
        "room_id": "!r",
        "sender": "@a:two",
        "state_key": "@a:two",
        "type": "m.room.member",
    }


def test_events_cannot_be_changed() -> None:
    event = build(VERSIONS[-1])
    with pytest.raises(AttributeError):
        event.depth = 5  # type: ignore[misc]  # that is the point
    with pytest.raises(TypeError):
        Event()
    assert event.event_id in repr(event)


def test_many_events_from_elsewhere_are_told_apart_by_whether_they_are_as_they_were_made() -> None:
    graph = room_graphs.begin("10")
    good = graph.events[0].pdu
    fields = json.loads(good)
    changed = json.dumps({**fields, "content": {**fields["content"], "more": 1}}).encode()
    noted = json.dumps({**fields, "unsigned": {"age": 7}}).encode()
    received = receive_events([good, changed, noted, b"{}", b"nonsense"], "10")
    whole = [one for one in received if not isinstance(one, str)]
    assert [matches for _, matches in whole] == [True, False, True]
    assert [event.event_id for event, _ in whole] == [graph.events[0].event_id] * 3
    assert all(isinstance(one, str) for one in received[3:])
