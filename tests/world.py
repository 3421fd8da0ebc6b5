"""A server with users in it: what most tests of the HTTP interface begin with."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2

from homeserver.app.application import Application
from homeserver.app.container import Container
from homeserver.config.model import Config, Limits, Passwords
from homeserver.kit.clock import Clock
from homeserver.outbound.transport import Nowhere, Transport
from homeserver.services.rooms import consistency
from homeserver.services.users.accounts import NewDevice
from tests.client import Client, client_of

T = TypeVar("T")


class StoppedClock(Clock):
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.time = 1_700_000_000_000
        self._ahead_s = 0.0
        self._sleeping: set[tuple[float, asyncio.Future[None]]] = set()

    def now(self) -> int:
        return self.time

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead_s

    async def sleep(self, seconds: float) -> None:
        """Wait until so much time has passed, really or because it was said to."""
        loop = asyncio.get_running_loop()
        sleeper = self.monotonic() + seconds, loop.create_future()
        timer = loop.call_later(seconds, _end, sleeper[1])
        self._sleeping.add(sleeper)
        try:
            await sleeper[1]
        finally:
            self._sleeping.discard(sleeper)
            timer.cancel()

    def advance(self, seconds: float) -> None:
        """Let time pass, and wake those whose time has come."""
        self.time += int(seconds * 1000)
        self._ahead_s += seconds
        for due, sleeping in self._sleeping:
            if due <= self.monotonic():
                _end(sleeping)


def _end(sleeping: "asyncio.Future[None]") -> None:
    if not sleeping.done():
        sleeping.set_result(None)


@dataclass
class User:
    """A logged in device of a user."""

    client: Client
    user_id: str
    device_id: str
    token: str
    transactions: "count[int]" = field(default_factory=count)

    async def call(self, method: str, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        """The answer to a request below `/_matrix/client`; without a version in front, `v3` is meant."""
        prefix = "" if path.startswith(("/v1/", "/v3/", "/unstable/")) else "/v3"
        headers = {"Authorization": f"Bearer {self.token}"}
        if body is not None:
            options["json"] = body
        return await self.client.send(method, f"/_matrix/client{prefix}{path}", headers=headers, **options)

    async def get(self, path: str, **params: Any) -> httpx2.Response:
        return await self.call("GET", path, **({"params": params} if params else {}))

    async def put(self, path: str, body: Any = None) -> httpx2.Response:
        return await self.call("PUT", path, {} if body is None else body)

    async def post(self, path: str, body: Any = None) -> httpx2.Response:
        return await self.call("POST", path, {} if body is None else body)

    async def sync(self, since: str | None = None, **params: Any) -> dict[str, Any]:
        """The answer to a sync; a filter may be an object."""
        if isinstance(params.get("filter"), dict):
            params["filter"] = json.dumps(params["filter"])
        answer = await self.get("/sync", **({} if since is None else {"since": since}), **params)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def create_room(self, **options: Any) -> str:
        """The id of a new room."""
        answer = await self.post("/createRoom", options)
        assert answer.status_code == 200, answer.text
        room_id: str = answer.json()["room_id"]
        return room_id

    async def join(self, room_id: str) -> None:
        answer = await self.post(f"/rooms/{quote(room_id)}/join")
        assert answer.status_code == 200, answer.text

    async def leave(self, room_id: str) -> None:
        answer = await self.post(f"/rooms/{quote(room_id)}/leave")
        assert answer.status_code == 200, answer.text

    async def invite(self, room_id: str, user: "User") -> None:
        answer = await self.post(f"/rooms/{quote(room_id)}/invite", {"user_id": user.user_id})
        assert answer.status_code == 200, answer.text

    async def send(self, room_id: str, content: Any, type_: str = "m.room.message") -> str:
        """The id of the event that was sent; text stands for a message of that text."""
        if isinstance(content, str):
            content = {"msgtype": "m.text", "body": content}
        answer = await self.put(f"/rooms/{quote(room_id)}/send/{quote(type_)}/t{next(self.transactions)}", content)
        assert answer.status_code == 200, answer.text
        event_id: str = answer.json()["event_id"]
        return event_id

    async def set_state(self, room_id: str, type_: str, content: Any, state_key: str = "") -> str:
        path = f"/rooms/{quote(room_id)}/state/{quote(type_)}/{quote(state_key, safe='')}"
        answer = await self.put(path, content)
        assert answer.status_code == 200, answer.text
        event_id: str = answer.json()["event_id"]
        return event_id


async def until(condition: Callable[[], bool]) -> None:
    """Let the server work until this holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is a plain look, nobody could set an event for it
            await asyncio.sleep(0)


async def eventually(look: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> None:
    """Look again and again, through the server, until this holds of what is seen."""
    async with asyncio.timeout(10):
        while not holds(await look()):  # noqa: ASYNC110 - nobody could set an event for what is seen
            await asyncio.sleep(0)  # To look need not let anybody else go on.


@dataclass
class World:
    """A running server."""

    client: Client
    clock: StoppedClock
    container: Container

    async def user(self, name: str, *, device_id: str | None = None) -> User:
        """A new user, logged in, or a further device of a known one; the password is the name, twice."""
        accounts = self.container.accounts
        device = NewDevice(device_id, None, refreshable=False)
        if device_id is None:
            _, session = await accounts.register(name, name * 2, device)
        else:
            session = await accounts.login(name, name * 2, device)
        assert session is not None
        return User(self.client, session.user_id, session.device_id, session.tokens.access_token)

    async def fsck(self) -> None:
        """Hold the database to its invariants, as `homeserver fsck` does."""
        database = self.container.database
        found = await consistency.check_whole(database)
        async for more in consistency.check_rooms(database, lambda count: None):
            found += more
        assert not found, "\n".join(f"{one.room_id}: {one.what} ({one.kind.invariant})" for one in found)

    async def guest(self, name: str) -> User:
        """A guest, logged in."""
        device = NewDevice(None, None, refreshable=False)
        _, session = await self.container.accounts.register(name, None, device, is_guest=True)
        assert session is not None
        return User(self.client, session.user_id, session.device_id, session.tokens.access_token)


def settings(database_url: str, data_dir: str, **more: Any) -> Config:
    """Settings for tests: cheap passwords, no rate limits."""
    more.setdefault("limits", Limits(rate_limits=False))
    return Config(
        database_url=database_url,
        data_dir=data_dir,
        passwords=Passwords(time_cost=1, memory_kib=8, minimum_length=1),
        **more,
    )


@asynccontextmanager
async def running(
    config: Config, *, clock: StoppedClock | None = None, transport: Transport | None = None
) -> AsyncIterator[World]:
    """A server with these settings, alone in the world unless there is a transport."""
    clock = clock or StoppedClock()
    application = Application(config, clock=clock, transport=transport or Nowhere())
    container = await application.start()
    try:
        async with client_of(application) as client:
            yield World(client, clock, container)
    finally:
        await application.stop()
