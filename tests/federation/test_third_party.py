"""Invites by an address elsewhere, which an identity server says is a user's."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.config.model import Limits
from homeserver.matrix.signing import SigningKey, sign_json
from homeserver.outbound.transport import Reply
from tests.federation.foreign import FEDERATION, bring_in, refusal
from tests.federation.network import Network
from tests.federation.test_invites import invites
from tests.federation.test_joins import join_by, members_of
from tests.world import User, eventually

pytestmark = pytest.mark.anyio

KEY = SigningKey.generate("0", b"i" * 32)
OTHER = SigningKey.generate("0", b"o" * 32)
VALID = "https://id.test/_matrix/identity/v2/pubkey/isvalid"


def validity_of(key: SigningKey, url: str = VALID) -> str:
    return f"{url}?public_key={quote(key.public_key, safe='')}"


async def offered(network: Network, user: User, *, url: str | None = VALID, valid: Any = True, **options: Any) -> str:
    """A room in which somebody is invited by an address."""
    network.pages[validity_of(KEY)] = Reply(200, {}, json.dumps({"valid": valid}).encode())
    room_id = await user.create_room(**options)
    content: dict[str, Any] = {"display_name": "b...@e...", "public_key": KEY.public_key}
    if url is not None:
        content["key_validity_url"] = url
    content["public_keys"] = [{key: content[key] for key in ("public_key", "key_validity_url") if key in content}]
    await user.set_state(room_id, "m.room.third_party_invite", content, "token")
    return room_id


def proof(user_id: str, *, token: str = "token", key: SigningKey = KEY, **more: Any) -> dict[str, Any]:
    raw = json.dumps({"mxid": user_id, "token": token} | more).encode()
    signed: dict[str, Any] = json.loads(sign_json(raw, "id.test", key))
    return signed


def exchange(room_id: str, sender: str, user_id: str, signed: Any, **more: Any) -> dict[str, Any]:
    third = {"display_name": "Anybody", "signed": signed}
    content = {"membership": "invite", "third_party_invite": third}
    event = {"type": "m.room.member", "room_id": room_id, "sender": sender, "state_key": user_id, "content": content}
    return event | more


def path(room_id: str) -> str:
    return f"{FEDERATION}/v1/exchange_third_party_invite/{quote(room_id)}"


BAD: list[Any] = [
    None,
    7,
    [],
    "text",
    {"room_id": "nonsense"},
    {"room_id": 7},
    {"room_id": []},
    {"sender": None},
    {"sender": "@x:p.test/"},
    {"signed": {}},
    {"signed": []},
    {"signed": {"mxid": 7, "token": "t", "signatures": {}}},
    {"signed": {"mxid": "@amy:a.test", "token": "token", "signatures": []}},
]


async def bind(client: Any, user_id: str, *found: tuple[str, str, Any]) -> Any:
    rows = [
        {"medium": "email", "address": "b@e.test", "mxid": user_id, "room_id": room, "sender": by, "signed": signed}
        for room, by, signed in found
    ]
    body = {"medium": "email", "address": "b@e.test", "mxid": user_id, "invites": rows}
    return await client.send("PUT", f"{FEDERATION}/v1/3pid/onbind", json=body)


@pytest.mark.trust("C04")
@pytest.mark.behaviours("SS-3PI-01", "SS-3PI-02")
async def test_binding_of_an_address_brings_the_invite(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    room_id = await offered(network, ann)
    answer = await bind(b.client, bob.user_id, (room_id, ann.user_id, proof(bob.user_id)))
    assert (answer.status_code, answer.json()) == (200, {})
    assert list(await invites(bob)) == [room_id]
    event = await ann.get(f"/rooms/{quote(room_id)}/state/m.room.member/{bob.user_id}")
    assert event.json() == {
        "membership": "invite",
        "third_party_invite": {"display_name": "b...@e...", "signed": proof(bob.user_id)},
    }
    assert (await join_by(bob, room_id)).status_code == 200
    assert await members_of(ann, room_id) == {ann.user_id: "join", bob.user_id: "join"}
    # The offer is used up.
    await bob.leave(room_id)
    await eventually(lambda: members_of(ann, room_id), lambda found: found[bob.user_id] == "leave")
    await bind(b.client, bob.user_id, (room_id, ann.user_id, proof(bob.user_id)))
    assert await invites(bob) == {}


@pytest.mark.behaviours("SS-3PI-01")
async def test_binding_is_for_users_of_this_server(network: Network) -> None:
    a = await network.server("a.test")
    ann, amy = await a.user("ann"), await a.user("amy")
    room_id = await offered(network, ann)
    assert (await bind(a.client, "@nobody:a.test", (room_id, ann.user_id, proof("@nobody:a.test")))).status_code == 404
    assert (await bind(a.client, "@bob:b.test", (room_id, ann.user_id, proof("@bob:b.test")))).status_code == 404
    # What was signed for another comes to nothing, and so does what is not signed.
    for signed in (proof(ann.user_id), proof(amy.user_id, key=OTHER)):
        assert (await bind(a.client, amy.user_id, (room_id, ann.user_id, signed))).status_code == 200
        assert await invites(amy) == {}
    rows = [("!nowhere:a.test", ann.user_id, proof(amy.user_id)), (room_id, ann.user_id, proof(amy.user_id))]
    assert (await bind(a.client, amy.user_id, *rows)).status_code == 200
    assert list(await invites(amy)) == [room_id]


@pytest.mark.trust("C04")
@pytest.mark.behaviours("SS-3PI-01")
@pytest.mark.by_turns
@pytest.mark.parametrize("bad", BAD)
async def test_bad_invite_of_an_address_does_not_spoil_the_others(network: Network, bad: Any) -> None:
    a = await network.server("a.test")
    ann, amy = await a.user("ann"), await a.user("amy")
    room_id = await offered(network, ann)
    good = {"room_id": room_id, "sender": ann.user_id, "signed": proof(amy.user_id)}
    rows = [good | bad if isinstance(bad, dict) else bad, good, *[{"room_id": "!x:a.test"}] * 60]
    answer = await a.client.send(
        "PUT",
        f"{FEDERATION}/v1/3pid/onbind",
        json={"medium": "email", "address": "b@e.test", "mxid": amy.user_id, "invites": rows},
    )
    assert (answer.status_code, answer.json()) == (200, {})
    assert list(await invites(amy)) == [room_id]


@pytest.mark.behaviours("CS-MEM-11")
async def test_join_with_what_was_signed(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, amy, bob = await a.user("ann"), await a.user("amy"), await b.user("bob")
    room_id = await offered(network, ann)
    for user in (amy, bob):
        for bad in (
            proof(user.user_id, sender=ann.user_id, key=OTHER),
            proof("@eve:a.test", sender=ann.user_id),
            proof(user.user_id, sender=ann.user_id, token="other"),
            proof(user.user_id, sender=user.user_id),
        ):
            answer = await join_by(user, room_id, "a.test", third_party_signed=bad)
            assert answer.status_code in (403, 404), answer.text
        assert user.user_id not in await members_of(ann, room_id)
        good = proof(user.user_id, sender=ann.user_id)
        answer = await join_by(user, room_id, "a.test", third_party_signed=good)
        assert answer.status_code == 200, answer.text
        assert (await members_of(ann, room_id))[user.user_id] == "join"


@pytest.mark.trust("C04", "S4")
@pytest.mark.behaviours("SS-3PI-02")
@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda event: event | {"type": "m.room.message"}, 400),
        (lambda event: event | {"room_id": "!other:a.test"}, 400),
        (lambda event: event | {"state_key": "@y:p.test"}, 400),
        (lambda event: event | {"sender": "@amy:a.test"}, 403),
        (lambda event: event | {"sender": "@x:p.test"}, 403),
        (lambda event: event | {"content": {"membership": "join"}}, 400),
        (lambda event: event | {"content": event["content"] | {"membership": "join"}}, 400),
        (lambda event: with_signed(event, {}), 400),
        (lambda event: with_signed(event, []), 400),
        (lambda event: with_signed(event, proof("@x:p.test", token="other")), 403),
        (lambda event: with_signed(event, proof("@x:p.test", key=OTHER)), 403),
        (lambda event: with_signed(event, proof("@x:p.test") | {"mxid": "@y:p.test"}), 400),
        (lambda event: with_signed(event, proof("@x:p.test") | {"signatures": {}}), 403),
        (lambda event: with_signed(event, proof("@x:p.test") | {"signatures": {"id.test": {"ed25519:0": 1}}}), 400),
        (lambda event: with_signed(event, proof("@x:p.test") | {"token": 1}), 400),
        (lambda event: with_signed(event, proof("@x:p.test") | {"token": "\0"}), 400),
    ],
)
@pytest.mark.by_turns
async def test_exchange_of_something_else_is_refused(network: Network, change: Any, status: int) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    p = network.peer("p.test")
    p.on("PUT", f"{FEDERATION}/v2/invite/", lambda seen: refusal(500, "M_UNKNOWN"))
    room_id = await offered(network, ann)
    event = change(exchange(room_id, ann.user_id, "@x:p.test", proof("@x:p.test")))
    answer = await p.call("a.test", "PUT", path(room_id), event)
    assert answer.status_code == status, answer.text
    assert [seen for seen in p.seen if "/invite/" in seen.target] == []


def with_signed(event: dict[str, Any], signed: Any) -> dict[str, Any]:
    third = event["content"]["third_party_invite"] | {"signed": signed}
    return event | {"content": event["content"] | {"third_party_invite": third}}


def among(count: int, signed: dict[str, Any]) -> dict[str, Any]:
    """The proof with so many signatures of no value before the good one."""
    bad = {f"i{number}.test": {"ed25519:0": "AAAA"} for number in range(count)}
    return signed | {"signatures": bad | signed["signatures"]}


@pytest.mark.trust("C04", "C22")
async def test_only_so_many_signatures_are_tried(network: Network) -> None:
    a = await network.server("a.test")
    ann, amy = await a.user("ann"), await a.user("amy")
    room_id = await offered(network, ann)
    for count, expected in ((10, []), (9, [room_id])):
        await bind(a.client, amy.user_id, (room_id, ann.user_id, among(count, proof(amy.user_id))))
        assert list(await invites(amy)) == expected


async def is_exchanged(network: Network, sender: str, room_id: str, user_id: str = "@x:p.test") -> bool:
    """Whether the inviter's server goes on to invite the user."""
    p = network.peers["p.test"]
    p.seen.clear()
    p.on("PUT", f"{FEDERATION}/v2/invite/", lambda seen: refusal(403, "M_INVITE_BLOCKED"))
    answer = await p.call("a.test", "PUT", path(room_id), exchange(room_id, sender, user_id, proof(user_id)))
    assert answer.status_code == 403, answer.text
    asked = [seen for seen in p.seen if "/invite/" in seen.target]
    assert bool(asked) == (answer.json()["errcode"] == "M_INVITE_BLOCKED")
    return bool(asked)


@pytest.mark.trust("C04")
@pytest.mark.behaviours("SS-3PI-02")
async def test_key_must_be_good_by_the_word_of_the_identity_server(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    network.peer("p.test")
    for options, expected in (
        ({}, True),
        ({"url": None}, True),
        ({"valid": False}, False),
        ({"valid": "yes"}, False),
        ({"valid": None}, False),
        ({"url": "https://gone.test/isvalid"}, False),
        ({"url": "https://127.0.0.1/isvalid"}, False),
        ({"url": "no address"}, False),
    ):
        network.fetched.clear()
        room_id = await offered(network, ann, **options)
        assert await is_exchanged(network, ann.user_id, room_id) is expected, options
        assert len(network.fetched) == (0 if options == {"url": None} else 1)


@pytest.mark.trust("C04")
async def test_offer_that_does_not_stand_any_more_is_refused(network: Network) -> None:
    a = await network.server("a.test")
    ann, amy = await a.user("ann"), await a.user("amy")
    p = network.peer("p.test")
    room_id = await offered(network, ann)
    assert await is_exchanged(network, ann.user_id, room_id)
    await ann.set_state(room_id, "m.room.third_party_invite", {}, "token")  # Revoked.
    assert not await is_exchanged(network, ann.user_id, room_id)
    # Who made it has lost the power.
    room_id = await ann.create_room(
        room_version="11", power_level_content_override={"users": {amy.user_id: 100, ann.user_id: 100}}
    )
    await ann.invite(room_id, amy)
    await amy.join(room_id)
    keys = [{"public_key": KEY.public_key}]
    content = {"display_name": "b", "public_keys": keys, "public_key": KEY.public_key, "key_validity_url": VALID}
    await amy.set_state(room_id, "m.room.third_party_invite", content, "token")
    assert await is_exchanged(network, amy.user_id, room_id)
    await amy.set_state(room_id, "m.room.power_levels", {"users": {amy.user_id: 0, ann.user_id: 100}, "invite": 50})
    assert not await is_exchanged(network, amy.user_id, room_id)
    await amy.set_state(room_id, "m.room.member", {"membership": "leave"}, amy.user_id)
    assert not await is_exchanged(network, amy.user_id, room_id)
    # The user is banned, or has come already.
    room_id = await offered(network, ann, preset="public_chat")
    await bring_in(p, "a.test", room_id, "@x:p.test")
    assert not await is_exchanged(network, ann.user_id, room_id)
    await ann.post(f"/rooms/{room_id}/ban", {"user_id": "@x:p.test"})
    assert not await is_exchanged(network, ann.user_id, room_id)
    # This server is not in the room.
    room_id = await offered(network, ann)
    await ann.leave(room_id)
    answer = await p.call(
        "a.test", "PUT", path(room_id), exchange(room_id, ann.user_id, "@x:p.test", proof("@x:p.test"))
    )
    assert answer.status_code == 404


@pytest.mark.behaviours("SS-ACL-01")
async def test_server_may_only_ask_for_its_own_users(network: Network) -> None:
    a = await network.server("a.test")
    ann = await a.user("ann")
    q = network.peer("q.test")
    room_id = await offered(network, ann)
    answer = await q.call(
        "a.test", "PUT", path(room_id), exchange(room_id, ann.user_id, "@x:p.test", proof("@x:p.test"))
    )
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
    await ann.set_state(room_id, "m.room.server_acl", {"allow": ["a.test"]})
    answer = await q.call(
        "a.test", "PUT", path(room_id), exchange(room_id, ann.user_id, "@x:q.test", proof("@x:q.test"))
    )
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_FORBIDDEN")


@pytest.mark.behaviours("SS-3PI-02")
async def test_whatever_was_signed_is_kept_and_keys_may_be_in_either_alphabet(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    ann, bob = await a.user("ann"), await b.user("bob")
    key = next(
        key for n in range(256) if set("+/") < set((key := SigningKey.generate("0", bytes([n]) * 32)).public_key)
    )
    public_key = key.public_key.replace("+", "-").replace("/", "_")
    url = f"{VALID}?public_key={quote(public_key, safe='')}"
    network.pages[url] = Reply(200, {}, b'{"valid": true}')
    room_id = await ann.create_room()
    content = {"display_name": "b", "public_key": public_key, "key_validity_url": VALID}
    await ann.set_state(room_id, "m.room.third_party_invite", content, "token")
    signed = proof(bob.user_id, key=key, medium="email", more={"deep": [1]})
    assert (await bind(b.client, bob.user_id, (room_id, ann.user_id, signed))).status_code == 200
    assert list(await invites(bob)) == [room_id]
    event = await ann.get(f"/rooms/{quote(room_id)}/state/m.room.member/{bob.user_id}")
    assert event.json()["third_party_invite"]["signed"] == signed
    assert (await join_by(bob, room_id)).status_code == 200


@pytest.mark.trust("C04")
async def test_signed_text_without_bounds_is_refused(network: Network) -> None:
    a = await network.server("a.test")
    ann, p = await a.user("ann"), network.peer("p.test")
    room_id = await offered(network, ann)
    for more in ({"more": "x" * 8192}, {"more": 1.5}, {"more": 10**30}):
        signed = proof("@x:p.test") | more
        answer = await p.call("a.test", "PUT", path(room_id), exchange(room_id, ann.user_id, "@x:p.test", signed))
        assert answer.status_code == 400, answer.text


@pytest.mark.trust("C10", "C22")
async def test_nobody_has_us_ask_another_server_time_and_again(network: Network) -> None:
    a = await network.server("a.test", limits=Limits(rate_limits=True))
    ann = await a.user("ann")
    asked = [network.peer(name) for name in ("p.test", "p.test:1", "q.test")]
    for peer in asked:
        peer.on("PUT", f"{FEDERATION}/v1/exchange_third_party_invite/", lambda seen: {})

    def offers(name: str) -> list[tuple[str, str, Any]]:
        return [(f"!{number}:{name}", f"@x:{name}", proof(ann.user_id)) for number in range(30)]

    # All ports of a host are one, and other servers are asked all the same.
    for peer in asked:
        assert (await bind(a.client, ann.user_id, *offers(peer.name))).status_code == 200
    assert [len(peer.seen) for peer in asked] == [30, 20, 30]
    # Who asks takes one of their own for each invite.
    answers = [await bind(a.client, ann.user_id, *offers("q.test")) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [429, 429]
    assert len(asked[2].seen) == 30
