"""Several servers as processes that speak to each other over TLS, as servers of different people do."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes.certificates import Authority, Certificate
from tests.processes.server import PROGRAM, Server, environment, free_port, running_server


@dataclass
class Federation:
    """The places of servers, by name, and the authority that all of them trust."""

    folder: Path
    authority: Authority
    places: dict[str, str] = field(default_factory=dict)
    listeners: dict[str, list[dict[str, str | int]]] = field(default_factory=dict)

    def add(self, name: str, *more: Certificate, at: str | None = None) -> list[str]:
        """Let there be a server of this name, from now on known to those that are started.

        It listens with further certificates at further places, which are the answer.
        """
        listeners: list[dict[str, str | int]] = []
        for certificate in (self.authority.issue(name.split(":")[0]), *more):
            host, port = (at or f"127.0.0.1:{free_port()}").split(":")
            files = {"certificate": str(certificate.certificate), "private_key": str(certificate.private_key)}
            listeners.append({"host": host, "port": int(port), **files})
        self.listeners[name] = listeners
        self.places[name], *others = (f"{one['host']}:{one['port']}" for one in listeners)
        return others

    def folder_of(self, name: str) -> Path:
        """The data folder of a server."""
        return self.folder / name.replace(":", "_")

    def settings(self, name: str) -> dict[str, str]:
        """What a server, or a command that is run beside it, needs for this."""
        return {
            "HOMESERVER_SERVER_NAME": name,
            "HOMESERVER_EXTRA_LISTENERS": json.dumps(self.listeners[name]),
            "HOMESERVER_FEDERATION_ADDRESSES": json.dumps(self.places),
            "HOMESERVER_FEDERATION_CA_FILES": json.dumps([str(self.authority.file)]),
        }

    @contextmanager
    def running(self, *names: str, database_url: str | None = None, **more: str) -> Iterator[list[Server]]:
        """These servers, as processes; `more` are settings of all."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(running_server(self.folder_of(name), database_url, **(self.settings(name) | more)))
                for name in names
            ]

    def check(self, name: str, other: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """What `homeserver federation check` says, run on one server about another."""
        settings = environment(self.folder_of(name), None, **(self.settings(name) | more))
        command = [str(PROGRAM), "federation", "check", other]
        return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60)


def new_federation(folder: Path, *names: str) -> Federation:
    """A federation of servers with good certificates."""
    federation = Federation(folder, Authority(folder / "authority"))
    for name in names:
        federation.add(name)
    return federation
