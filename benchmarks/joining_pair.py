"""What it costs to join a large room that another server process is in, over TLS on the loopback.

    python -m benchmarks.joining_pair [--members 10000] [--synapse joins|resident] [--sqlite] [--servers 200]
                                      [--seconds 300]

A server of ours has a room with members of 200 other servers, whose joins are truly signed. None of those servers is
there any more: it is the resident that vouches for their keys, and whoever joins finds that it cannot send to them.
The joiner is another server of ours. With `--synapse joins` it is Synapse; with `--synapse resident` Synapse joins
first, and is then the one through which a second server of ours joins. (`SYNAPSE_PYTHON`: see `benchmarks/pairing.py`.)
A room is whole when the joiner lists all members. Nobody is waited for longer than `--seconds`.
"""

import argparse
import asyncio
import json
import time
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import quote

from benchmarks.pairing import Pairing, Seat, Within, describe, pairing, table
from tests.processes import large_rooms, people
from tests.processes.talking import Connection


@dataclass(frozen=True)
class LargeRoom:
    """The room, and how many are in it."""

    room_id: str
    members: int


def join(joiner: Seat, resident: Seat, room: LargeRoom, seconds: float) -> list[tuple[str, str]]:
    """Somebody of one server joins through the other, speaks, and waits until all members are known."""
    path = f"/rooms/{quote(room.room_id, safe='')}"
    server = quote(resident.name, safe="")
    with joiner.user("bob") as bob, closing(Connection(joiner.host, joiner.port, bob.token, patience_s=seconds)) as who:
        cpu, began = [joiner.cpu_s(), resident.cpu_s()], time.monotonic()
        limit = Within(seconds)
        listed = 0

        def all_are_listed() -> bool:
            nonlocal listed
            status, answer = who.ask("GET", f"{path}/joined_members")
            listed = len(answer["joined"]) if status == 200 else 0
            return listed > room.members

        try:
            who.call("POST", f"/join/{quote(room.room_id, safe='')}?via={server}&server_name={server}", {})
            people.say(who, room.room_id, "Hello.")
            sendable = time.monotonic() - began
            is_whole = limit.until(all_are_listed)
            whole = time.monotonic() - began
        except TimeoutError:
            return [(f"{joiner.kind} joins through {resident.kind}", f"no answer within {seconds:.0f} s")]
        known = f"{whole:.1f}" if is_whole else f"more than {whole:.0f}: {listed} listed"
        spent = [seat.cpu_s() - before for seat, before in zip((joiner, resident), cpu, strict=True)]
        return [
            (f"{joiner.kind} joins through {resident.kind}, members", f"{room.members}"),
            ("seconds until one can speak", f"{sendable:.2f}"),
            ("seconds until all is known and verified", known),
            ("CPU of the joiner", f"{spent[0]:.1f} s ({joiner.kind})"),
            ("CPU of the resident", f"{spent[1]:.1f} s ({resident.kind})"),
            ("most memory of the joiner", f"{joiner.peak_mib():.0f} MiB"),
        ]


def measure(place: Pairing, members: int, servers: int, synapse: str | None, seconds: float) -> list[tuple[str, str]]:
    """What comes out."""
    name = place.name(3)
    url = place.database_of(name)
    names = large_rooms.absent(servers)
    made = asyncio.run(large_rooms.make(name, place.folder_of(name), url, names, members - 1, count=1))
    room = LargeRoom(made.room_ids[0], members)
    origin = place.ours(name, url)
    trusted = f'trusted_key_servers: [{{server_name: "{name}", accept_keys_insecurely: true}}]\n'
    more = "suppress_key_server_warning: true\n"
    if synapse == "joins":
        return join(place.synapse(trusted + more), origin, room, seconds)
    via = origin
    rows: list[tuple[str, str]] = []
    if synapse == "resident":
        via = place.synapse(trusted + more)
        rows = join(via, origin, room, seconds)
        room = LargeRoom(room.room_id, room.members + 1)
    other = place.name(4)
    notary = {"HOMESERVER_FEDERATION_NOTARIES": json.dumps([name])}
    return [*rows, *join(place.ours(other, place.database_of(other), **notary), via, room, seconds)]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--servers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--sqlite", action="store_true", help="instead of PostgreSQL")
    parser.add_argument("--synapse", choices=["joins", "resident"])
    options = parser.parse_args()
    with pairing(is_sqlite=options.sqlite) as place:
        print(f"{'SQLite' if options.sqlite else 'PostgreSQL'}; {describe()}")
        table(measure(place, options.members, options.servers, options.synapse, options.seconds))


if __name__ == "__main__":
    main()
