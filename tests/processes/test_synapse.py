"""Synapse as the other server, in both seats."""

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest

from tests.processes import programs, synapse
from tests.processes.federating import new_federation
from tests.processes.people import OPEN, hear, say, until, until_so, user
from tests.processes.server import HOST, Server, free_port
from tests.processes.talking import Connection, Json

pytestmark = pytest.mark.timeout(60)  # Synapse takes a while to start.


@dataclass(frozen=True)
class Pair:
    """A user of each server, and the servers' names."""

    alice: Connection
    ours: str
    server: Server
    bob: Connection
    theirs: str


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    try:
        synapse.python()
    except programs.Missing as problem:
        pytest.skip(str(problem))
    folder = tmp_path_factory.mktemp("synapse")
    federation = new_federation(folder)
    name = f"127.0.0.3:{free_port()}"  # Synapse finds servers by the DNS alone, so the name is an address.
    federation.add(name, at=name)
    with ExitStack() as stack:
        other = stack.enter_context(synapse.running_synapse(folder / "synapse", federation.authority))
        ranges = {"HOMESERVER_FEDERATION_ALLOWED_RANGES": '["127.0.0.0/8"]'}
        [server] = stack.enter_context(federation.running(name, **OPEN, **ranges))
        alice = stack.enter_context(user(HOST, server.port, "alice"))
        bob = stack.enter_context(user(synapse.HOST, other.port, "bob"))
        yield Pair(alice, name, server, bob, other.name)


@pytest.mark.parametrize("seat", ["the room is ours", "the room is theirs"])
@pytest.mark.parametrize("version", ["10", "11", "12"])
def test_joining_and_talking(pair: Pair, seat: str, version: str) -> None:
    host, guest, server = (
        (pair.alice, pair.bob, pair.ours) if seat == "the room is ours" else (pair.bob, pair.alice, pair.theirs)
    )
    alias = f"hall-{version}"
    creation = {"preset": "public_chat", "room_alias_name": alias, "room_version": version}
    room_id = host.call("POST", "/createRoom", creation)["room_id"]
    assert guest.call("POST", f"/join/{quote(f'#{alias}:{server}')}", {})["room_id"] == room_id
    hear(host, room_id, say(guest, room_id, "one"))
    hear(guest, room_id, say(host, room_id, "two"))
    host.call("POST", f"/rooms/{quote(room_id)}/leave", {})


SEATS = pytest.mark.parametrize("seat", ["the room is ours", "the room is theirs"])


def seated(pair: Pair, seat: str) -> tuple[Connection, Connection]:
    """Whose room it is, and who comes to it."""
    return (pair.alice, pair.bob) if seat == "the room is ours" else (pair.bob, pair.alice)


def id_of(who: Connection) -> str:
    user_id: str = who.call("GET", "/account/whoami")["user_id"]
    return user_id


def room(path: str, room_id: str) -> str:
    return f"/rooms/{quote(room_id, safe='')}{path}"


def joining(room_id: str, host: Connection, how: str = "join") -> str:
    """The path of a request to join a room by way of somebody's server."""
    server = quote(id_of(host).partition(":")[2])
    return f"/{how}/{quote(room_id)}?via={server}&server_name={server}"


def talked_in(host: Connection, guest: Connection, **more: Any) -> str:
    """A room of both."""
    room_id: str = host.call("POST", "/createRoom", {"preset": "private_chat", **more})["room_id"]
    host.call("POST", room("/invite", room_id), {"user_id": id_of(guest)})
    until(guest, lambda answer: room_id in answer["rooms"].get("invite", {}))
    guest.call("POST", room("/join", room_id), {})
    hear(host, room_id, say(guest, room_id, "hello"))
    return room_id


def membership_of(who: Connection, room_id: str, user_id: str) -> str:
    status, answer = who.ask("GET", room(f"/state/m.room.member/{quote(user_id)}", room_id))
    return answer["membership"] if status == 200 else f"{status}"


@SEATS
def test_invites_are_taken_and_turned_down(pair: Pair, seat: str) -> None:
    host, guest = seated(pair, seat)
    talked_in(host, guest)
    room_id = host.call("POST", "/createRoom", {"preset": "private_chat", "invite": [id_of(guest)]})["room_id"]
    until(guest, lambda answer: room_id in answer["rooms"].get("invite", {}))
    guest.call("POST", room("/leave", room_id), {})
    until_so(lambda: membership_of(host, room_id, id_of(guest)) == "leave")


@SEATS
def test_who_is_banned_is_gone_and_cannot_come_back(pair: Pair, seat: str) -> None:
    host, guest = seated(pair, seat)
    room_id = talked_in(host, guest, visibility="public")
    host.call("POST", room("/ban", room_id), {"user_id": id_of(guest)})
    numbers = count()
    until_so(lambda: guest.ask("PUT", room(f"/send/m.test/{next(numbers)}", room_id), {})[0] == 403)
    assert guest.ask("POST", joining(room_id, host), {})[0] == 403


@SEATS
def test_redactions_arrive(pair: Pair, seat: str) -> None:
    host, guest = seated(pair, seat)
    room_id = talked_in(host, guest)
    event_id = say(guest, room_id, "secret")
    hear(host, room_id, event_id)
    host.call("PUT", room(f"/redact/{quote(event_id)}/1", room_id), {})
    until_so(lambda: guest.call("GET", room(f"/event/{quote(event_id)}", room_id))["content"] == {})


@SEATS
def test_typing_and_receipts_arrive(pair: Pair, seat: str) -> None:
    host, guest = seated(pair, seat)
    room_id = talked_in(host, guest)
    event_id = say(host, room_id, "read me")
    hear(guest, room_id, event_id)
    guest.call("PUT", room(f"/typing/{quote(id_of(guest))}", room_id), {"typing": True, "timeout": 30000})
    guest.call("POST", room(f"/receipt/m.read/{quote(event_id)}", room_id), {})

    def has_both(answer: Json) -> bool:
        seen = {one["type"] for one in ephemeral}
        ephemeral.extend(answer["rooms"].get("join", {}).get(room_id, {}).get("ephemeral", {}).get("events", []))
        return {"m.typing", "m.receipt"} <= seen

    ephemeral: list[Json] = []
    until(host, has_both)
    assert any(id_of(guest) in one["content"].get("user_ids", []) for one in ephemeral)
    assert any(event_id in one["content"] for one in ephemeral)


@SEATS
def test_what_was_said_before_is_there_for_who_joins_later(pair: Pair, seat: str) -> None:
    host, guest = seated(pair, seat)
    room_id = host.call("POST", "/createRoom", {"preset": "public_chat"})["room_id"]
    said = [say(host, room_id, f"early-{number}") for number in range(30)]
    guest.call("POST", joining(room_id, host), {})
    found: list[str] = []
    since = ""
    while not set(said) <= set(found):
        answer = guest.call("GET", room(f"/messages?dir=b&limit=20{since}", room_id))
        found += [event["event_id"] for event in answer["chunk"]]
        since = f"&from={quote(answer.get('end', 'the end'))}"
    assert [event_id for event_id in found if event_id in said] == said[::-1]


@SEATS
def test_profiles_keys_and_messages_to_devices_cross_over(pair: Pair, seat: str) -> None:
    host, guest = seated(pair, seat)
    talked_in(host, guest)
    name = f"Name of {seat}"
    guest.call("PUT", f"/profile/{quote(id_of(guest))}/displayname", {"displayname": name})
    until_so(lambda: host.call("GET", f"/profile/{quote(id_of(guest))}")["displayname"] == name)
    device_id = guest.call("GET", "/account/whoami")["device_id"]
    keys = {
        "user_id": id_of(guest),
        "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {f"curve25519:{device_id}": "A" * 43, f"ed25519:{device_id}": "A" * 43},
        "signatures": {id_of(guest): {f"ed25519:{device_id}": "A" * 86}},
    }
    once = {f"curve25519:{seat[-4:]}AAAA": "B" * 43}
    guest.call("POST", "/keys/upload", {"device_keys": keys, "one_time_keys": once})
    found = host.call("POST", "/keys/query", {"device_keys": {id_of(guest): []}})["device_keys"][id_of(guest)]
    assert found[device_id]["keys"] == keys["keys"]
    claimed = host.call("POST", "/keys/claim", {"one_time_keys": {id_of(guest): {device_id: "curve25519"}}})
    assert list(claimed["one_time_keys"][id_of(guest)][device_id].values()) == ["B" * 43]
    host.call("PUT", f"/sendToDevice/m.test/{quote(seat)}", {"messages": {id_of(guest): {device_id: {"seat": seat}}}})
    until(
        guest,
        lambda answer: any(one["content"] == {"seat": seat} for one in answer.get("to_device", {}).get("events", [])),
    )


@SEATS
def test_knocking_and_being_let_in(pair: Pair, seat: str) -> None:
    host, guest = seated(pair, seat)
    rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room_id = host.call("POST", "/createRoom", {"preset": "private_chat", "initial_state": [rule]})["room_id"]
    guest.call("POST", joining(room_id, host, how="knock"), {"reason": "please"})
    until_so(lambda: membership_of(host, room_id, id_of(guest)) == "knock")
    host.call("POST", room("/invite", room_id), {"user_id": id_of(guest)})
    until(guest, lambda answer: room_id in answer["rooms"].get("invite", {}))
    guest.call("POST", room("/join", room_id), {})
    hear(host, room_id, say(guest, room_id, "thanks"))


@SEATS
def test_members_of_one_room_may_join_another(pair: Pair, seat: str) -> None:
    host, guest = seated(pair, seat)
    first = talked_in(host, guest)
    allow = [{"type": "m.room_membership", "room_id": first}]
    rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "restricted", "allow": allow}}
    room_id = host.call("POST", "/createRoom", {"preset": "private_chat", "initial_state": [rule]})["room_id"]
    guest.call("POST", joining(room_id, host), {})
    hear(host, room_id, say(guest, room_id, "in"))


@SEATS
def test_an_excluded_server_is_not_heard(pair: Pair, seat: str) -> None:
    host, guest = seated(pair, seat)
    room_id = talked_in(host, guest)
    acl = {"allow": ["*"], "deny": [id_of(guest).partition(":")[2].partition(":")[0]], "allow_ip_literals": True}
    host.call("PUT", room("/state/m.room.server_acl/", room_id), acl)
    until_so(lambda: guest.ask("GET", room("/state/m.room.server_acl/", room_id))[0] == 200)
    event_id = say(guest, room_id, "unheard")
    hear(host, room_id, say(host, room_id, "still here"))
    assert host.ask("GET", room(f"/event/{quote(event_id)}", room_id))[0] == 404


@SEATS
def test_files_cross_over(pair: Pair, seat: str) -> None:
    host, guest = seated(pair, seat)
    data = bytes(range(256)) * 400
    uri = raw(host, "POST", "/_matrix/media/v3/upload?filename=a.bin", data)
    media = json.loads(uri)["content_uri"].removeprefix("mxc://")
    assert raw(guest, "GET", f"/_matrix/client/v1/media/download/{media}") == data


def raw(who: Connection, method: str, path: str, body: bytes | None = None) -> bytes:
    """The body of a good answer."""
    with closing(http.client.HTTPConnection(who.host, who.port, timeout=30)) as connection:
        headers = {"Authorization": f"Bearer {who.token}", "Content-Type": "application/octet-stream"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = answer.read()
        assert answer.status == 200, found
        return found


@SEATS
def test_a_room_is_upgraded_and_followed(pair: Pair, seat: str) -> None:
    host, guest = seated(pair, seat)
    old = host.call("POST", "/createRoom", {"preset": "public_chat", "room_version": "10"})["room_id"]
    guest.call("POST", joining(old, host), {})
    new = host.call("POST", room("/upgrade", old), {"new_version": "11"})["replacement_room"]
    until_so(lambda: guest.ask("GET", room("/state/m.room.tombstone/", old))[0] == 200)
    assert guest.call("GET", room("/state/m.room.tombstone/", old))["replacement_room"] == new
    guest.call("POST", joining(new, host), {})
    hear(host, new, say(guest, new, "moved"))


@SEATS
def test_changes_of_devices_and_presence_are_told(pair: Pair, seat: str) -> None:
    host, guest = seated(pair, seat)
    talked_in(host, guest)
    since = host.call("GET", "/sync")["next_batch"]
    guest.call("PUT", f"/presence/{quote(id_of(guest))}/status", {"presence": "online", "status_msg": seat})
    device_id = guest.call("GET", "/account/whoami")["device_id"]
    guest.call("PUT", f"/devices/{quote(device_id)}", {"display_name": f"Device of {seat}"})
    told: set[str] = set()

    def has_both(answer: Json) -> bool:
        if id_of(guest) in answer.get("device_lists", {}).get("changed", []):
            told.add("devices")
        for event in answer.get("presence", {}).get("events", []):
            if event["sender"] == id_of(guest) and event["content"].get("status_msg") == seat:
                told.add("presence")
        return told == {"devices", "presence"}

    until(host, has_both, since=since)


@SEATS
def test_nothing_is_missed_while_this_server_is_away(pair: Pair, seat: str) -> None:
    host, guest = seated(pair, seat)
    room_id = talked_in(host, guest)
    pair.server.stop()
    pair.alice.close()
    missed = [say(pair.bob, room_id, f"missed-{number}") for number in range(3)]
    pair.server.start()
    hear(pair.bob, room_id, say(pair.alice, room_id, "back"))
    hear(pair.alice, room_id, *missed)
