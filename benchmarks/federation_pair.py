"""Two server processes that speak to each other over TLS on the loopback.

    python -m benchmarks.federation_pair [--synapse us-to-them|them-to-us] [--sqlite] [--rooms 20] [--senders 20]
                                         [--events 4000] [--idle 200] [--seconds 60]

First one message at a time: how long after it was sent somebody who polls on the other server has it. Then many
devices send at once into rooms that both servers are in: how many events a second the second server takes, until it has
all. CPU is that of each process, for each event; that of PostgreSQL is not in it. Both are of ours, or, with
`--synapse` (and `SYNAPSE_PYTHON`, see `benchmarks/pairing.py`), the receiver is Synapse, or the sender. Who takes
longer than `--seconds` to send, or to have all, is not waited for.
"""

import argparse
import statistics
import threading
import time
from contextlib import ExitStack
from urllib.parse import quote

from benchmarks.pairing import Pairing, Seat, Within, describe, pairing, table
from tests.processes import people
from tests.processes.talking import Connection, Json

_PAUSE_S = 0.02
_LOOK_EVERY_S = 0.1
_FILTER = quote('{"room":{"timeline":{"limit":1000}},"presence":{"types":[]}}')


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=20)
    parser.add_argument("--senders", type=int, default=20)
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--idle", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--sqlite", action="store_true", help="instead of PostgreSQL")
    parser.add_argument("--synapse", choices=["us-to-them", "them-to-us"])
    options = parser.parse_args()
    with pairing(is_sqlite=options.sqlite) as place, ExitStack() as stack:
        one, two = seats(place, options.synapse)
        alice, bob = stack.enter_context(one.user("alice")), stack.enter_context(two.user("bob"))
        rooms = [room_of_both(alice, bob, one.name) for _ in range(options.rooms)]
        print(f"From {one.kind} to {two.kind}, {'SQLite' if options.sqlite else 'PostgreSQL'}; {describe()}")
        rows = idle(alice, bob, rooms[0], options.idle, Within(options.seconds))
        tokens = [alice.token] * options.senders
        table([*rows, *Sustained(one, two, rooms, tokens, bob).run(options.events, options.seconds)])


def seats(place: Pairing, synapse: str | None) -> tuple[Seat, Seat]:
    """Who sends, and who receives."""
    name = place.name(3)
    if synapse is None:
        other = place.name(4)
        return place.ours(name, place.database_of(name)), place.ours(other, place.database_of(other))
    ours, theirs = place.ours(name, place.database_of(name)), place.synapse()
    return (ours, theirs) if synapse == "us-to-them" else (theirs, ours)


def room_of_both(alice: Connection, bob: Connection, via: str) -> str:
    """A public room of one that the other is in."""
    room_id: str = alice.call("POST", "/createRoom", {"preset": "public_chat"})["room_id"]
    server = quote(via, safe="")
    bob.call("POST", f"/join/{quote(room_id, safe='')}?via={server}&server_name={server}", {})
    return room_id


def idle(alice: Connection, bob: Connection, room_id: str, count: int, time_limit: Within) -> list[tuple[str, str]]:
    """One message at a time, seen by somebody who waits."""
    people.hear(bob, room_id, people.say(alice, room_id, "warm"))
    since = bob.call("GET", "/sync")["next_batch"]
    took: list[float] = []
    while len(took) < count and not time_limit.is_over():
        heard: list[float] = []
        poll = threading.Thread(target=_wait, args=(bob, since, heard, time_limit))
        poll.start()
        time.sleep(_PAUSE_S)
        began = time.monotonic()
        people.say(alice, room_id, f"idle {len(took)}")
        poll.join()
        took.append((heard[0] - began) * 1000)
        since = bob.call("GET", f"/sync?since={since}&timeout=0")["next_batch"]
    took.sort()
    half, most = statistics.median(took), took[len(took) * 99 // 100]
    return [
        ("messages, one at a time", f"{len(took)}"),
        ("sent until seen on the other server, p50 / p99", f"{half:.1f} / {most:.1f} ms"),
    ]


def _wait(bob: Connection, since: str, heard: list[float], limit: Within) -> None:
    people.until(bob, lambda answer: bool(answer["rooms"].get("join")) or limit.is_over(), since)
    heard.append(time.monotonic())


class Sustained:
    """Many send at once, until the other server has all or the time is over."""

    def __init__(self, one: Seat, two: Seat, rooms: list[str], tokens: list[str], bob: Connection) -> None:
        self._one = one
        self._two = two
        self._rooms = rooms
        self._tokens = tokens
        self._bob = bob
        self._sent = [0] * len(tokens)
        self._heard: set[str] = set()

    def run(self, count: int, seconds: float) -> list[tuple[str, str]]:
        since = self._bob.call("GET", f"/sync?filter={_FILTER}")["next_batch"]
        before = [self._one.cpu_s(), self._two.cpu_s()]
        began = time.monotonic()
        limit = Within(seconds)
        share = count // len(self._tokens)
        threads = [
            threading.Thread(target=self._send, args=(number, share, limit)) for number in range(len(self._tokens))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sending = time.monotonic() - began
        alice = Connection(self._one.host, self._one.port, self._tokens[0])
        last = {people.say(alice, room_id, "last") for room_id in self._rooms}
        alice.close()
        has_all = self._listen(since, last, Within(seconds))
        took = time.monotonic() - began
        after = [self._one.cpu_s(), self._two.cpu_s()]
        total = sum(self._sent) + len(last)
        spent = [(end - begin) / total * 1000 for begin, end in zip(before, after, strict=True)]
        there = total if has_all else len(self._heard)
        return [
            (f"events, {len(self._tokens)} senders in {len(self._rooms)} rooms", f"{total}"),
            ("seconds to send them", f"{sending:.1f}"),
            ("seconds until all are on the other server", f"{took:.1f}" if has_all else f"more than {took:.0f}"),
            ("events a second", f"{there / took:.0f}"),
            ("CPU of an event, sender", f"{spent[0]:.2f} ms ({self._one.kind})"),
            ("CPU of an event, receiver, who also syncs", f"{spent[1]:.2f} ms ({self._two.kind})"),
        ]

    def _send(self, number: int, count: int, limit: Within) -> None:
        connection = Connection(self._one.host, self._one.port, self._tokens[number])
        while self._sent[number] < count and not limit.is_over():
            done = self._sent[number]
            people.say(connection, self._rooms[(number + done) % len(self._rooms)], f"{number} {done}")
            self._sent[number] += 1
        connection.close()

    def _listen(self, since: str, last: set[str], limit: Within) -> bool:
        """Sync now and then, until the last events have come."""
        while not last <= self._heard:
            if limit.is_over():
                return False
            time.sleep(_LOOK_EVERY_S)
            answer: Json = self._bob.call("GET", f"/sync?filter={_FILTER}&timeout=0&since={quote(since)}")
            since = answer["next_batch"]
            for room in answer.get("rooms", {}).get("join", {}).values():
                self._heard.update(event["event_id"] for event in room["timeline"]["events"])
        return True


if __name__ == "__main__":
    main()
