"""Rooms of servers that do what a test tells them."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from homeserver.matrix.event_auth import auth_event_keys
from homeserver.matrix.events import Event, build_template
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import sign_event, sign_pdu
from homeserver.outbound.transport import Reply
from tests.federation.network import Peer, Seen
from tests.room_graphs import Graph, key_of

FEDERATION = "/_matrix/federation"


def refusal(status: int, errcode: str, **more: Any) -> Reply:
    """An error."""
    return Reply(status, {}, json.dumps({"errcode": errcode, "error": "No.", **more}).encode())


@dataclass
class ForeignRoom:
    """A room that a peer has made, and lets others into."""

    peer: Peer
    graph: Graph
    tip: Event
    sent: list[Event] = field(default_factory=list)
    """The membership events that were handed over."""

    @classmethod
    def begin(cls, peer: Peer, version: str = "11", **rules: Any) -> "ForeignRoom":
        """A room of a version, public unless `rules` are other join rules."""
        graph = Graph(version, f"!foreign:{peer.name}")
        creator = f"@owner:{peer.name}"
        content: dict[str, Any] = {"room_version": version}
        if ROOM_VERSIONS[version].creator_in_content:
            content["creator"] = creator
        create = graph.build(creator, "m.room.create", content, [], state_key="")
        graph.room_id = create.room_id
        room = cls(peer, graph, graph.add(create, []))
        room.say("m.room.member", {"membership": "join"}, state_key=creator)
        users = {} if ROOM_VERSIONS[version].creators_have_infinite_power else {creator: 100}
        room.say("m.room.power_levels", {"users": users, "invite": 50}, state_key="")
        room.say("m.room.join_rules", {"join_rule": "public"} | rules, state_key="")
        room.say("m.room.name", {"name": "Abroad"}, state_key="")
        return room

    @property
    def room_id(self) -> str:
        return self.graph.room_id

    @property
    def version(self) -> str:
        return self.graph.version

    @property
    def owner(self) -> str:
        return f"@owner:{self.peer.name}"

    @property
    def state(self) -> dict[tuple[str, str], Event]:
        return self.graph.after[self.tip.event_id]

    def say(self, type_: str, content: dict[str, Any], *, sender: str | None = None, **more: Any) -> Event:
        """The next event."""
        self.tip = self.graph.say(sender or self.owner, type_, content, [self.tip], **more)
        return self.tip

    def take(self, event: Event) -> None:
        """Let an event that came from elsewhere be the next."""
        self.tip = self.graph.add(event, [self.graph.by_id[event_id] for event_id in event.prev_events])
        self.sent.append(event)

    def template(self, user_id: str, content: dict[str, Any]) -> dict[str, Any]:
        """What may be signed."""
        raw = json.dumps(content).encode()
        keys = auth_event_keys(self.version, type="m.room.member", sender=user_id, state_key=user_id, content=raw)
        made = build_template(
            self.version,
            room_id=self.room_id,
            type="m.room.member",
            sender=user_id,
            state_key=user_id,
            content=raw,
            origin_server_ts=self.graph.clock + 1,
            depth=self.tip.depth + 1,
            prev_events=[self.tip],
            auth_events=[self.state[key] for key in keys if key in self.state],
            event_id="$template:x" if ROOM_VERSIONS[self.version].event_ids_in_pdu else None,
        )
        return json.loads(made)

    def host(self, **content: Any) -> None:
        """Answer as a resident server does; `content` is added to that of every template."""
        for membership in ("join", "knock", "leave"):
            self.peer.on("GET", f"{FEDERATION}/v1/make_{membership}/", self._make(membership, content))
        self.peer.on("PUT", f"{FEDERATION}/v2/send_join/", self._send_join)
        self.peer.on("PUT", f"{FEDERATION}/v1/send_knock/", self._send_knock)
        self.peer.on("PUT", f"{FEDERATION}/v2/send_leave/", self._send_leave)

    def calls(self, *what: str) -> list[str]:
        """The first parts of the paths below the version of the requests that the peer has seen, of these kinds."""
        names = [seen.target.split("/")[4] for seen in self.peer.seen if seen.target.startswith(FEDERATION)]
        return [name for name in names if not what or name in what]

    def invite(self, user_id: str, **more: Any) -> Event:
        """An invite, not yet part of the room."""
        return self.graph.build(
            self.owner, "m.room.member", {"membership": "invite"} | more, [self.tip], state_key=user_id
        )

    def stripped(self) -> list[Any]:
        """What an invited user is told."""
        return [json.loads(event.pdu) for (_, key), event in self.state.items() if not key]

    async def send_invite(self, server: str, event: Event, /, **more: Any) -> Any:
        """The answer of a server to an invite; `more` takes the place of what is right."""
        body = {
            "room_version": self.version,
            "event": json.loads(event.pdu),
            "invite_room_state": self.stripped(),
        } | more
        target = f"{FEDERATION}/v2/invite/{quote(self.room_id)}/{quote(event.event_id, safe='')}"
        return await self.peer.call(server, "PUT", target, body)

    def _make(self, membership: str, content: dict[str, Any]) -> Any:
        def answer(seen: Seen) -> Any:
            user_id = unquote(seen.target.partition("?")[0].split("/")[-1])
            return {
                "room_version": self.version,
                "event": self.template(user_id, {"membership": membership} | content),
            }

        return answer

    def welcome(self, seen: Seen) -> dict[str, Any]:
        """What somebody who has joined is told."""
        state = list(self.state.values())
        event = Event.parse(json.dumps(seen.content).encode(), self.version)
        chain: dict[str, Event] = {}
        waiting = [*state, event]
        while waiting:
            cited = [self.graph.by_id[one] for one in waiting.pop().auth_events]
            waiting += [one for one in cited if one.event_id not in chain]
            chain |= {one.event_id: one for one in cited}
        answer = {
            "state": [json.loads(one.pdu) for one in state],
            "auth_chain": [json.loads(one.pdu) for one in chain.values()],
        }
        if "join_authorised_via_users_server" in event.content:
            event = sign_event(event, self.peer.name, key_of(self.peer.name))
            answer["event"] = json.loads(event.pdu)
        self.take(event)
        return answer

    def _send_join(self, seen: Seen) -> Any:
        return self.welcome(seen)

    def _send_knock(self, seen: Seen) -> Any:
        self.take(Event.parse(json.dumps(seen.content).encode(), self.version))
        return {"knock_room_state": self.stripped()}

    def _send_leave(self, seen: Seen) -> Any:
        self.take(Event.parse(json.dumps(seen.content).encode(), self.version))
        return {}


def complete(peer: Peer, made: dict[str, Any], **changes: Any) -> Event:
    """A template as a peer completes and signs it; `changes` are to its fields."""
    pdu = {key: value for key, value in (made["event"] | changes).items() if value is not None}
    if ROOM_VERSIONS[made["room_version"]].event_ids_in_pdu:
        pdu["event_id"] = f"$mine{len(json.dumps(pdu))}:{peer.name}"
    return sign_pdu(json.dumps(pdu).encode(), made["room_version"], peer.name, key_of(peer.name))


async def make(peer: Peer, server: str, membership: str, room_id: str, user_id: str, *versions: str) -> Any:
    """The answer of a server that is asked for a template."""
    query = "?" + "&".join(f"ver={version}" for version in versions) if versions else ""
    target = f"{FEDERATION}/v1/make_{membership}/{quote(room_id)}/{quote(user_id)}{query}"
    return await peer.call(server, "GET", target)


async def hand_over(
    peer: Peer, server: str, membership: str, room_id: str, event: Event, *, query: str = "", event_id: str = ""
) -> Any:
    """The answer of a server that is handed a membership event."""
    version = "v1" if membership == "knock" else "v2"
    name = quote(event_id or event.event_id, safe="")
    target = f"{FEDERATION}/{version}/send_{membership}/{quote(room_id)}/{name}{query}"
    return await peer.call(server, "PUT", target, json.loads(event.pdu))


async def bring_in(peer: Peer, server: str, room_id: str, user_id: str, **changes: Any) -> Event:
    """Let a user of the peer join a room of the server."""
    made = (await make(peer, server, "join", room_id, user_id, *ROOM_VERSIONS)).json()
    event = complete(peer, made, **changes)
    answer = await hand_over(peer, server, "join", room_id, event)
    assert answer.status_code == 200, answer.text
    return event
