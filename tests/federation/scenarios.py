"""What people on two servers do with each other, through the client-server API alone.

Each scenario is run between two servers of ours in memory, between real processes over TLS, and with another
implementation in either seat; so it says nothing of servers but their names, and waits for what others are to see.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from tests.world import User

PATIENCE_S = 30.0
Json = dict[str, Any]
Scenario = Callable[[User, User], Awaitable[None]]


class Window:
    """What a user sees: one sync after the other."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.since: str | None = None
        self.events: dict[str, list[Json]] = {}
        """By room: what came in timelines, in order."""
        self.state: dict[str, list[Json]] = {}
        self.invites: dict[str, list[Json]] = {}
        self.knocks: dict[str, list[Json]] = {}
        self.ephemeral: dict[str, list[Json]] = {}
        self.to_device: list[Json] = []
        self.presence: list[Json] = []
        self.devices_changed: set[str] = set()

    async def look(self, timeout_ms: int = 0) -> None:
        """One more sync."""
        seen = await self.user.sync(self.since, timeout=timeout_ms)
        self.since = seen["next_batch"]
        rooms = seen.get("rooms", {})
        for kind in ("join", "leave"):
            for room_id, room in rooms.get(kind, {}).items():
                self.events.setdefault(room_id, []).extend(room.get("timeline", {}).get("events", []))
                self.state.setdefault(room_id, []).extend(room.get("state", {}).get("events", []))
                self.ephemeral.setdefault(room_id, []).extend(room.get("ephemeral", {}).get("events", []))
        for room_id, room in rooms.get("invite", {}).items():
            self.invites[room_id] = room["invite_state"]["events"]
        for room_id, room in rooms.get("knock", {}).items():
            self.knocks[room_id] = room["knock_state"]["events"]
        self.to_device += seen.get("to_device", {}).get("events", [])
        self.presence += seen.get("presence", {}).get("events", [])
        self.devices_changed |= set(seen.get("device_lists", {}).get("changed", []))

    async def until(self, holds: Callable[["Window"], Any]) -> None:
        """Look until this holds of what was seen."""
        async with asyncio.timeout(PATIENCE_S):
            await self.look()
            while not holds(self):
                await self.look(timeout_ms=1000)

    async def sees(self, room_id: str, event_id: str) -> Json:
        """The event, once it has come in a timeline."""
        await self.until(lambda window: window.find(room_id, event_id) is not None)
        found = self.find(room_id, event_id)
        assert found is not None
        return found

    def find(self, room_id: str, event_id: str) -> Json | None:
        """The event, if it came in a timeline."""
        return next((event for event in self.events.get(room_id, []) if event["event_id"] == event_id), None)

    def ids(self, room_id: str) -> list[str]:
        """The events that came in the timeline of a room, in order."""
        return [event["event_id"] for event in self.events.get(room_id, [])]


def part(text: str) -> str:
    return quote(text, safe="")


def server_of(user: User) -> str:
    return user.user_id.partition(":")[2]


async def good(answer: Awaitable[Any]) -> Json:
    """The body of an answer that must be a 200."""
    response = await answer
    assert response.status_code == 200, response.text
    body: Json = response.json()
    return body


async def join(user: User, room: str, through: User) -> str:
    """Join a room, by id or alias, through the server of somebody else; its id."""
    via = part(server_of(through))
    body = await good(user.post(f"/join/{part(room)}?server_name={via}&via={via}"))
    room_id: str = body["room_id"]
    return room_id


async def members(user: User, room_id: str) -> dict[str, str]:
    """The memberships, as the user's server has them."""
    found = await good(user.get(f"/rooms/{part(room_id)}/members"))
    return {event["state_key"]: event["content"]["membership"] for event in found["chunk"]}


async def read_back(user: User, room_id: str) -> list[Json]:
    """All that the user can read of the room, the oldest first."""
    found: list[Json] = []
    token = ""
    while True:
        query = f"?dir=b&limit=100{'&from=' + part(token) if token else ''}"
        page = await good(user.get(f"/rooms/{part(room_id)}/messages{query}"))
        found += page["chunk"]
        if "end" not in page or not page["chunk"]:
            return found[::-1]
        token = page["end"]


async def ids_of_state(user: User, room_id: str) -> set[str]:
    """The events that the room's state consists of, as the user's server has it."""
    answer = await user.get(f"/rooms/{part(room_id)}/state")
    return {event["event_id"] for event in answer.json()}


async def eventually(user: User, holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until this holds; it is looked at when the user's sync has something new, and now and then."""
    window = Window(user)
    async with asyncio.timeout(PATIENCE_S):
        await window.look()
        while not await holds():
            await window.look(timeout_ms=200)


async def has_membership(user: User, room_id: str, target: str, membership: str) -> None:
    """Wait until the user's server has this membership of the target."""

    async def has() -> bool:
        return (await members(user, room_id)).get(target) == membership

    await eventually(user, has)


async def room_of_both(alice: User, bob: User, **options: Any) -> str:
    """A public room of one that the other has joined, and both know that."""
    room_id = await alice.create_room(**{"preset": "public_chat", **options})
    await join(bob, room_id, alice)
    await has_membership(alice, room_id, bob.user_id, "join")
    return room_id


async def talk(alice: User, bob: User) -> None:
    """A joins B's room; both speak, both see both, once and in order."""
    room_id = await room_of_both(alice, bob)
    of_alice, of_bob = Window(alice), Window(bob)
    await of_alice.look()
    await of_bob.look()
    sent = []
    for number in range(5):
        sent.append(await alice.send(room_id, f"from alice {number}"))
        await of_bob.sees(room_id, sent[-1])
        sent.append(await bob.send(room_id, f"from bob {number}"))
        await of_alice.sees(room_id, sent[-1])
    await of_bob.sees(room_id, sent[-1])
    for window in (of_alice, of_bob):
        assert [one for one in window.ids(room_id) if one in sent] == sent


async def redact(alice: User, bob: User) -> None:
    """What is redacted on one server is gone on the other."""
    room_id = await room_of_both(alice, bob)
    window = Window(bob)
    event_id = await alice.send(room_id, "a secret")
    await window.sees(room_id, event_id)
    await good(alice.put(f"/rooms/{part(room_id)}/redact/{part(event_id)}/r1", {}))
    await window.until(lambda one: any(event["type"] == "m.room.redaction" for event in one.events[room_id]))
    event = await good(bob.get(f"/rooms/{part(room_id)}/event/{part(event_id)}"))
    assert event["content"] == {}


async def invite(alice: User, bob: User) -> None:
    """An invite comes with the room's name, and lets in; another one is turned down."""
    room_id = await alice.create_room(preset="private_chat", name="Tea")
    window = Window(bob)
    await alice.invite(room_id, bob)
    await window.until(lambda one: room_id in one.invites)
    assert {"Tea"} == {event["content"]["name"] for event in window.invites[room_id] if event["type"] == "m.room.name"}
    await bob.join(room_id)
    await has_membership(alice, room_id, bob.user_id, "join")
    await bob.leave(room_id)
    await has_membership(alice, room_id, bob.user_id, "leave")
    other = await alice.create_room(preset="private_chat")
    await alice.invite(other, bob)
    await window.until(lambda one: other in one.invites)
    await bob.leave(other)
    await has_membership(alice, other, bob.user_id, "leave")


async def knock(alice: User, bob: User) -> None:
    """Somebody knocks and is let in; somebody knocks and goes again."""
    rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room_id = await alice.create_room(initial_state=[rule], name="Club")
    via = part(server_of(alice))
    path = f"/knock/{part(room_id)}?server_name={via}&via={via}"
    window = Window(bob)
    await good(bob.post(path, {"reason": "Please."}))
    await has_membership(alice, room_id, bob.user_id, "knock")
    await window.until(lambda one: room_id in one.knocks)
    await bob.leave(room_id)
    await has_membership(alice, room_id, bob.user_id, "leave")
    await good(bob.post(path, {}))
    await has_membership(alice, room_id, bob.user_id, "knock")
    await alice.invite(room_id, bob)
    await window.until(lambda one: room_id in one.invites)
    await bob.join(room_id)
    await has_membership(alice, room_id, bob.user_id, "join")


async def restricted(alice: User, bob: User) -> None:
    """Who is in one room may come into the other; who is not, may not."""
    club = await room_of_both(alice, bob)
    allow = [{"type": "m.room_membership", "room_id": club}]
    rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "restricted", "allow": allow}}
    inner = await alice.create_room(initial_state=[rule])
    await join(bob, inner, alice)
    await has_membership(alice, inner, bob.user_id, "join")
    elsewhere = await alice.create_room()
    closed = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": elsewhere}]}
    rule = {"type": "m.room.join_rules", "state_key": "", "content": closed}
    other = await alice.create_room(initial_state=[rule])
    via = part(server_of(alice))
    refused = await bob.post(f"/join/{part(other)}?server_name={via}&via={via}")
    assert refused.status_code == 403, refused.text


async def live(alice: User, bob: User) -> None:
    """Typing, receipts and presence come across."""
    room_id = await room_of_both(alice, bob)
    of_alice, of_bob = Window(alice), Window(bob)
    event_id = await alice.send(room_id, "read me")
    await of_bob.sees(room_id, event_id)
    await of_alice.look()

    def kinds(window: Window, kind: str) -> list[Json]:
        return [one["content"] for one in window.ephemeral.get(room_id, []) if one["type"] == kind]

    await good(bob.put(f"/rooms/{part(room_id)}/typing/{part(bob.user_id)}", {"typing": True, "timeout": 20000}))
    await of_alice.until(lambda one: any(bob.user_id in typing["user_ids"] for typing in kinds(one, "m.typing")))
    await good(bob.post(f"/rooms/{part(room_id)}/receipt/m.read/{part(event_id)}"))
    await of_alice.until(
        lambda one: any(
            bob.user_id in receipts.get(event_id, {}).get("m.read", {}) for receipts in kinds(one, "m.receipt")
        )
    )
    await good(bob.put(f"/presence/{part(bob.user_id)}/status", {"presence": "unavailable", "status_msg": "at tea"}))
    await of_alice.until(
        lambda one: any(
            event["sender"] == bob.user_id and event["content"].get("status_msg") == "at tea" for event in one.presence
        )
    )


async def to_device(alice: User, bob: User) -> None:
    """Messages from device to device arrive once."""
    await room_of_both(alice, bob)
    window = Window(bob)
    await window.look()
    for number in range(3):
        body = {
            "messages": {
                bob.user_id: {
                    bob.device_id: {"n": number},
                }
            }
        }
        await good(alice.put(f"/sendToDevice/org.example.ping/n{number}", body))
        await good(alice.put(f"/sendToDevice/org.example.ping/n{number}", body))
    await good(alice.put("/sendToDevice/org.example.ping/all", {"messages": {bob.user_id: {"*": {"n": 3}}}}))
    await window.until(lambda one: len(one.to_device) >= 4)
    assert [event["content"]["n"] for event in window.to_device] == [0, 1, 2, 3]
    assert {event["sender"] for event in window.to_device} == {alice.user_id}


def device_keys(user: User) -> Json:
    return {
        "user_id": user.user_id,
        "device_id": user.device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            f"curve25519:{user.device_id}": "3C5BFWi2Y8MaVvjM8M22DBmh24PmgR0nPvJOIArzgyI",
            f"ed25519:{user.device_id}": "lEuiRJBit0IG6nUf5pUzWTUEsRVVe/HJkoKuEww9ULI",
        },
        "signatures": {user.user_id: {f"ed25519:{user.device_id}": "dSO80A01XiigH3uBiDVx/EjzaoycHcjq9lfQX0uWsqxl2gi"}},
    }


async def keys(alice: User, bob: User) -> None:
    """Who is in a room with somebody hears of their devices, and gets their keys; each one-time key once."""
    one_time_key = {"key": "zKbLg+NrIjpnagy+pIY6uPL4ZwEG2v+8F9lmgsnlZzs", "signatures": {}}
    one_time = {f"signed_curve25519:{name}": one_time_key for name in "AB"}
    await room_of_both(alice, bob)
    window = Window(alice)
    await window.look()
    await good(bob.post("/keys/upload", {"device_keys": device_keys(bob), "one_time_keys": one_time}))
    await window.until(lambda one: bob.user_id in one.devices_changed)

    async def known() -> bool:
        found = await good(alice.post("/keys/query", {"device_keys": {bob.user_id: []}}))
        return bob.device_id in found["device_keys"].get(bob.user_id, {})

    await eventually(alice, known)
    claimed = []
    for _ in range(2):
        wanted = {"one_time_keys": {bob.user_id: {bob.device_id: "signed_curve25519"}}}
        found = await good(alice.post("/keys/claim", wanted))
        claimed += found["one_time_keys"][bob.user_id][bob.device_id]
    assert sorted(claimed) == sorted(one_time)


async def media(alice: User, bob: User) -> None:
    """A file that was uploaded on one server is to be had on the other."""
    body = b"\x89PNG not really " * 100
    headers = {"Authorization": f"Bearer {alice.token}", "Content-Type": "text/plain"}
    answer = await alice.client.send("POST", "/_matrix/media/v3/upload?filename=x.txt", headers=headers, content=body)
    assert answer.status_code == 200, answer.text
    server, media_id = answer.json()["content_uri"].removeprefix("mxc://").split("/")
    for _ in range(2):
        got = await bob.get(f"/v1/media/download/{server}/{media_id}")
        assert got.status_code == 200, got.text
        assert got.content == body


async def ban(alice: User, bob: User) -> None:
    """Who is banned is out, cannot come back, and what they say is not heard."""
    room_id = await room_of_both(alice, bob)
    await good(alice.post(f"/rooms/{part(room_id)}/ban", {"user_id": bob.user_id, "reason": "spam"}))
    await has_membership(alice, room_id, bob.user_id, "ban")
    window = Window(bob)
    async with asyncio.timeout(PATIENCE_S):
        while room_id in (await good(bob.get("/joined_rooms")))["joined_rooms"]:
            await window.look()
    via = part(server_of(alice))
    refused = await bob.post(f"/join/{part(room_id)}?server_name={via}&via={via}")
    assert refused.status_code == 403, refused.text
    await good(alice.post(f"/rooms/{part(room_id)}/unban", {"user_id": bob.user_id}))
    await join(bob, room_id, alice)


async def acl(alice: User, bob: User) -> None:
    """A server that the room keeps out is not heard any more; when it is let in, it is."""
    room_id = await room_of_both(alice, bob)
    window = Window(bob)
    shut = {"allow": ["*"], "deny": [server_of(bob)]}
    event_id = await alice.set_state(room_id, "m.room.server_acl", shut)
    await window.sees(room_id, event_id)
    unheard = await bob.send(room_id, "can you hear me?")
    marker = await alice.send(room_id, "no")
    await window.sees(room_id, marker)
    missing = await alice.get(f"/rooms/{part(room_id)}/event/{part(unheard)}")
    assert missing.status_code == 404


async def upgrade(alice: User, bob: User) -> None:
    """The room goes on in another version, and people follow."""
    room_id = await room_of_both(alice, bob, room_version="10")
    window = Window(bob)
    await window.look()
    body = await good(alice.post(f"/rooms/{part(room_id)}/upgrade", {"new_version": "11"}))
    new = body["replacement_room"]
    await window.until(lambda one: any(event["type"] == "m.room.tombstone" for event in one.events[room_id]))
    await join(bob, new, alice)
    await has_membership(alice, new, bob.user_id, "join")


async def history(alice: User, bob: User) -> None:
    """Who comes late reads what was said before."""
    room_id = await alice.create_room(preset="public_chat")
    said = [await alice.send(room_id, f"number {number}") for number in range(40)]
    await join(bob, room_id, alice)
    found: list[str] = []
    token = (await bob.sync())["rooms"]["join"][room_id]["timeline"]["prev_batch"]
    async with asyncio.timeout(PATIENCE_S):
        while not set(said) <= set(found):
            page = await good(bob.get(f"/rooms/{part(room_id)}/messages", dir="b", limit=15, **{"from": token}))
            found += [event["event_id"] for event in page["chunk"]]
            token = page.get("end", token)
    assert [one for one in reversed(found) if one in said] == said


async def alias(alice: User, bob: User) -> None:
    """A room is found by the name that it has on the other server, and in its directory."""
    room_id = await alice.create_room(preset="public_chat", room_alias_name="tea", visibility="public", name="Tea")
    name = f"#tea:{server_of(alice)}"
    found = await good(bob.get(f"/directory/room/{part(name)}"))
    assert found["room_id"] == room_id
    listed = await good(bob.get("/publicRooms", server=server_of(alice)))
    assert room_id in [room["room_id"] for room in listed["chunk"]]
    body = await good(bob.post(f"/join/{part(name)}"))
    assert body["room_id"] == room_id


async def profile(alice: User, bob: User) -> None:
    """The name of somebody on the other server."""
    await good(alice.put(f"/profile/{part(alice.user_id)}/displayname", {"displayname": "Alice of Tea"}))
    found = await good(bob.get(f"/profile/{part(alice.user_id)}"))
    assert found["displayname"] == "Alice of Tea"


async def leave(alice: User, bob: User) -> None:
    """Who has left hears nothing more, and may come back and hear what is said then."""
    room_id = await room_of_both(alice, bob)
    await bob.leave(room_id)
    await has_membership(alice, room_id, bob.user_id, "leave")
    unheard = await alice.send(room_id, "they are gone")
    await join(bob, room_id, alice)
    await has_membership(alice, room_id, bob.user_id, "join")
    window = Window(bob)
    heard = await alice.send(room_id, "they are back")
    await window.sees(room_id, heard)
    assert unheard != heard


SCENARIOS: list[Scenario] = [
    talk,
    redact,
    invite,
    knock,
    restricted,
    live,
    to_device,
    keys,
    media,
    ban,
    acl,
    upgrade,
    history,
    alias,
    profile,
    leave,
]
