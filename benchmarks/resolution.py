"""What resolving states costs, beside Synapse, and whether both come to the same state.

    python -m benchmarks.resolution --synapse FOLDER [--rounds 5] [--compare ROOMS] [--first SEED]

The rooms come out of the generator of the tests of `state_res`; both get the same events and states. FOLDER is an
environment of its own: `python3 -m venv FOLDER && FOLDER/bin/pip install matrix-synapse`. Both resolve in memory and in
one thread, in turn, round by round; time is CPU time of that thread. Synapse is given the auth difference and the
conflicted subgraph; `resolve_states` finds them out itself. `resolve` gets the conflict alone, as from a server that
knows what it is.

With `--compare`, no time is taken: that many rooms of each version are resolved by both, and differences are printed
with their seed. Rooms with rejected events are left out: Synapse never applies such an event, while by the
specification it is "handled as usual".
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homeserver.matrix.events import Event
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.state_resolution import Resolution, needed_pairs, resolve, resolve_states
from tests.processes.server import REPOSITORY

State = dict[tuple[str, str], str]

SIZES = (10, 100, 1_000, 10_000)
TIMED_VERSIONS = ("1", "10", "12")


def generated(*arguments: str) -> Iterator[str]:
    """The rooms, as lines of JSON."""
    command = ["cargo", "run", "--quiet", "--locked", "--manifest-path", str(REPOSITORY / "rust" / "Cargo.toml")]
    command += ["--package", "state_res", "--example", "rooms", "--", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from process.stdout


@dataclass
class Conflict:
    """States of a room that are to be resolved, and the conflict between them."""

    version: str
    events: list[Event]
    rejected: list[str]
    states: list[State]

    def __post_init__(self) -> None:
        self.by_id = {event.event_id: event for event in self.events}
        pairs = {pair for state in self.states for pair in state}
        common = {pair for pair in pairs if len({state.get(pair) for state in self.states}) == 1}
        self.unconflicted = {pair: self.states[0][pair] for pair in common}
        ids = {state[pair] for state in self.states for pair in pairs - common if pair in state}
        self.conflicted = self.in_order(ids)
        self.alone: dict[str, Any] = {}

    def in_order(self, event_ids: set[str]) -> list[Event]:
        """These events in the order in which they came, as a database gives them."""
        return [event for event in self.events if event.event_id in event_ids]

    def chain(self, event_ids: set[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(event_ids)
        while waiting:
            for cited in self.by_id[waiting.pop()].auth_events:
                if cited not in found:
                    found.add(cited)
                    waiting.append(cited)
        return found

    def isolate(self) -> None:
        """Find out what `resolve` needs."""
        chains = [self.chain(set(state.values())) | set(state.values()) for state in self.states]
        difference = self.in_order(chains[0].union(*chains[1:]) - chains[0].intersection(*chains[1:]))
        ids = {event.event_id for event in self.conflicted}
        reached = self.chain(ids) | ids
        children: dict[str, list[str]] = {}
        for event_id in reached:
            for cited in self.by_id[event_id].auth_events:
                children.setdefault(cited, []).append(event_id)
        leading = set(ids)
        waiting = list(ids)
        while waiting:
            for citing in children.get(waiting.pop(), ()):
                if citing not in leading:
                    leading.add(citing)
                    waiting.append(citing)
        subgraph = self.in_order(reached & leading)
        pairs = needed_pairs([*self.conflicted, *difference, *subgraph])
        unconflicted = [self.by_id[self.unconflicted[pair]] for pair in pairs if pair in self.unconflicted]
        self.alone = {
            "create": self.events[0],
            "unconflicted": unconflicted,
            "conflicted": self.conflicted,
            "auth_difference": difference,
            "subgraph": subgraph,
            "known": [],
            "rejected": self.rejected,
        }
        while missing := self.resolve().missing:
            self.alone["known"] += [self.by_id[event_id] for event_id in missing]

    def resolve(self) -> Resolution:
        return resolve(self.version, **self.alone)

    def resolve_states(self) -> Resolution:
        return resolve_states(self.version, self.states, self.events, self.rejected)


def conflicts(room: dict[str, Any]) -> list[Conflict]:
    """All that is to be resolved in a room."""
    events = [Event.parse(json.dumps(pdu).encode(), room["version"]) for pdu in room["events"]]
    return [
        Conflict(
            room["version"],
            events,
            room["rejected"],
            [{(kind, key): event_id for kind, key, event_id in state} for state in states],
        )
        for states in room["merges"]
    ]


class Synapse:
    """The program next door that resolves with Synapse."""

    def __init__(self, folder: Path) -> None:
        script = REPOSITORY / "benchmarks" / "synapse_resolver.py"
        self.process = subprocess.Popen(
            [folder / "bin" / "python", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )

    def ask(self, line: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.rstrip("\n") + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def resolve(self, merge: int, repeat: int) -> tuple[float, State]:
        """The seconds of all repetitions, and the whole state."""
        answer = self.ask(json.dumps({"merge": merge, "repeat": repeat}))
        return answer["seconds"], {(kind, key): event_id for kind, key, event_id in answer["state"]}

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


def compare(synapse: Synapse, first: int, rooms: int, versions: list[str]) -> int:
    """How many of the rooms come out different, each told about."""
    different = 0
    for version in versions:
        compared = merges = found = 0
        for line in generated("small", version, str(first), str(rooms)):
            room = json.loads(line)
            if room["rejected"]:
                continue
            compared += 1
            synapse.ask(line)
            for number, conflict in enumerate(conflicts(room)):
                if not conflict.conflicted:
                    continue
                merges += 1
                _, theirs = synapse.resolve(number, 0)
                ours = conflict.unconflicted | conflict.resolve_states().state
                if ours != theirs:
                    found += 1
                    print(f"version {version}, seed {room['seed']}, merge {number}:")
                    for pair in sorted(ours.keys() | theirs.keys()):
                        if ours.get(pair) != theirs.get(pair):
                            print(f"  {pair}: ours {ours.get(pair)}, theirs {theirs.get(pair)}")
        print(f"version {version}: {compared} rooms, {merges} merges with conflicts, {found} different")
        different += found
    return different


def timed(what: Callable[[], object], repeat: int) -> float:
    began = time.thread_time()
    for _ in range(repeat):
        what()
    return time.thread_time() - began


def measure(synapse: Synapse, rounds: int) -> None:
    """Print the table."""
    print("| version | conflicted events | `resolve` | `resolve_states` | Synapse | / `resolve` | / `resolve_states` |")
    print("|---|---|---|---|---|---|---|")
    for version in TIMED_VERSIONS:
        for size in SIZES:
            line = next(generated("large", version, "1", str(size)))
            [conflict] = conflicts(json.loads(line))
            conflict.isolate()
            synapse.ask(line)
            count = len(conflict.conflicted)
            figures: dict[str, list[float]] = {"alone": [], "states": [], "synapse": []}
            many, few = max(1, 100_000 // count), max(1, 5_000 // count)
            theirs: State = {}
            for _ in range(rounds):
                figures["alone"].append(timed(conflict.resolve, many) / many)
                figures["states"].append(timed(conflict.resolve_states, many) / many)
                seconds, theirs = synapse.resolve(0, few)
                figures["synapse"].append(seconds / few)
            states = conflict.resolve_states().state
            assert states == conflict.resolve().state
            if conflict.unconflicted | states != theirs:
                print(f"version {version}, {size} conflicted events: the states differ")
            alone, whole, other = (statistics.median(figures[name]) * 1e6 / count for name in figures)
            ratios = f"{other / alone:.0f} | {other / whole:.0f}"
            print(f"| {version} | {count} | {alone:.2f} | {whole:.2f} | {other:.1f} | {ratios} |", flush=True)


def main() -> None:
    """Compare or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synapse", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compare", type=int, metavar="ROOMS")
    parser.add_argument("--first", type=int, default=1, metavar="SEED")
    parser.add_argument("--versions", nargs="*", default=list(ROOM_VERSIONS))
    arguments = parser.parse_args()
    synapse = Synapse(arguments.synapse)
    try:
        if arguments.compare is not None:
            sys.exit(compare(synapse, arguments.first, arguments.compare, arguments.versions) > 0)
        measure(synapse, arguments.rounds)
    finally:
        synapse.close()


if __name__ == "__main__":
    main()
