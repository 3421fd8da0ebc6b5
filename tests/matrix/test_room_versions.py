"""The table of room versions, against a second copy of it and against what Rust does."""

import json

import pytest

from homeserver.matrix.event_auth import auth_event_keys
from homeserver.matrix.events import MalformedEvent, event_id_of
from homeserver.matrix.room_versions import DEFAULT_ROOM_VERSION, ROOM_VERSIONS, RoomVersion

NAMES = [str(number) for number in range(1, 13)]


@pytest.mark.behaviours("RV-01")
def test_versions_1_to_12_are_known() -> None:
    assert list(ROOM_VERSIONS) == NAMES
    assert all(version.identifier == name for name, version in ROOM_VERSIONS.items())


@pytest.mark.behaviours("RV-02")
def test_default_version_is_12() -> None:
    assert DEFAULT_ROOM_VERSION == "12"


@pytest.mark.behaviours("RV-03")
@pytest.mark.parametrize(
    ("fact", "versions"),
    [
        ("event_ids_in_pdu", NAMES[:2]),
        ("references_are_pairs", NAMES[:2]),
        ("redaction_by_auth_rule", NAMES[:2]),
        ("event_id_domain_signs", NAMES[:2]),
        ("signing_key_validity_enforced", NAMES[4:]),
        ("aliases_by_auth_rule", NAMES[:5]),
        ("strict_canonical_json", NAMES[5:]),
        ("notifications_guarded", NAMES[5:]),
        ("knock", NAMES[6:]),
        ("restricted", NAMES[7:]),
        ("knock_restricted", NAMES[9:]),
        ("integer_power_levels", NAMES[9:]),
        ("creator_in_content", NAMES[:10]),
        ("redacts_in_content", NAMES[10:]),
        ("room_ids_are_hashes", ["12"]),
        ("creators_have_infinite_power", ["12"]),
        ("create_in_auth_events", NAMES[:11]),
    ],
)
def test_fact_holds_in_versions(fact: str, versions: list[str]) -> None:
    assert [name for name, version in ROOM_VERSIONS.items() if getattr(version, fact)] == versions


@pytest.mark.behaviours("RV-03")
def test_algorithms_by_version() -> None:
    assert [version.redaction_set for version in ROOM_VERSIONS.values()] == (
        ["R1"] * 5 + ["R6"] * 2 + ["R8"] + ["R9"] * 2 + ["R11"] * 2
    )
    assert [version.auth_rules for version in ROOM_VERSIONS.values()] == (
        ["A1"] * 2 + ["A3"] * 3 + ["A6", "A7"] + ["A8"] * 2 + ["A10", "A11", "A12"]
    )
    assert [version.state_resolution for version in ROOM_VERSIONS.values()] == ["1"] + ["2"] * 10 + ["2.1"]
    assert [version.event_id_format for version in ROOM_VERSIONS.values()] == (
        ["opaque"] * 2 + ["hash"] + ["url_safe_hash"] * 9
    )
    assert [version.max_depth for version in ROOM_VERSIONS.values()] == [2**63 - 1] * 5 + [2**53 - 1] * 7


@pytest.mark.parametrize("version", ROOM_VERSIONS.values(), ids=lambda version: version.identifier)
def test_rust_has_the_same_table(version: RoomVersion) -> None:
    name = version.identifier
    keys = auth_event_keys(name, type="m.room.message", sender="@a:one", state_key=None, content=b"{}")
    assert (("m.room.create", "") in keys) is ROOM_VERSIONS[name].create_in_auth_events
    pdu = json.dumps({"type": "x", "content": {}, "event_id": "$id:one"}).encode()
    event_id = event_id_of(pdu, name)
    assert (event_id == "$id:one") is ROOM_VERSIONS[name].event_ids_in_pdu


def test_rust_knows_no_other_version() -> None:
    for name in ("0", "13", "", "12 ", "org.example"):
        with pytest.raises(MalformedEvent, match="unknown room version"):
            event_id_of(b"{}", name)
