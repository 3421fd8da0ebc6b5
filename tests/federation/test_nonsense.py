"""Requests that are nonsense in places, to all that servers ask of each other: nothing of it may break anything."""

import json
import re
from random import Random
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.api.tables import ENDPOINTS
from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.events import EventTooLarge, MalformedEvent
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import sign_pdu
from tests.federation.foreign import bring_in, complete, make
from tests.federation.network import Network
from tests.room_graphs import key_of

ROUTES = [(one.method, one.path) for one in ENDPOINTS if one.path.startswith(("/_matrix/federation/", "/_matrix/key/"))]
IDS = [
    "",
    "x",
    "@:p.test",
    "@x\0:p.test",
    f"@{'y' * 300}:p.test",
    "@x:p.test:more",
    "@X Y:p.test",
    "@x:P.TEST",
    "..",
    "😀",
]
VALUES: list[Any] = [
    None,
    True,
    -1,
    2**53,
    2**63,
    1.5,
    "",
    "\0",
    "é" * 300,
    [],
    {},
    [[]],
    {"a": {}},
    [1] * 50,
    "x" * 70_000,
]
BODIES = [b"", b"[]", b"null", b"1", b'"x"', b'{"event": null}', b'{"\\u0000": "\\u0000"}']
QUERY = {
    "dir": "b",
    "event_id": "",
    "limit": "10",
    "omit_members": "true",
    "room_alias": "#x:a.test",
    "timeout_ms": "1",
    "ts": "1",
    "user_id": "",
    "v": "",
    "ver": "11",
    "width": "10",
    "height": "10",
}


class Nonsense:
    """Makes nonsense of what makes sense; the same for the same seed."""

    def __init__(self, seed: int, ids: dict[str, str]) -> None:
        self.random = Random(seed)
        self.ids = ids

    def of(self, value: Any) -> Any:
        """The value, with something wrong in one place."""
        if isinstance(value, dict) and value and self.random.random() < 0.9:
            key = self.random.choice(list(value))
            return {one: self.of(of) if one == key else of for one, of in value.items()}
        if isinstance(value, list) and value and self.random.random() < 0.8:
            return [self.of(value[0]), *value[1:]]
        return self.random.choice(VALUES)

    def id(self, name: str) -> str:
        """What may stand for a part of a path, or of a query, by its name."""
        right = self.ids.get(name, "x")
        return quote(right if self.random.random() < 0.7 else self.random.choice(IDS), safe="")

    def target(self, path: str) -> str:
        """A path with its query."""
        filled = re.sub(r"\{(\w+)\}", lambda found: self.id(found[1]), path)
        named = [name for name in QUERY if self.random.random() < 0.6]
        query = [
            f"{name}={quote(QUERY[name], safe='') if QUERY[name] and self.random.random() < 0.7 else self.id(name)}"
            for name in named
        ]
        return f"{filled}?{'&'.join(query)}"

    def event(self, pdu: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """An event that is wrong in one place, signed as it should be where it can be; and its id."""
        wrong = self.of({key: value for key, value in pdu.items() if key not in ("hashes", "signatures")})
        try:
            event = sign_pdu(json.dumps(wrong).encode(), "11", "p.test", key_of("p.test"))
        except (CanonicalJsonError, MalformedEvent, EventTooLarge, ValueError):
            return "$x", pdu
        return event.event_id, json.loads(event.pdu)


@pytest.mark.trust("C10", "F25", "S3", "S4")
@pytest.mark.parametrize("seed", range(3))
async def test_nonsense_is_refused_and_breaks_nothing(network: Network, seed: int) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    room_id = await ann.create_room(preset="public_chat", room_version="11")
    await bring_in(p, "a.test", room_id, "@in:p.test")
    event_id = await ann.send(room_id, "Hello.")
    join = complete(p, (await make(p, "a.test", "join", room_id, "@new:p.test", *ROOM_VERSIONS)).json())
    pdu = json.loads(join.pdu)
    proof = {"mxid": "@x:p.test", "token": "t", "signatures": {"id.test": {"ed25519:0": "AA"}}}
    sense: dict[str, Any] = {
        **pdu,
        "content": {"membership": "invite", "third_party_invite": {"display_name": "X", "signed": proof}},
        "device_keys": {ann.user_id: []},
        "earliest_events": [event_id],
        "edus": [
            {"edu_type": "m.receipt", "content": {room_id: {"m.read": {"@in:p.test": {"event_ids": [event_id]}}}}}
        ],
        "event": pdu,
        "invite_room_state": [pdu],
        "invites": [{"mxid": ann.user_id, "room_id": room_id, "sender": "@in:p.test", "signed": proof}],
        "latest_events": [join.event_id],
        "one_time_keys": {ann.user_id: {"D": "signed_curve25519"}},
        "origin": "p.test",
        "pdus": [pdu],
        "room_version": "11",
        "server_keys": {"a.test": {"ed25519:x": {"minimum_valid_until_ts": 1}}},
    }
    ids = {"room_id": room_id, "event_id": event_id, "v": event_id, "user_id": "@in:p.test", "server_name": "a.test"}
    nonsense = Nonsense(seed, ids)
    answers: dict[int, int] = {}
    for method, path in ROUTES * 8:
        body: Any = None
        ids["event_id"] = event_id
        if method != "GET" and nonsense.random.random() < 0.2:
            body = nonsense.random.choice(BODIES)
        elif "/send_" in path or "v1/invite" in path:
            ids["event_id"], body = nonsense.event(pdu)
        elif "v2/invite" in path:
            ids["event_id"], wrong = nonsense.event(pdu)
            body = {**sense, "event": wrong}
        elif method != "GET":
            body = nonsense.of(sense)
        target = nonsense.target(path)
        try:
            answer = await p.call("a.test", method, target, body)
        except CanonicalJsonError:
            continue  # What cannot be signed is nobody's.
        assert answer.status_code < 500, (method, target, body, answer.text)
        assert answer.status_code != 401 or path.endswith("/userinfo"), (method, target, body, answer.text)
        answers[answer.status_code] = answers.get(answer.status_code, 0) + 1
    assert answers[200] > 20, "This was too much nonsense to get anywhere."
    assert answers[400] > 20
    seen = await ann.get(f"/rooms/{quote(room_id)}/joined_members")
    assert set(seen.json()["joined"]) <= {ann.user_id, "@in:p.test", "@new:p.test"}
