"""Which versions of the specification are spoken (client-server API, API versions)."""

from typing import Any

from homeserver.http.endpoint import NOBODY, Endpoint

VERSIONS = ["r0.6.1", *(f"v1.{minor}" for minor in range(1, 20))]


async def versions() -> dict[str, Any]:
    return {"versions": VERSIONS, "unstable_features": {}}


ENDPOINTS = [Endpoint("GET", "/_matrix/client/versions", versions, auth=NOBODY, limit=None, body=None)]
