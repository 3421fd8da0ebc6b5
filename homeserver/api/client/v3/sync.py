"""Syncing (client-server API, Syncing)."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from homeserver.http.bodies import Query
from homeserver.http.endpoint import USER_OR_GUEST, Endpoint
from homeserver.services.auth.sessions import Requester
from homeserver.services.sync.v2 import Sync, SyncRequest
from homeserver.services.users.account_data import UserData
from homeserver.streams.positions import SyncToken


class SyncQuery(Query, frozen=True):
    since: str | None = None
    filter: str | None = None
    timeout: Annotated[int, Meta(ge=0)] = 0
    full_state: bool = False
    use_state_after: bool = False
    set_presence: Literal["offline", "online", "unavailable"] = "online"


async def sync(query: SyncQuery, who: Requester, sync: Sync, data: UserData) -> dict[str, Any]:
    request = SyncRequest(
        since=None if not query.since else SyncToken.parse(query.since),
        filter=await data.filter(who.user_id, query.filter),
        timeout_ms=query.timeout,
        full_state=query.full_state,
        use_state_after=query.use_state_after,
        set_presence=query.set_presence,
    )
    return await sync.sync(who, request)


ENDPOINTS = [
    Endpoint("GET", "/sync", sync, auth=USER_OR_GUEST, limit=None, body=None),
]
