"""Two servers as processes, which federate over TLS as servers of different people do.

Both are ours, or the other one is Synapse, in either seat: the room is made on the host's server, and the guest comes
from the other one. Who waits, waits for what the server itself tells: a sync that is held until there is something.
"""

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from tests.processes import programs, synapse
from tests.processes.federating import new_federation
from tests.processes.people import OPEN, hear, say, until, user
from tests.processes.server import HOST, Server
from tests.processes.synapse import Synapse
from tests.processes.talking import Connection, Json

pytestmark = pytest.mark.timeout(120)  # The first test starts processes, and waits for them.


@dataclass(frozen=True)
class Home:
    """A server that can be stopped and started again, and somebody who is there."""

    server: Server | Synapse
    user: Connection


@dataclass(frozen=True)
class Pair:
    """Whose room it is, and who comes to it."""

    host: Connection
    guest: Connection
    homes: tuple[Home, Home]
    """Of the host and of the guest."""


@pytest.fixture(scope="module")
def two_of_ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Home]]:
    federation = new_federation(tmp_path_factory.mktemp("ours"), "a.test", "b.test")
    with federation.running("a.test", "b.test", **OPEN) as (a, b), people((HOST, a), (HOST, b)) as homes:
        yield homes


@pytest.fixture(scope="module")
def ours_and_synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Home]]:
    try:
        synapse.python()
    except programs.Missing as problem:
        pytest.skip(str(problem))
    with (
        synapse.beside_synapse(tmp_path_factory.mktemp("synapse")) as (ours, theirs),
        people((HOST, ours), (synapse.HOST, theirs)) as homes,
    ):
        yield homes


@contextmanager
def people(one: tuple[str, Server | Synapse], other: tuple[str, Server | Synapse]) -> Iterator[tuple[Home, Home]]:
    with ExitStack() as stack:
        alice = stack.enter_context(user(one[0], one[1].port, "alice"))
        bob = stack.enter_context(user(other[0], other[1].port, "bob"))
        yield Home(one[1], alice), Home(other[1], bob)


@pytest.fixture(
    params=[
        "two of ours",
        pytest.param("the guest's is Synapse", marks=pytest.mark.synapse),
        pytest.param("the host's is Synapse", marks=pytest.mark.synapse),
    ]
)
def pair(request: pytest.FixtureRequest) -> Pair:
    """A host and a guest."""
    homes: tuple[Home, Home]
    homes = request.getfixturevalue("two_of_ours" if request.param == "two of ours" else "ours_and_synapse")
    if request.param == "the host's is Synapse":
        homes = homes[::-1]
    return Pair(homes[0].user, homes[1].user, homes)


def id_of(who: Connection) -> str:
    user_id: str = who.call("GET", "/account/whoami")["user_id"]
    return user_id


def server_of(who: Connection) -> str:
    return id_of(who).partition(":")[2]


def room(path: str, room_id: str) -> str:
    return f"/rooms/{quote(room_id, safe='')}{path}"


def joining(room_id: str, host: Connection, how: str = "join") -> str:
    """The path of a request to join a room by way of somebody's server."""
    server = quote(server_of(host))
    return f"/{how}/{quote(room_id)}?via={server}&server_name={server}"


def create(host: Connection, **more: Any) -> str:
    room_id: str = host.call("POST", "/createRoom", {"preset": "private_chat", **more})["room_id"]
    return room_id


def rule(join_rule: str, **more: Any) -> Json:
    """What a room begins with that is joined in this way."""
    return {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": join_rule, **more}}


def is_invited(who: Connection, room_id: str) -> None:
    """Wait for an invite."""
    until(who, lambda answer: room_id in answer["rooms"].get("invite", {}))


def talked_in(host: Connection, guest: Connection, **more: Any) -> str:
    """A room of both."""
    room_id = create(host, **more)
    host.call("POST", room("/invite", room_id), {"user_id": id_of(guest)})
    is_invited(guest, room_id)
    guest.call("POST", room("/join", room_id), {})
    hear(host, room_id, say(guest, room_id, "hello"))
    return room_id


def sees(who: Connection, room_id: str, condition: Callable[[Json], bool]) -> Json:
    """Sync until there is such an event in the room; the event. That it is there already does as well."""
    found: list[Json] = []

    def is_there(answer: Json) -> bool:
        for standing in ("join", "leave"):
            part = answer["rooms"].get(standing, {}).get(room_id, {})
            events = [one for name in ("state", "timeline") for one in part.get(name, {}).get("events", [])]
            found.extend(event for event in events if condition(event))
        return bool(found)

    until(who, is_there, include_leave=True)
    return found[0]


def sees_state(who: Connection, room_id: str, type_: str, state_key: str = "", **content: Any) -> Json:
    """Sync until this is the state of the room, which has at least this content."""
    return sees(
        who,
        room_id,
        lambda event: (
            (event["type"], event.get("state_key")) == (type_, state_key)
            and content.items() <= event["content"].items()
        ),
    )


def sees_member(who: Connection, room_id: str, member: Connection, **content: Any) -> None:
    """Sync until a member is so."""
    sees_state(who, room_id, "m.room.member", id_of(member), **content)


@pytest.mark.parametrize("version", ["10", "11", "12"])
def test_joining_and_talking(pair: Pair, version: str) -> None:
    host, guest = pair.host, pair.guest
    alias = f"hall-{version}"
    room_id = create(host, preset="public_chat", room_alias_name=alias, room_version=version)
    assert guest.call("POST", f"/join/{quote(f'#{alias}:{server_of(host)}')}", {})["room_id"] == room_id
    hear(host, room_id, say(guest, room_id, "one"))
    hear(guest, room_id, say(host, room_id, "two"))
    host.call("DELETE", f"/directory/room/{quote(f'#{alias}:{server_of(host)}')}")


def test_invites_are_taken_and_turned_down(pair: Pair) -> None:
    host, guest = pair.host, pair.guest
    talked_in(host, guest)
    room_id = create(host, invite=[id_of(guest)])
    is_invited(guest, room_id)
    guest.call("POST", room("/leave", room_id), {})
    sees_member(host, room_id, guest, membership="leave")


def test_who_leaves_is_gone_and_may_come_back(pair: Pair) -> None:
    host, guest = pair.host, pair.guest
    room_id = talked_in(host, guest, preset="public_chat")
    guest.call("POST", room("/leave", room_id), {"reason": "late"})
    sees_member(host, room_id, guest, membership="leave", reason="late")
    unheard = say(host, room_id, "among us")
    assert guest.ask("PUT", room("/send/m.test/1", room_id), {})[0] == 403
    guest.call("POST", joining(room_id, host), {})
    hear(host, room_id, say(guest, room_id, "back"))
    hear(guest, room_id, say(host, room_id, "welcome"))
    assert reads_back(guest, room_id, [unheard]) == [unheard]


def test_who_is_banned_is_gone_and_cannot_come_back(pair: Pair) -> None:
    host, guest = pair.host, pair.guest
    room_id = talked_in(host, guest, preset="public_chat")
    host.call("POST", room("/ban", room_id), {"user_id": id_of(guest)})
    sees_member(guest, room_id, guest, membership="ban")
    assert guest.ask("PUT", room("/send/m.test/1", room_id), {})[0] == 403
    assert guest.ask("POST", joining(room_id, host), {})[0] == 403


def test_redactions_arrive(pair: Pair) -> None:
    host, guest = pair.host, pair.guest
    room_id = talked_in(host, guest)
    event_id = say(guest, room_id, "secret")
    hear(host, room_id, event_id)
    hear(guest, room_id, host.call("PUT", room(f"/redact/{quote(event_id)}/1", room_id), {})["event_id"])
    assert guest.call("GET", room(f"/event/{quote(event_id)}", room_id))["content"] == {}


def test_typing_and_receipts_arrive(pair: Pair) -> None:
    host, guest = pair.host, pair.guest
    room_id = talked_in(host, guest)
    event_id = say(host, room_id, "read me")
    hear(guest, room_id, event_id)
    guest.call("PUT", room(f"/typing/{quote(id_of(guest))}", room_id), {"typing": True, "timeout": 30000})
    guest.call("POST", room(f"/receipt/m.read/{quote(event_id)}", room_id), {})

    def has_both(answer: Json) -> bool:
        ephemeral.extend(answer["rooms"].get("join", {}).get(room_id, {}).get("ephemeral", {}).get("events", []))
        return {"m.typing", "m.receipt"} <= {one["type"] for one in ephemeral}

    ephemeral: list[Json] = []
    until(host, has_both)
    assert any(id_of(guest) in one["content"].get("user_ids", []) for one in ephemeral)
    assert any(event_id in one["content"] for one in ephemeral)


def test_what_was_said_before_is_there_for_who_joins_later(pair: Pair) -> None:
    host, guest = pair.host, pair.guest
    room_id = create(host, preset="public_chat")
    said = [say(host, room_id, f"early-{number}") for number in range(30)]
    guest.call("POST", joining(room_id, host), {})
    assert reads_back(guest, room_id, said) == said[::-1]


def reads_back(who: Connection, room_id: str, wanted: list[str]) -> list[str]:
    """Read the room backwards until all of these have come; in which order they came."""
    found: list[str] = []
    since = ""
    while not set(wanted) <= set(found):
        answer = who.call("GET", room(f"/messages?dir=b&limit=20{since}", room_id))
        found += [event["event_id"] for event in answer["chunk"]]
        since = f"&from={quote(answer.get('end', 'the end'))}"
    return [event_id for event_id in found if event_id in wanted]


def test_names_and_faces_are_known_on_the_other_server(pair: Pair, request: pytest.FixtureRequest) -> None:
    host, guest = pair.host, pair.guest
    room_id = talked_in(host, guest)
    name = f"Name in {request.node.name}"
    guest.call("PUT", f"/profile/{quote(id_of(guest))}/displayname", {"displayname": name})
    sees_member(host, room_id, guest, displayname=name)
    assert host.call("GET", f"/profile/{quote(id_of(guest))}")["displayname"] == name


def test_keys_and_messages_to_devices_cross_over(pair: Pair, request: pytest.FixtureRequest) -> None:
    host, guest = pair.host, pair.guest
    talked_in(host, guest)
    device_id = guest.call("GET", "/account/whoami")["device_id"]
    keys = {
        "user_id": id_of(guest),
        "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {f"curve25519:{device_id}": "A" * 43, f"ed25519:{device_id}": "A" * 43},
        "signatures": {id_of(guest): {f"ed25519:{device_id}": "A" * 86}},
    }
    guest.call("POST", "/keys/upload", {"device_keys": keys, "one_time_keys": {"curve25519:AAAAAA": "B" * 43}})
    found = host.call("POST", "/keys/query", {"device_keys": {id_of(guest): []}})["device_keys"][id_of(guest)]
    assert found[device_id]["keys"] == keys["keys"]
    claimed = host.call("POST", "/keys/claim", {"one_time_keys": {id_of(guest): {device_id: "curve25519"}}})
    assert list(claimed["one_time_keys"][id_of(guest)][device_id].values()) == ["B" * 43]
    message = {"to": request.node.name}
    host.call("PUT", "/sendToDevice/m.test/1", {"messages": {id_of(guest): {device_id: message}}})
    until(
        guest,
        lambda answer: any(one["content"] == message for one in answer.get("to_device", {}).get("events", [])),
    )


def test_knocking_and_being_let_in(pair: Pair) -> None:
    host, guest = pair.host, pair.guest
    room_id = create(host, initial_state=[rule("knock")])
    guest.call("POST", joining(room_id, host, how="knock"), {"reason": "please"})
    sees_member(host, room_id, guest, membership="knock", reason="please")
    host.call("POST", room("/invite", room_id), {"user_id": id_of(guest)})
    is_invited(guest, room_id)
    guest.call("POST", room("/join", room_id), {})
    hear(host, room_id, say(guest, room_id, "thanks"))


def test_members_of_one_room_may_join_another(pair: Pair) -> None:
    host, guest = pair.host, pair.guest
    allow = [{"type": "m.room_membership", "room_id": talked_in(host, guest)}]
    room_id = create(host, initial_state=[rule("restricted", allow=allow)])
    guest.call("POST", joining(room_id, host), {})
    hear(host, room_id, say(guest, room_id, "in"))
    closed = create(host, initial_state=[rule("restricted", allow=[{**allow[0], "room_id": create(host)}])])
    assert guest.ask("POST", joining(closed, host), {})[0] == 403


def test_an_excluded_server_is_not_heard(pair: Pair) -> None:
    host, guest = pair.host, pair.guest
    room_id = talked_in(host, guest)
    acl = {"allow": ["*"], "deny": [server_of(guest).partition(":")[0]], "allow_ip_literals": True}
    host.call("PUT", room("/state/m.room.server_acl/", room_id), acl)
    sees_state(guest, room_id, "m.room.server_acl")
    event_id = say(guest, room_id, "unheard")
    other = talked_in(host, guest)
    hear(host, other, say(guest, other, "heard"))  # What was sent before has come, too, by then.
    assert host.ask("GET", room(f"/event/{quote(event_id)}", room_id))[0] == 404


def test_files_cross_over(pair: Pair) -> None:
    host, guest = pair.host, pair.guest
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


def test_a_room_is_upgraded_and_followed(pair: Pair) -> None:
    host, guest = pair.host, pair.guest
    old = create(host, preset="public_chat", room_version="10")
    guest.call("POST", joining(old, host), {})
    new = host.call("POST", room("/upgrade", old), {"new_version": "11"})["replacement_room"]
    sees_state(guest, old, "m.room.tombstone", replacement_room=new)
    guest.call("POST", joining(new, host), {})
    hear(host, new, say(guest, new, "moved"))


def test_changes_of_devices_and_presence_are_told(pair: Pair, request: pytest.FixtureRequest) -> None:
    host, guest = pair.host, pair.guest
    talked_in(host, guest)
    since = host.call("GET", "/sync")["next_batch"]
    status = request.node.name
    guest.call("PUT", f"/presence/{quote(id_of(guest))}/status", {"presence": "online", "status_msg": status})
    device_id = guest.call("GET", "/account/whoami")["device_id"]
    guest.call("PUT", f"/devices/{quote(device_id)}", {"display_name": f"Device of {status}"})
    told: set[str] = set()

    def has_both(answer: Json) -> bool:
        if id_of(guest) in answer.get("device_lists", {}).get("changed", []):
            told.add("devices")
        for event in answer.get("presence", {}).get("events", []):
            if event["sender"] == id_of(guest) and event["content"].get("status_msg") == status:
                told.add("presence")
        return told == {"devices", "presence"}

    until(host, has_both, since=since)


@pytest.mark.trust("F24")
@pytest.mark.parametrize("away", ["host", "guest"])
def test_nothing_is_missed_while_a_server_is_away(pair: Pair, away: str) -> None:
    room_ids = [talked_in(pair.host, pair.guest) for _ in range(3)]
    absent, present = pair.homes if away == "host" else pair.homes[::-1]
    absent.server.stop()
    absent.user.close()
    missed = {room_id: [say(present.user, room_id, f"missed-{number}") for number in range(5)] for room_id in room_ids}
    absent.server.start()
    # A sign of life is enough: nobody has to wait until the next try is due.
    hear(present.user, room_ids[0], say(absent.user, room_ids[0], "back"))
    for room_id in room_ids:
        hear(absent.user, room_id, *missed[room_id])
