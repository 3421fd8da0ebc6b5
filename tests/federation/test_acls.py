"""A server that a room keeps out gets nowhere in it, by whatever operation."""

import json
from urllib.parse import quote

import pytest

from homeserver.api.tables import ENDPOINTS
from homeserver.matrix.room_versions import ROOM_VERSIONS
from tests.federation.foreign import FEDERATION, bring_in, complete, make
from tests.federation.network import Network

OF_ROOMS = [(one.method, one.path) for one in ENDPOINTS if one.path.startswith(FEDERATION) and "{room_id}" in one.path]


@pytest.mark.trust("S3")
@pytest.mark.behaviours("SS-ACL-01")
async def test_a_list_that_was_redacted_lets_nobody_in_at_once(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await ann.create_room(preset="public_chat", room_version="11")
    await bring_in(p, "a.test", room_id, "@in:p.test")
    event_id = await ann.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["q.test"]})
    target = f"{FEDERATION}/v1/event_auth/{quote(room_id)}/{quote(event_id)}"
    assert (await p.call("a.test", "GET", target)).status_code == 200
    answer = await ann.put(f"/rooms/{quote(room_id)}/redact/{quote(event_id)}/1")
    assert answer.status_code == 200, answer.text
    assert (await p.call("a.test", "GET", target)).status_code == 403


@pytest.mark.trust("S3", "S4")
@pytest.mark.behaviours("SS-ACL-01")
async def test_every_operation_on_a_room_is_closed_to_a_server_that_it_keeps_out(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await ann.create_room(preset="public_chat", room_version="11")
    await bring_in(p, "a.test", room_id, "@in:p.test")
    join = complete(p, (await make(p, "a.test", "join", room_id, "@new:p.test", *ROOM_VERSIONS)).json())
    event_id = await ann.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["P.test"]})
    pdu = json.loads(join.pdu)
    body = {
        **pdu,
        "earliest_events": [],
        "event": pdu,
        "invite_room_state": [],
        "latest_events": [event_id],
        "room_version": "11",
    }
    proof = {"mxid": "@new:p.test", "token": "t", "signatures": {}}
    exchanged = {
        **{key: pdu[key] for key in ("type", "room_id", "state_key")},
        "sender": ann.user_id,
        "content": {"membership": "invite", "third_party_invite": {"display_name": "New", "signed": proof}},
    }
    ids = {"room_id": room_id, "event_id": event_id, "user_id": "@in:p.test"}
    assert len(OF_ROOMS) == 16
    for method, path in OF_ROOMS:
        target = path.format_map({name: quote(value, safe="") for name, value in ids.items()})
        query = f"?event_id={quote(event_id)}&v={quote(event_id)}&limit=10&ts=1&dir=f&ver=11"
        content = None if method == "GET" else exchanged if "/exchange_" in path else body
        answer = await p.call("a.test", method, target + query, content)
        if "/hierarchy/" in path:
            assert answer.status_code == 200  # This says no more of a public room than the list of rooms does.
            continue
        assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN"), (path, answer.text)
