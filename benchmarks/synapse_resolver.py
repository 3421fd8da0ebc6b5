"""Resolves states with Synapse, for `benchmarks.resolution`, which starts it in Synapse's own environment.

Reads JSON lines, and answers each with one: a room; then `{"merge": INDEX, "repeat": TIMES}`, any number of times.
Imports nothing of this repository.
"""

import json
import sys
import time
from collections.abc import Coroutine, Iterable
from typing import Any

import synapse.event_auth  # noqa: F401 - it must be imported before `synapse.state`
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.events import make_event_from_dict
from synapse.state import v1, v2
from synapse.storage.databases.main.event_federation import StateDifference


class Clock:
    """Nobody else is waiting for a turn."""

    async def sleep(self, duration: Any) -> None:
        return


class Room:
    """Its events in memory, in the role of the database."""

    def __init__(self, room: dict[str, Any]) -> None:
        self.version = KNOWN_ROOM_VERSIONS[room["version"]]
        rejected = set(room["rejected"])
        self.room_id = make_event_from_dict(room["events"][0], self.version).room_id
        self.events = {}
        for pdu in room["events"]:
            event = make_event_from_dict(pdu, self.version)
            if event.event_id in rejected:
                event = make_event_from_dict(pdu, self.version, rejected_reason="auth_error")
            self.events[event.event_id] = event
        self.merges = [
            [{(kind, key): event_id for kind, key, event_id in state} for state in states] for states in room["merges"]
        ]
        self.difference: StateDifference | None = None

    async def get_events(self, event_ids: Iterable[str], allow_rejected: bool = False) -> dict[str, Any]:
        found = {event_id: self.events[event_id] for event_id in event_ids}
        return {key: event for key, event in found.items() if allow_rejected or event.rejected_reason is None}

    def chain(self, event_ids: Iterable[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(event_ids)
        while waiting:
            for cited in self.events[waiting.pop()].auth_event_ids():
                if cited not in found:
                    found.add(cited)
                    waiting.append(cited)
        return found

    async def get_auth_chain_difference(
        self, room_id: str, state_sets: list[set[str]], conflicted: set[str] | None, more: set[str] | None
    ) -> StateDifference:
        # Found out once, so that it costs nothing when time is taken.
        if self.difference is None:
            chains = [self.chain(state) | state for state in state_sets]
            subgraph = None
            if conflicted is not None:
                ends = conflicted | (more or set())
                chain = self.chain(ends) | ends
                subgraph = {event_id for event_id in chain if event_id in ends or self.chain([event_id]) & ends}
            self.difference = StateDifference(set.union(*chains) - set.intersection(*chains), subgraph)
        return self.difference

    async def state_map(self, event_ids: Iterable[str]) -> dict[str, Any]:
        return await self.get_events(event_ids, allow_rejected=True)

    def resolve(self, states: list[dict[tuple[str, str], str]]) -> Any:
        if self.version.identifier == "1":
            return run(v1.resolve_events_with_store(self.room_id, self.version, states, self.events, self.state_map))
        return run(v2.resolve_events_with_store(Clock(), self.room_id, self.version, states, self.events, self))


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("it waits for something")


def main() -> None:
    room: Room | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        if "events" in asked:
            room = Room(asked)
            answer: Any = {}
        else:
            assert room is not None
            states = room.merges[asked["merge"]]
            room.difference = None
            resolved = room.resolve(states)
            began = time.thread_time()
            for _ in range(asked["repeat"]):
                room.resolve(states)
            answer = {
                "seconds": time.thread_time() - began,
                "state": [[*pair, event_id] for pair, event_id in resolved.items()],
            }
        print(json.dumps(answer), flush=True)


main()
