"""The way to try two servers that docs/operate/federation.md describes, gone word by word."""

import os
import re
import subprocess
import uuid
from functools import partial
from pathlib import Path

import httpx2
import pytest

from tests.processes import running
from tests.processes.server import PROGRAM, free_port

PAGE = Path(__file__).parents[2] / "docs/operate/federation.md"

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


def _steps() -> list[str]:
    """What the page has one type, step by step, for ports that are free."""
    [section] = re.findall(r"^## Trying it.*?(?=^## )", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    port, client_port = free_port(), free_port()
    return [
        block.replace("8448", str(port)).replace(
            'host = "$host"\n\n[reg', f'host = "$host"\nport = {client_port}\n[reg'
        )
        for block in blocks
    ]


async def test_two_servers_are_tried_as_the_page_says(tmp_path: Path) -> None:
    certificates, settings, start, check = _steps()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HOMESERVER_")}
    environment = inherited | {"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}

    def run(script: str) -> str:
        command = ["sh", "-eu", "-c", script]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(certificates)
    run(settings)
    port = int(re.findall(r"^port = ([0-9]+)$", (tmp_path / "a.test.toml").read_text(), re.MULTILINE)[0])
    servers = []
    try:
        for line in start.splitlines():
            command = ["sh", "-c", f"exec env {line.removesuffix('&')}"]
            servers.append(running.start("the server", command, log=tmp_path / "output", env=environment, cwd=tmp_path))
        for server, name in zip(servers, ("a.test", "b.test"), strict=True):
            server.wait_until(partial(_listens, tmp_path / f"{name}.log"), 60)
        assert run(check).endswith("It answers a request that is signed by this server.\na.test can be spoken to.\n")
        address = f"room-{uuid.uuid4().hex[:8]}"
        async with (
            httpx2.AsyncClient(base_url=f"http://127.0.0.51:{port}/_matrix/client/v3") as alice,
            httpx2.AsyncClient(base_url=f"http://127.0.0.52:{port}/_matrix/client/v3") as bob,
        ):
            for client in (alice, bob):
                body = {"username": "me", "password": "my password", "auth": {"type": "m.login.dummy"}}
                token = (await client.post("/register", json=body)).json()["access_token"]
                client.headers["Authorization"] = f"Bearer {token}"
            made = await alice.post("/createRoom", json={"preset": "public_chat", "room_alias_name": address})
            joined = await bob.post(f"/join/%23{address}:a.test", timeout=30)
            assert joined.json() == {"room_id": made.json()["room_id"]}
    finally:
        for server in servers:
            server.stop(within=30)


def _listens(log: Path) -> bool:
    # Once for clients, once for other servers.
    return log.exists() and log.read_text().count("listening") == 2
