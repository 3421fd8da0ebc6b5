"""What people notice of it when their server comes back after an outage: two server processes over TLS on the loopback.

    python -m benchmarks.outage_pair [--rooms 500] [--events 10000] [--sqlite] [--seconds 120]

One server is ended. Somebody on the other one says so many things in so many rooms that both are in, and the server is
started again. Somebody of that server talks all the time in a room of their own: for a while before the outage, and
from the start until all rooms are current; how long their requests take is compared.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import quote

import psutil

from benchmarks.federation_pair import room_of_both
from benchmarks.pairing import Seat, Within, describe, pairing, table
from tests.processes import people
from tests.processes.talking import Connection

_PAUSE_S = 0.05
_CALM_S = 10.0
_SENDERS = 10
_FILTER = quote('{"room":{"timeline":{"limit":1}},"presence":{"types":[]}}')


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=500)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--sqlite", action="store_true", help="instead of PostgreSQL")
    options = parser.parse_args()
    with pairing(is_sqlite=options.sqlite) as place, ExitStack() as stack:
        names = place.name(3), place.name(4)
        one = place.ours(names[0], place.database_of(names[0]))
        url = place.database_of(names[1])
        two = place.ours(names[1], url)
        alice, bob = stack.enter_context(one.user("alice")), stack.enter_context(two.user("bob"))
        print(f"{'SQLite' if options.sqlite else 'PostgreSQL'}; {describe()}")
        rooms = [room_of_both(alice, bob, one.name) for _ in range(options.rooms)]
        own = bob.call("POST", "/createRoom", {})["room_id"]
        people.hear(bob, rooms[0], people.say(alice, rooms[0], "warm"))
        before = Talker(two, bob.token, own)
        before.talk(Within(_CALM_S).is_over)
        _end(two)
        last = _say(one, alice.token, rooms, options.events)
        two = place.ours(names[1], url)
        began, spent = time.monotonic(), two.cpu_s()
        listener = Connection(two.host, two.port, bob.token)
        meanwhile, limit = Talker(two, bob.token, own), Within(options.seconds)
        is_over = threading.Event()
        thread = threading.Thread(target=meanwhile.talk, args=(is_over.is_set,))
        thread.start()
        has_all = _listen(listener, last, limit)
        took = time.monotonic() - began
        is_over.set()
        thread.join()
        spent = two.cpu_s() - spent
        after = Talker(two, bob.token, own)
        after.talk(Within(_CALM_S).is_over)
        table(
            [
                (f"events in {options.rooms} rooms", f"{options.events}"),
                ("seconds until all rooms are current", f"{took:.1f}" if has_all else f"more than {took:.0f}"),
                ("CPU seconds of the server that is back", f"{spent:.1f}"),
                ("memory of it, at most", f"{two.peak_mib():.0f} MiB"),
                ("a send, p50 / p95: before", before.describe()),
                ("meanwhile", meanwhile.describe()),
                ("afterwards", after.describe()),
            ]
        )


class Talker:
    """Says something again and again, and notes how long that takes."""

    def __init__(self, seat: Seat, token: str, room_id: str) -> None:
        self._connection = Connection(seat.host, seat.port, token)
        self._room_id = room_id
        self.took_ms: list[float] = []

    def talk(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            began = time.monotonic()
            people.say(self._connection, self._room_id, f"{began}")
            self.took_ms.append((time.monotonic() - began) * 1000)
            time.sleep(_PAUSE_S)
        self._connection.close()

    def describe(self) -> str:
        """How long a request took."""
        took = sorted(self.took_ms)
        return f"{statistics.median(took):.1f} / {took[len(took) * 95 // 100]:.1f} ms (of {len(took)})"


def _end(seat: Seat) -> None:
    process = psutil.Process(seat.pid)
    process.terminate()
    process.wait(60)


def _say(seat: Seat, token: str, rooms: list[str], count: int) -> dict[str, str]:
    """Say so many things in the rooms by turns; the last event of each room."""
    last: dict[str, str] = {}

    def say(own: list[str]) -> None:
        connection = Connection(seat.host, seat.port, token)
        for number in range(count // len(rooms)):
            for room_id in own:
                last[room_id] = people.say(connection, room_id, f"missed {number}")
        connection.close()

    threads = [threading.Thread(target=say, args=(rooms[number::_SENDERS],)) for number in range(_SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return last


def _listen(connection: Connection, last: dict[str, str], limit: Within) -> bool:
    """Sync until the newest event of each room has come."""
    missing, since = set(last.values()), ""
    while missing:
        if limit.is_over():
            return False
        answer = connection.call("GET", f"/sync?filter={_FILTER}&timeout=1000{since and '&since='}{quote(since)}")
        since = answer["next_batch"]
        for room in answer.get("rooms", {}).get("join", {}).values():
            missing -= {event["event_id"] for event in room["timeline"]["events"]}
    return True


if __name__ == "__main__":
    main()
