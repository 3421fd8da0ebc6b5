"""Two server processes that speak to each other over TLS on the loopback.

    python -m benchmarks.federation_pair [--rooms 20] [--senders 20] [--events 4000] [--idle 200] [--sqlite]

First one message at a time: how long after it was sent somebody who polls on the other server has it. Then many
devices send at once into rooms that both servers are in: how many events a second the second server takes, until it has
all. CPU is that of each process, for each event.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil

from tests.processes import people, postgres, server
from tests.processes.federating import new_federation
from tests.processes.server import Server, running_server
from tests.processes.talking import Connection

NAMES = ("one.example", "two.example")
_PAUSE_S = 0.02


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=20)
    parser.add_argument("--senders", type=int, default=20)
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--idle", type=int, default=200)
    parser.add_argument("--sqlite", action="store_true", help="instead of PostgreSQL")
    options = parser.parse_args()
    with pair(is_sqlite=options.sqlite) as (one, two), ExitStack() as stack:
        alice = stack.enter_context(people.user("127.0.0.1", one.port, "alice"))
        bob = stack.enter_context(people.user("127.0.0.1", two.port, "bob"))
        rooms = [room_of_both(alice, bob) for _ in range(options.rooms)]
        idle(alice, bob, rooms[0], options.idle)
        senders = [alice.token] * options.senders
        sustained(one, two, senders, bob, rooms, options.events)


@contextmanager
def pair(*, is_sqlite: bool) -> Iterator[tuple[Server, Server]]:
    """Two servers that are up."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        federation = new_federation(folder, *NAMES)
        cluster = None if is_sqlite else stack.enter_context(postgres.shared())
        found = []
        for name in NAMES:
            url = None
            if cluster is not None:
                template = cluster.template("migrated", lambda url: server.migrate(url, folder / "migrate"))
                url = stack.enter_context(cluster.database(template))
            settings = federation.settings(name) | people.OPEN
            found.append(stack.enter_context(running_server(federation.folder_of(name), url, **settings)))
        yield found[0], found[1]


def room_of_both(alice: Connection, bob: Connection) -> str:
    """A public room of one that the other is in."""
    room_id: str = alice.call("POST", "/createRoom", {"preset": "public_chat"})["room_id"]
    bob.call("POST", f"/join/{quote(room_id, safe='')}?via={NAMES[0]}", {})
    return room_id


def idle(alice: Connection, bob: Connection, room_id: str, count: int) -> None:
    """One message at a time, seen by somebody who waits."""
    people.hear(bob, room_id, people.say(alice, room_id, "warm"))
    since = bob.call("GET", "/sync")["next_batch"]
    took = []
    for number in range(count):
        heard: list[float] = []
        poll = threading.Thread(target=_wait, args=(bob, since, heard))
        poll.start()
        time.sleep(_PAUSE_S)
        began = time.monotonic()
        people.say(alice, room_id, f"idle {number}")
        poll.join()
        took.append((heard[0] - began) * 1000)
        since = bob.call("GET", f"/sync?since={since}&timeout=0")["next_batch"]
    took.sort()
    print(
        f"idle: seen on the other server after {statistics.median(took):.1f} ms (p50),"
        f" {took[int(len(took) * 0.99)]:.1f} ms (p99)"
    )


def _wait(bob: Connection, since: str, heard: list[float]) -> None:
    people.until(bob, lambda answer: bool(answer["rooms"].get("join")), since)
    heard.append(time.monotonic())


def sustained(one: Server, two: Server, tokens: list[str], bob: Connection, rooms: list[str], count: int) -> None:
    """Many at once, until the other server has all."""
    before = [_cpu(one), _cpu(two)]
    began = time.monotonic()
    share = count // len(tokens)
    threads = [
        threading.Thread(target=_send, args=(one.port, token, rooms, number, share))
        for number, token in enumerate(tokens)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent = time.monotonic() - began
    last = {room_id: people.say(Connection("127.0.0.1", one.port, tokens[0]), room_id, "last") for room_id in rooms}

    def has_all() -> bool:
        return all(_has(bob, room_id, event_id) for room_id, event_id in last.items())

    people.until_so(has_all)
    took = time.monotonic() - began
    after = [_cpu(one), _cpu(two)]
    total = share * len(tokens) + len(rooms)
    spent = [(end - begin) / total * 1000 for begin, end in zip(before, after, strict=True)]
    print(
        f"sustained: {total} events in {len(rooms)} rooms; sent in {sent:.1f} s, there after {took:.1f} s:"
        f" {total / took:.0f} events/s; CPU an event: {spent[0]:.2f} ms to send, {spent[1]:.2f} ms to receive"
    )


def _send(port: int, token: str, rooms: list[str], number: int, count: int) -> None:
    connection = Connection("127.0.0.1", port, token)
    for index in range(count):
        people.say(connection, rooms[(number + index) % len(rooms)], f"{number} {index}")
    connection.close()


def _has(bob: Connection, room_id: str, event_id: str) -> bool:
    status, _answer = bob.ask("GET", f"/rooms/{quote(room_id, safe='')}/event/{quote(event_id, safe='')}")
    return status == 200


def _cpu(one: Server) -> float:
    assert one.process is not None
    spent = psutil.Process(one.process.pid).cpu_times()
    return float(spent.user + spent.system)


if __name__ == "__main__":
    main()
