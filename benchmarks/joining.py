"""What it costs to join a large room on another server: until one can speak in it, and until all of it is known.

    python -m benchmarks.joining [--members 10000] [--servers 200] [--database URL] [--whole]

One process makes a room as servers elsewhere would have it, with true signatures, and writes down what the resident
server answers. Another one is the joining server, whole but for the network: a request is answered out of these files.
So time and memory are those of the joiner alone. With `--whole` the resident leaves no members out of its answer to
`send_join`. The database is a new SQLite file, or a PostgreSQL that is migrated and empty.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2

from homeserver.app.application import Application
from homeserver.app.migrations import migrate
from homeserver.config.model import Config, Limits, Passwords
from homeserver.errors import Unreachable
from homeserver.kit import logs
from homeserver.matrix.events import build_event
from homeserver.matrix.server_keys import publish
from homeserver.outbound.transport import Call, Reply
from homeserver.services.users.accounts import NewDevice
from homeserver.storage import partial_rooms
from tests import room_graphs
from tests.room_graphs import CREATOR, key_of

VERSION = "10"
RESIDENT = "a.example"


def make_room(folder: Path, count: int, servers: int) -> None:
    """Write down what a resident server knows of a room."""
    graph = room_graphs.begin(VERSION)
    tip = graph.say(CREATOR, "m.room.name", {"name": "Everybody"}, [graph.events[-1]], state_key="")
    state = graph.after[tip.event_id]
    cited = [state[pair] for pair in (("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", ""))]
    names = [f"s{number}.example" for number in range(servers)]
    pdus = [event.pdu for event in state.values()]
    for number in range(count - len(room_graphs.USERS)):
        server = names[number % servers]
        user_id = f"@member-{number}:{server}"
        content = {
            "membership": "join",
            "displayname": f"Member number {number}",
            "avatar_url": f"mxc://{server}/{'a' * 24}",
        }
        tip = build_event(
            VERSION,
            server_name=server,
            key=key_of(server),
            room_id=graph.room_id,
            type="m.room.member",
            sender=user_id,
            state_key=user_id,
            content=json.dumps(content).encode(),
            origin_server_ts=graph.clock + number,
            depth=tip.depth + 1,
            prev_events=[tip],
            auth_events=cited,
        )
        pdus.append(tip.pdu)
    auth = [event.pdu for event in graph.events]
    few = [event.pdu for pair, event in state.items() if pair[0] != "m.room.member"]
    everybody = json.dumps([*names, *room_graphs.SERVERS]).encode()
    (folder / "whole.json").write_bytes(_answer(pdus, auth, b""))
    (folder / "state.json").write_bytes(b'{"pdus":[' + b",".join(pdus) + b'],"auth_chain":[' + b",".join(auth) + b"]}")
    omitted = b',"members_omitted":true,"servers_in_room":' + everybody
    (folder / "part.json").write_bytes(_answer(few, auth, omitted))
    template = {
        "room_id": graph.room_id,
        "prev_events": [tip.event_id],
        "auth_events": [event.event_id for event in cited],
        "depth": tip.depth + 1,
        "type": "m.room.member",
        "content": {"membership": "join"},
    }
    (folder / "template.json").write_text(json.dumps(template))


def _answer(state: list[bytes], auth: list[bytes], more: bytes) -> bytes:
    return b'{"state":[' + b",".join(state) + b'],"auth_chain":[' + b",".join(auth) + b"]" + more + b"}"


class Resident:
    """Answers out of files."""

    def __init__(self, folder: Path, *, leaves_out: bool) -> None:
        self._folder = folder
        self._joined = "part.json" if leaves_out else "whole.json"

    async def exchange(self, call: Call) -> Reply:
        """What it says."""
        destination, target = call.destination, call.target
        if target == "/_matrix/key/v2/server":
            now = time.time_ns() // 1_000_000
            return Reply(200, {}, publish(destination, key_of(destination), {}, valid_until_ts=now + 3_600_000))
        if destination != RESIDENT:
            raise Unreachable("Nobody is there.")
        if "/make_join/" in target:
            event = json.loads((self._folder / "template.json").read_text())
            user_id = unquote(target.split("?")[0].rsplit("/", 1)[1])
            event |= {"sender": user_id, "state_key": user_id, "origin": RESIDENT, "origin_server_ts": 1}
            return Reply(200, {}, json.dumps({"event": event, "room_version": VERSION}).encode())
        name = self._joined if "/send_join/" in target else "state.json" if "/state/" in target else None
        if name is None:
            return Reply(404, {}, b'{"errcode": "M_NOT_FOUND", "error": "No."}')
        return Reply(200, {}, (self._folder / name).read_bytes())


class Lag:
    """How long the event loop kept others waiting, at most."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def run(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            self.worst = max(self.worst, time.perf_counter() - before - 0.005)


async def join(folder: Path, url: str, *, leaves_out: bool) -> dict[str, float]:
    """Join, and wait until all is known."""
    room_id = json.loads((folder / "template.json").read_text())["room_id"]
    config = Config(
        server_name="joiner.example",
        database_url=url,
        data_dir=str(folder / "data"),
        passwords=Passwords(time_cost=1, memory_kib=8, minimum_length=1),
        limits=Limits(rate_limits=False),
    )
    await migrate(config)
    application = Application(config, transport=Resident(folder, leaves_out=leaves_out))
    container = await application.start()
    device = NewDevice(None, None, refreshable=False)
    _, session = await container.accounts.register(f"alice{os.getpid()}", "secret", device)
    assert session is not None
    headers = {"Authorization": f"Bearer {session.tokens.access_token}"}
    found: dict[str, float] = {"MiB before": _peak()}
    lag = Lag()
    watching = asyncio.get_running_loop().create_task(lag.run())
    transport = httpx2.ASGITransport(app=application)
    async with httpx2.AsyncClient(transport=transport, base_url="http://joiner", timeout=600) as http:
        began = time.perf_counter()
        answer = await http.post(
            f"/_matrix/client/v3/join/{room_id}", params={"server_name": RESIDENT}, headers=headers, json={}
        )
        assert answer.status_code == 200, answer.text
        answer = await http.put(
            f"/_matrix/client/v3/rooms/{room_id}/send/m.room.message/t1",
            headers=headers,
            json={"msgtype": "m.text", "body": "Hello."},
        )
        assert answer.status_code == 200, answer.text
        found["s until sendable"] = time.perf_counter() - began
        found["worst lag of the loop until then, ms"] = lag.worst * 1000
        lag.worst = 0.0
        while await container.database.read(partial_rooms.list_all):  # noqa: ASYNC110 - from outside, as an operator would
            await asyncio.sleep(0.05)
        found["s until whole"] = time.perf_counter() - began
        found["worst lag of the loop then, ms"] = lag.worst * 1000
        found["CPU s"] = time.process_time()
        found["MiB at most"] = _peak()
        answer = await http.get(f"/_matrix/client/v3/rooms/{room_id}/joined_members", headers=headers)
        found["members"] = len(answer.json()["joined"])
    watching.cancel()
    await application.stop()
    return found


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--servers", type=int, default=200)
    parser.add_argument("--database", default="")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--logs", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logs.configure("info" if options.logs else "error", json=False)
    if options.folder is not None:
        url = options.database or f"sqlite+aiosqlite:///{options.folder}/joiner.db"
        print(json.dumps(asyncio.run(join(options.folder, url, leaves_out=not options.whole))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_room(folder, options.members, options.servers)
        arguments = [sys.executable, "-m", "benchmarks.joining", *sys.argv[1:], "--folder", name]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
    for what, value in found.items():
        print(f"{what:40} {value:10.2f}")


if __name__ == "__main__":
    main()
