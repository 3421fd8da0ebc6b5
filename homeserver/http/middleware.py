"""What surrounds every request: its id, its log line and metrics, and the headers that browsers ask for.

Plain ASGI: Starlette's BaseHTTPMiddleware costs 150 µs a layer and hides disconnects.
"""

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness

log = structlog.get_logger()

_CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE, OPTIONS"),
    (b"access-control-allow-headers", b"X-Requested-With, Content-Type, Authorization"),
)


class Observed:
    """Gives each request an id, and tells of it when it has ended."""

    def __init__(self, app: ASGIApp, *, clock: Clock, randomness: Randomness, metrics: Metrics) -> None:
        self._app = app
        self._clock = clock
        self._randomness = randomness
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = self._randomness.letters(12)
        status = 0
        started = self._clock.monotonic()

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, observe)
            finally:
                seconds = self._clock.monotonic() - started
                # The router leaves the declared path here: a raw one could carry tokens and has no bound.
                endpoint = scope.get("endpoint", "unknown")
                self._metrics.answered(scope["method"], endpoint, status, seconds)
                log.info(
                    "request", method=scope["method"], endpoint=endpoint, status=status, ms=round(seconds * 1000, 1)
                )


class Cors:
    """Lets web clients of any origin in (client-server API, Web Browser Clients)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def allow(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_CORS]
            await send(message)

        if scope["method"] == "OPTIONS":
            scope["endpoint"] = "preflight"
            await allow({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, allow)
