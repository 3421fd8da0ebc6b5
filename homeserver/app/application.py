"""The ASGI object: routes, lifespan, and a start on the first request where a host runs no lifespan for us."""

import asyncio
from dataclasses import fields
from functools import cache
from typing import get_type_hints
from urllib.parse import quote

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from homeserver.api.tables import ENDPOINTS
from homeserver.app.container import Container, build
from homeserver.config.model import Config
from homeserver.http import failures
from homeserver.http.endpoint import Bound, bind
from homeserver.http.middleware import Cors, Observed
from homeserver.http.router import Router
from homeserver.kit import crash
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.outbound.transport import Transport


class Application:
    """The server as an ASGI application; it may be mounted at any prefix.

    One task owns the container from its opening to its end, because what it holds must be closed by the task that
    opened it. The lifespan starts and stops that task; where a host runs no lifespan for us, the first request
    starts it and the end of the event loop cancels it, which closes everything in order all the same.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock | None = None,
        randomness: Randomness | None = None,
        transport: Transport | None = None,
    ) -> None:
        """`transport` carries requests to other servers in the place of the network."""
        self._config = config
        self._transport = transport
        self._clock = clock or Clock()
        self._randomness = randomness or Randomness()
        self._metrics = Metrics()
        self._owner: asyncio.Task[None] | None = None
        self._stop: asyncio.Event | None = None
        self._ready: asyncio.Future[Container] | None = None
        self._router = _routes(config.limits.body_bytes)
        self._stack: ASGIApp = Observed(
            Cors(self._dispatch), clock=self._clock, randomness=self._randomness, metrics=self._metrics
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._stack(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def start(self) -> Container:
        """The container, opened if it is not yet open in this event loop."""
        loop = asyncio.get_running_loop()
        if self._ready is None or self._ready.get_loop() is not loop:
            self._ready = loop.create_future()
            self._stop = asyncio.Event()
            self._owner = loop.create_task(self._own(self._ready, self._stop))
        return await asyncio.shield(self._ready)

    def _open(self) -> Container | None:
        """The container if it is open in this event loop."""
        ready = self._ready
        if ready is None or not ready.done() or ready.get_loop() is not asyncio.get_running_loop():
            return None
        return ready.result()

    def end_waits(self) -> None:
        """Answer all requests that only wait: the server is about to stop."""
        if self._ready is not None and self._ready.done() and self._ready.exception() is None:
            self._ready.result().notifier.wake_all()

    async def stop(self) -> None:
        """Close the container, if this event loop has one."""
        if self._owner is not None and self._stop is not None:
            self._stop.set()
            await asyncio.wait({self._owner})
            self._owner = self._stop = self._ready = None

    async def _own(self, ready: "asyncio.Future[Container]", stop: asyncio.Event) -> None:
        opening = build(
            self._config,
            clock=self._clock,
            randomness=self._randomness,
            metrics=self._metrics,
            transport=self._transport,
        )
        try:
            container = await opening.__aenter__()
        except Exception as error:  # it is handed to whoever waits for the start
            ready.set_exception(error)
            return
        ready.set_result(container)
        try:
            await stop.wait()
        finally:
            await opening.__aexit__(None, None, None)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:  # the host is told, and ends
            await send({"type": "lifespan.startup.failed", "message": str(error.__cause__ or error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            scope["path_below_mount"] = _path_below_mount(scope)
            (path, bound), parameters = self._router.find(method, scope["path_below_mount"])
            scope["endpoint"] = path
            scope["homeserver"] = self._open() or await self.start()
            response = await bound(Request(scope, receive), parameters)
        except Exception as error:  # failures.answer logs what nobody expected
            response = failures.answer(error)
        await response(scope, receive, send)
        if crash.is_armed("K7") and scope["method"] in ("PUT", "POST"):
            await asyncio.sleep(0)  # The event loop sends what was written when it comes round.
            crash.point("K7")


@cache
def _routes(body_bytes: int) -> Router[tuple[str, Bound]]:
    """What is served, with so large bodies. It holds nothing of one application."""
    hints = get_type_hints(Container)
    provided = {hints[field.name]: field.name for field in fields(Container)}
    router: Router[tuple[str, Bound]] = Router()
    for endpoint in ENDPOINTS:
        router.add(endpoint.method, endpoint.path, (endpoint.path, bind(endpoint, _container_of, provided, body_bytes)))
    return router


def _container_of(request: Request) -> Container:
    container: Container = request.scope["homeserver"]
    return container


def _path_below_mount(scope: Scope) -> bytes:
    """The raw path without the prefix at which a host has mounted us, and without the query."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
    raw = raw.split(b"?", 1)[0]
    prefix = quote(scope.get("root_path", "")).encode("ascii")
    return raw[len(prefix) :] if prefix and raw.startswith(prefix) else raw
