"""The grammar of identifiers, to its edges."""

from collections.abc import Callable

import pytest

from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import InvalidIdentifier, UserId

Parse = Callable[[str], str]


def filled(start: str, end: str, size: int, character: str = "a") -> str:
    """An identifier of so many bytes."""
    return start + character * ((size - len(start) - len(end)) // len(character.encode())) + end


SERVERS = [
    *("a", "example.org", "EXAMPLE.org", "a-b.c", "1.2.3.4", "1.2.3.4:8448", "[::1]", "[2001:db8::1]:8448"),
    *("a:0", "a:1", "a:65536", "a:99999", "a" * 230),
]
NO_SERVERS = [
    *("", ":", "a:", ":8448", "a:b", "a:123456", "a:-1", "a:8448 ", " a", "a b", "a_b", "a/b", "a@b", "a\n", "a\0"),
    *(
        "[::1",
        "::1",
        "[::1]x",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[]",
        "[g::]",
        "a:1:2",
        "ä.org",
        "а.org",
        "a" * 256,
    ),
]


@pytest.mark.behaviours("ID-02")
@pytest.mark.trust("C26")
@pytest.mark.parametrize("name", SERVERS)
def test_a_server_name_is_taken_as_it_is(name: str) -> None:
    assert identifiers.server_name(name) == name
    if len(name) < 230:
        assert identifiers.user_id(f"@a:{name}") == f"@a:{name}"
        assert identifiers.domain_of(f"@a:{name}") == name


@pytest.mark.behaviours("ID-02")
@pytest.mark.trust("C26")
@pytest.mark.parametrize("name", NO_SERVERS)
def test_what_is_no_server_name_is_refused_alone_and_in_other_identifiers(name: str) -> None:
    with pytest.raises(InvalidIdentifier):
        identifiers.server_name(name)
    for parse, sigil in ((identifiers.user_id, "@"), (identifiers.room_alias, "#")):
        with pytest.raises(InvalidIdentifier):
            parse(f"{sigil}a:{name}")


NEW = ["a", "alice", "0", "a.b_c=d-e/f+g", "=", "a" * 200]
HISTORICAL = ["", "Alice", "al ice", "ALICE", "älice", "аlice", "*", "#!@", "\u202ealice", "\x7f", "\x01", "\U0001f600"]


@pytest.mark.behaviours("ID-01")
@pytest.mark.trust("C26")
@pytest.mark.parametrize("localpart", NEW + HISTORICAL)
def test_user_ids_of_both_grammars_are_taken_and_new_ones_made_of_one(localpart: str) -> None:
    assert identifiers.user_id(f"@{localpart}:a.test") == f"@{localpart}:a.test"
    assert identifiers.localpart_of(f"@{localpart}:a.test") == localpart
    assert identifiers.is_new_localpart(localpart) == (localpart in NEW)


@pytest.mark.behaviours("SS-PDU-11")
@pytest.mark.parametrize(
    ("localpart", "told"),
    [
        *((one, True) for one in NEW),
        *(("Alice", True), ("!~", True), ("", False), ("al ice", False), ("älice", False), ("a\x7f", False)),
        *(("a\x01", False), ("\U0001f600", False)),
    ],
)
def test_users_are_spoken_of_outside_of_events_if_their_ids_are_visible_ascii(localpart: str, told: bool) -> None:
    assert identifiers.is_compliant(UserId(f"@{localpart}:a.test")) == told


@pytest.mark.behaviours("ID-01", "ID-03")
@pytest.mark.trust("C26", "C24")
@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (
            identifiers.user_id,
            [filled("@", ":a.test", 255), filled("@", ":a.test:8448", 255, "é")],
            ["", "@", "a:a.test", "@a", "@a:", "#a:a.test", "@a\0:a.test", filled("@", ":a.test", 256)],
        ),
        (
            identifiers.room_alias,
            ["#a:a.test", "#Café \U0001f600:a.test", "#:a.test", filled("#", ":a.test", 255)],
            ["", "#", "a:a.test", "#a", "@a:a.test", "#a\0:a.test", filled("#", ":a.test", 256)],
        ),
        (
            identifiers.room_id,
            ["!a:a.test", "!a", "!a/b+c", "!a:b:c", "!é", filled("!", ":a.test", 255)],
            ["", "!", "a:a.test", "#a:a.test", "!a\0:a.test", filled("!", "", 256)],
        ),
        (
            identifiers.event_id,
            ["$a:a.test", "$a", "$a/b+c", "$é", filled("$", "", 255)],
            ["", "$", "a", "!a", "$a\0", filled("$", "", 256), filled("$", "é", 256)],
        ),
        (identifiers.device_id, ["a", "Å *", "a" * 255], ["", "a\0", "a" * 256, "é" * 128]),
    ],
    ids=["user ids", "aliases", "room ids", "event ids", "device ids"],
)
def test_an_identifier_has_its_sigil_and_at_most_255_bytes(parse: Parse, good: list[str], bad: list[str]) -> None:
    for text in good:
        assert parse(text) == text
    for text in bad:
        with pytest.raises(InvalidIdentifier):
            parse(text)


@pytest.mark.behaviours("ID-04")
def test_opaque_identifiers() -> None:
    for good in ("a", "0", "aZ09._~-", "a" * 255):
        assert identifiers.is_opaque(good)
    for bad in ("", "a b", "a/b", "a:b", "é", "a\n", "a" * 256):
        assert not identifiers.is_opaque(bad)
