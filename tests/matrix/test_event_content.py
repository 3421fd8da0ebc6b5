"""What the content of an event must look like for a local user to say it."""

import pytest

from homeserver.matrix.event_content import BadContent, check_content


@pytest.mark.behaviours("CS-EV-12")
@pytest.mark.parametrize("content", [b"{}", b'{"body":"a"}', b'{"msgtype":"m.text"}', b'{"msgtype":"m.text","body":1}'])
def test_message_without_kind_or_text_is_refused(content: bytes) -> None:
    with pytest.raises(BadContent):
        check_content("m.room.message", content, is_state=False)


@pytest.mark.behaviours("CS-SEND-06")
@pytest.mark.parametrize(
    "content",
    [
        b'{"ban":"50"}',
        b'{"ban":50.0}',
        b'{"ban":true}',
        b'{"ban":null}',
        b'{"users":{"@a:b":"100"}}',
        b'{"users":[]}',
        b'{"events":{"m.room.name":{}}}',
        b'{"notifications":{"room":"50"}}',
    ],
)
def test_power_levels_that_are_no_integers_are_refused(content: bytes) -> None:
    with pytest.raises(BadContent):
        check_content("m.room.power_levels", content, is_state=True)


@pytest.mark.parametrize(
    ("type_", "content"),
    [
        ("m.room.canonical_alias", b'{"alias":1}'),
        ("m.room.canonical_alias", b'{"alt_aliases":["#a:b",1]}'),
        ("m.room.create", b'{"m.federate":"yes"}'),
        ("m.room.create", b'{"type":1}'),
        ("m.room.create", b'{"predecessor":{}}'),
        ("m.room.member", b'{"membership":"join","displayname":1}'),
        ("m.room.member", b"{}"),
    ],
)
def test_state_that_clients_could_not_read_is_refused(type_: str, content: bytes) -> None:
    with pytest.raises(BadContent):
        check_content(type_, content, is_state=True)


@pytest.mark.parametrize(
    ("type_", "content", "is_state"),
    [
        ("m.room.message", b'{"msgtype":"m.text","body":"","more":[]}', False),
        ("m.room.message", b"{}", True),
        ("m.room.power_levels", b'{"users":{"@a:b":100},"historical":"100"}', True),
        ("m.room.power_levels", b"{}", False),
        ("m.room.canonical_alias", b'{"alias":null}', True),
        ("m.room.member", b'{"membership":"join","displayname":null}', True),
        ("org.example", b'{"body":1}', False),
    ],
)
def test_all_else_may_be_said(type_: str, content: bytes, is_state: bool) -> None:
    check_content(type_, content, is_state=is_state)
