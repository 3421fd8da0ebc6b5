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
from homeserver.app.container import Container, build
from homeserver.config.model import Config, Limits, Log, Passwords
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.matrix.events import Event, build_event
from homeserver.matrix.identifiers import RoomId
from homeserver.matrix.server_keys import publish
from homeserver.services.rooms.create import NewRoom
from homeserver.services.rooms.receipts import Outcome
from homeserver.services.users.accounts import NewDevice
from homeserver.storage import event_log, rooms, server_keys
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.server_keys import StoredDocument
from tests import room_graphs
from tests.processes import people
from tests.processes.talking import Connection
from tests.room_graphs import key_of

VERSION = "11"
_BATCH = 500
_DAY_MS = 24 * 60 * 60 * 1000
_CITED = (("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", ""))


@dataclass(frozen=True)
class LargeRoom:
    """The room, and how many are in it."""

    room_id: str
    members: int


async def fill(name: str, folder: str, database_url: str, count: int, servers: int) -> LargeRoom:
    """Give a server that does not run a room of that many members, who are at so many other servers."""
    config = Config(
        server_name=name,
        data_dir=folder,
        database_url=database_url,
        passwords=Passwords(time_cost=1, memory_kib=8, minimum_length=1),
        limits=Limits(rate_limits=False),
        log=Log(level="warning"),
    )
    # Where nobody listens: that a server is not there is found out at once.
    names = [f"127.9.{number // 250}.{number % 250 + 1}:1" for number in range(servers)]
    async with build(config, clock=Clock(), randomness=Randomness(), metrics=Metrics(), is_server=False) as container:
        await container.database.write(_know, names, Clock().now())
        _, session = await container.accounts.register("owner", "secret", NewDevice(None, None, refreshable=False))
        assert session is not None
        owner = await container.sessions.requester(session.tokens.access_token)
        new = NewRoom(preset="public_chat", name="Everybody", version=VERSION)
        room_id = await container.room_creation.create(owner, new)
        await _let_in(container, room_id, names, count - 1)
    return LargeRoom(room_id, count)


def _know(tx: WriteTx, names: list[str], now: int) -> None:
    until = now + _DAY_MS
    documents = [publish(name, key_of(name), {}, valid_until_ts=until) for name in names]
    server_keys.put_many(tx, room_graphs.server_keys(names))
    server_keys.put_documents(
        tx, [StoredDocument(name, now, until, document) for name, document in zip(names, documents, strict=True)]
    )


async def _let_in(container: Container, room_id: RoomId, names: list[str], count: int) -> None:
    made = await container.database.snapshot(_stored, room_id)
    state = {(event.type, event.state_key): event for event in made}
    cited = [state[pair] for pair in _CITED]
    tip, now = made[-1], Clock().now()
    for first in range(0, count, _BATCH):
        pdus = []
        for number in range(first, min(first + _BATCH, count)):
            name = names[number % len(names)]
            user_id = f"@member-{number}:{name}"
            content = {
                "membership": "join",
                "displayname": f"Member number {number}",
                "avatar_url": f"mxc://{name}/{'a' * 24}",
            }
            tip = build_event(
                VERSION,
                server_name=name,
                key=key_of(name),
                room_id=room_id,
                type="m.room.member",
                sender=user_id,
                state_key=user_id,
                content=json.dumps(content).encode(),
                origin_server_ts=now,
                depth=tip.depth + 1,
                prev_events=[tip],
                auth_events=cited,
            )
            pdus.append(tip.pdu)
        receipts = await container.inbox.receive(room_id, pdus)
        assert {one.outcome for one in receipts} == {Outcome.ACCEPTED}, receipts[0]


def _stored(tx: ReadTx, room_id: RoomId) -> list[Event]:
    room = rooms.find(tx, room_id)
    assert room is not None
    return [Event.parse(row.pdu, room.version, row.event_id) for row in event_log.list_all(tx, room.room_nid)]


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
    room = asyncio.run(fill(name, str(place.folder_of(name)), url, members, servers))
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
