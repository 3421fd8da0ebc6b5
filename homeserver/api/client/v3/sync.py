"""Syncing (client-server API, Syncing)."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from homeserver.errors import NotFound
from homeserver.http.bodies import Query
from homeserver.http.endpoint import USER_OR_GUEST, Endpoint
from homeserver.matrix.filters import Filter, parse_filter
from homeserver.services.auth.sessions import Requester
from homeserver.services.sync.v2 import Sync, SyncRequest
from homeserver.streams.positions import SyncToken


class SyncQuery(Query, frozen=True):
    since: str | None = None
    filter: str | None = None
    timeout: Annotated[int, Meta(ge=0)] = 0
    full_state: bool = False
    use_state_after: bool = False
    set_presence: Literal["offline", "online", "unavailable"] = "online"


async def sync(query: SyncQuery, who: Requester, sync: Sync) -> dict[str, Any]:
    request = SyncRequest(
        since=None if not query.since else SyncToken.parse(query.since),
        filter=_filter(query.filter),
        timeout_ms=query.timeout,
        full_state=query.full_state,
        use_state_after=query.use_state_after,
    )
    return await sync.sync(who, request)


def _filter(text: str | None) -> Filter:
    if not text:
        return Filter()
    if text.startswith("{"):
        return parse_filter(text)
    raise NotFound("There is no filter of this id.")


ENDPOINTS = [
    Endpoint("GET", "/sync", sync, auth=USER_OR_GUEST, limit=None, body=None),
]
