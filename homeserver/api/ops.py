"""For those who run the server: is it well, and what does it do."""

from starlette.responses import Response

from homeserver.http.endpoint import NOBODY, Endpoint
from homeserver.kit.metrics import Metrics
from homeserver.storage.engine import Database


async def health(database: Database) -> dict[str, str]:
    await database.ping()
    return {"status": "ok"}


async def metrics(metrics: Metrics) -> Response:
    return Response(metrics.render(), media_type="text/plain; version=0.0.4")


ENDPOINTS = [
    Endpoint("GET", "/health", health, auth=NOBODY, limit=None, body=None),
    Endpoint("GET", "/metrics", metrics, auth=NOBODY, limit=None, body=None),
]
