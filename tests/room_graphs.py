"""Generated graphs of rooms, made by servers elsewhere, and what the specification says they come to.

The model knows nothing of positions, trees or databases: it keeps the state after each event as a dictionary, and
resolves in memory. (`rust/crates/state_res/tests` holds that to other implementations.)
"""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from homeserver.matrix import event_auth
from homeserver.matrix.event_auth import AuthError
from homeserver.matrix.events import Event, build_event
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.state_resolution import resolve_states
from homeserver.storage.server_keys import ServerKey

State = dict[tuple[str, str], Event]

SERVERS = ("a.example", "b.example", "c.example")
CREATOR = "@creator:a.example"
USERS = (CREATOR, "@ann:a.example", "@bob:b.example", "@cat:b.example", "@dan:c.example", "@eve:c.example")
_BEGIN = 1_700_000_000_000


def key_of(server: str) -> SigningKey:
    """The signing key of a server elsewhere."""
    return SigningKey.generate("1", server.encode().ljust(32, b"."))


def server_keys(servers: Iterable[str] = SERVERS) -> list[ServerKey]:
    """The public keys, as this server would know them."""
    keys = {server: key_of(server) for server in servers}
    return [ServerKey(server, key.key_id, key.public_key, 2**50) for server, key in keys.items()]


@dataclass
class Graph:
    """A room as it grows; events are in the order in which they were made."""

    version: str
    room_id: str
    events: list[Event] = field(default_factory=list)
    after: dict[str, State] = field(default_factory=dict)
    """The state after each event."""
    rejected: set[str] = field(default_factory=set)
    by_id: dict[str, Event] = field(default_factory=dict)
    clock: int = _BEGIN

    @property
    def create(self) -> Event:
        return self.events[0]

    def before(self, prev: Sequence[Event]) -> State:
        """The state before an event that follows these."""
        return self.resolved([self.after[event.event_id] for event in prev])

    def resolved(self, states: Sequence[State]) -> State:
        """The state that these come to."""
        if all(state == states[0] for state in states):
            return dict(states[0])
        ids = [{pair: event.event_id for pair, event in state.items()} for state in states]
        outcome = resolve_states(self.version, ids, self.events, self.rejected)
        assert not outcome.missing
        pairs = {pair for state in ids for pair in state}
        unconflicted = {pair for pair in pairs if all(state.get(pair) == ids[0].get(pair) for state in ids)}
        found = {pair: ids[0][pair] for pair in unconflicted} | outcome.state
        return {pair: self.by_id[event_id] for pair, event_id in found.items()}

    def build(
        self,
        sender: str,
        type_: str,
        content: dict[str, Any],
        prev: Sequence[Event],
        state_key: str | None = None,
        redacts: str | None = None,
    ) -> Event:
        """An event, signed, that cites what the state before it says."""
        version = ROOM_VERSIONS[self.version]
        state = self.before(prev) if prev else {}
        raw = json.dumps(content).encode()
        keys = event_auth.auth_event_keys(self.version, type=type_, sender=sender, state_key=state_key, content=raw)
        server = sender.partition(":")[2]
        self.clock += 1000
        is_create = type_ == "m.room.create"
        return build_event(
            self.version,
            server_name=server,
            key=key_of(server),
            room_id=None if is_create and version.room_ids_are_hashes else self.room_id,
            type=type_,
            sender=sender,
            state_key=state_key,
            content=raw,
            origin_server_ts=self.clock,
            depth=max((event.depth for event in prev), default=0) + 1,
            prev_events=list(prev),
            auth_events=[state[pair] for pair in keys if pair in state],
            redacts=redacts,
            event_id=f"$e{len(self.events)}at{self.clock}:{server}" if version.event_ids_in_pdu else None,
        )

    def refusal(self, event: Event, prev: Sequence[Event]) -> str | None:
        """Why the event is rejected, or None."""
        cited = [self.by_id[event_id] for event_id in event.auth_events]
        state = self.before(prev) if prev else {}
        keys = event_auth.auth_event_keys(
            self.version,
            type=event.type,
            sender=event.sender,
            state_key=event.state_key,
            content=event.content_json,
        )
        create = self.events[0] if self.events else None
        try:
            event_auth.check_auth(event, cited, create=create, rejected=self.rejected)
            if create is not None:
                found = [state[pair] for pair in keys if pair in state]
                event_auth.check_state_auth(event, found, create=create)
        except AuthError as error:
            return str(error)
        return None

    def add(self, event: Event, prev: Sequence[Event]) -> Event:
        """Take the event into the graph."""
        refusal = self.refusal(event, prev)
        state = self.before(prev) if prev else {}
        self.events.append(event)
        self.by_id[event.event_id] = event
        if refusal is not None:
            self.rejected.add(event.event_id)
        elif event.state_key is not None:
            state[event.type, event.state_key] = event
        self.after[event.event_id] = state
        return event

    def say(self, sender: str, type_: str, content: dict[str, Any], prev: Sequence[Event], **more: Any) -> Event:
        """Build an event and take it in."""
        return self.add(self.build(sender, type_, content, prev, **more), prev)

    def tips(self, hidden: Iterable[str] = ()) -> set[str]:
        """The accepted events that no accepted event follows; `hidden` ones count as not accepted."""
        apart = self.rejected | set(hidden)
        covered: set[str] = set()
        for event in reversed(self.events):
            if event.event_id not in apart or event.event_id in covered:
                covered.update(event.prev_events)
        return {event.event_id for event in self.events} - covered - apart


def begin(version: str, seed: int = 0) -> Graph:
    """A room with its first events: everybody has joined."""
    graph = Graph(version, f"!room{seed}:a.example", clock=_BEGIN + seed)
    content: dict[str, Any] = {"room_version": version, "seed": seed}
    if ROOM_VERSIONS[version].creator_in_content:
        content["creator"] = CREATOR
    create = graph.build(CREATOR, "m.room.create", content, [], state_key="")
    graph.room_id = create.room_id
    tip = graph.add(create, [])
    tip = graph.say(CREATOR, "m.room.member", {"membership": "join"}, [tip], state_key=CREATOR)
    levels = dict.fromkeys(USERS[1:3], 50)
    if not ROOM_VERSIONS[version].creators_have_infinite_power:
        levels[CREATOR] = 100
    tip = graph.say(CREATOR, "m.room.power_levels", {"users": levels}, [tip], state_key="")
    tip = graph.say(CREATOR, "m.room.join_rules", {"join_rule": "public"}, [tip], state_key="")
    for user in USERS[1:]:
        tip = graph.say(user, "m.room.member", {"membership": "join"}, [tip], state_key=user)
    return graph


def of_stored(version: str, room_id: str, events: Sequence[Event]) -> Graph:
    """The graph of a room that a server has, to be continued by servers elsewhere."""
    graph = Graph(version, room_id)
    for event in events:
        graph.add(event, [graph.by_id[event_id] for event_id in event.prev_events])
        graph.clock = max(graph.clock, event.origin_server_ts)
    return graph


def generate(version: str, seed: int, *, size: int = 40, quarrels: bool = True) -> Graph:
    """A room with forks and merges. Without `quarrels` nobody takes anything away from anybody."""
    chance = random.Random(seed)
    graph = begin(version, seed)
    ends = [graph.events[-1]]
    for step in range(size):
        prev = chance.sample(ends, min(len(ends), chance.choice((1, 1, 1, 2, 3))))
        sender, type_, content, state_key = action(chance, step, quarrels)
        event = graph.build(sender, type_, content, prev, state_key)
        if graph.refusal(event, prev) is not None and chance.random() < 0.8:
            continue
        graph.add(event, prev)
        if event.event_id in graph.rejected and chance.random() < 0.7:
            continue
        if chance.random() < 0.7:
            ends = [end for end in ends if end not in prev]
        ends = [*ends, event][-5:]
    return graph


def close(graph: Graph) -> Event:
    """One event by the creator that follows all loose ends."""
    last = {event_id for event in graph.events for event_id in event.prev_events}
    ends = [event for event in graph.events if event.event_id not in last]
    return graph.say(CREATOR, "m.room.message", {"body": "the end"}, ends[-20:])


def action(chance: random.Random, step: int, quarrels: bool) -> tuple[str, str, dict[str, Any], str | None]:
    """Something that somebody does: sender, type, content and state key."""
    sender, target = chance.choice(USERS[:3]), chance.choice(USERS[1:])
    peaceful: list[tuple[str, str, dict[str, Any], str | None]] = [
        (chance.choice(USERS), "m.room.message", {"body": f"{step}"}, None),
        (sender, "m.room.name", {"name": f"{step}"}, ""),
        (sender, "m.room.topic", {"topic": f"{step}"}, ""),
        (target, "m.room.member", {"membership": "join", "displayname": f"{step}"}, target),
    ]
    if not quarrels or chance.random() < 0.5:
        return chance.choice(peaceful)
    levels: dict[str, Any] = {user: chance.choice((0, 50, 100)) for user in USERS[1:]} | {sender: 100}
    levels.pop(CREATOR, None)
    member = "m.room.member"
    quarrelsome: list[tuple[str, str, dict[str, Any], str | None]] = [
        (sender, member, {"membership": "ban"}, target),
        (sender, member, {"membership": "leave"}, target),
        (target, member, {"membership": "leave"}, target),
        (target, member, {"membership": "join"}, target),
        (sender, "m.room.power_levels", {"users": levels}, ""),
        (CREATOR, "m.room.power_levels", {"users": levels | {CREATOR: 100}}, ""),
        (sender, "m.room.join_rules", {"join_rule": chance.choice(("public", "invite"))}, ""),
    ]
    return chance.choice(quarrelsome)
