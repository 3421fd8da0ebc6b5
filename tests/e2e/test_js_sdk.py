"""What people do with a client built on matrix-js-sdk and its Rust cryptography: the scenarios in tests/e2e/js."""

from pathlib import Path

from tests.e2e.scenarios import Homes, play


def test_register_and_log_in_on_two_devices(node: Path, homeserver_url: str) -> None:
    assert play(node, "register_and_log_in", homeserver_url)["userId"].startswith("@alice-")


def test_two_people_talk_in_an_encrypted_room(node: Path, homes: Homes) -> None:
    assert play(node, "talk", homes) == {"heard": 3}


def test_edit_react_and_redact_in_an_encrypted_room(node: Path, homes: Homes) -> None:
    assert play(node, "edit_react_redact", homes)["reactionId"].startswith("$")


def test_typing_receipts_and_unread_counts(node: Path, homes: Homes) -> None:
    assert play(node, "receipts_and_typing", homes)["eventId"].startswith("$")


def test_cross_signing_and_key_backup_restored_on_a_new_device(node: Path, homeserver_url: str) -> None:
    assert play(node, "backup_on_new_device", homeserver_url)["imported"] == 2


def test_a_new_device_is_verified_by_comparing_emoji(node: Path, homes: Homes) -> None:
    assert len(play(node, "verify_by_emoji", homes)["emoji"]) == 7
