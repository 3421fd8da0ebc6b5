"""Relations and threads (client-server API, Forming relationships between events, Threading)."""

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from homeserver.http.bodies import Query
from homeserver.http.endpoint import USER_OR_GUEST, Endpoint
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.relations import Relations, RelationsPage
from homeserver.streams.positions import RoomToken

Limit = Annotated[int, Meta(gt=0)]


class RelationsQuery(Query, frozen=True):
    start: str | None = field(default=None, name="from")
    to: str | None = None
    limit: Limit = 50
    dir: Literal["f", "b"] = "b"
    recurse: bool | None = None


class ThreadsQuery(Query, frozen=True):
    start: str | None = field(default=None, name="from")
    limit: Limit = 50
    include: Literal["all", "participated"] = "all"


async def all_relations(
    room_id: RoomId, event_id: EventId, query: RelationsQuery, who: Requester, relations: Relations
) -> dict[str, Any]:
    return await relations.children(who, room_id, event_id, _page(query, None, None))


async def relations_of_kind(
    room_id: RoomId, event_id: EventId, rel_type: str, query: RelationsQuery, who: Requester, relations: Relations
) -> dict[str, Any]:
    return await relations.children(who, room_id, event_id, _page(query, rel_type, None))


async def relations_of_type(
    room_id: RoomId,
    event_id: EventId,
    rel_type: str,
    event_type: str,
    query: RelationsQuery,
    who: Requester,
    relations: Relations,
) -> dict[str, Any]:
    return await relations.children(who, room_id, event_id, _page(query, rel_type, event_type))


async def threads(room_id: RoomId, query: ThreadsQuery, who: Requester, relations: Relations) -> dict[str, Any]:
    return await relations.threads(
        who,
        room_id,
        participated=query.include == "participated",
        start=RoomToken.parse(query.start) if query.start else None,
        limit=query.limit,
    )


def _page(query: RelationsQuery, rel_type: str | None, event_type: str | None) -> RelationsPage:
    return RelationsPage(
        rel_type=rel_type,
        type=event_type,
        forwards=query.dir == "f",
        start=RoomToken.parse(query.start) if query.start else None,
        end=RoomToken.parse(query.to) if query.to else None,
        limit=query.limit,
        recurse=query.recurse,
    )


_PATH = "/rooms/{room_id}/relations/{event_id}"

ENDPOINTS_V1 = [
    Endpoint("GET", _PATH, all_relations, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", _PATH + "/{rel_type}", relations_of_kind, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", _PATH + "/{rel_type}/{event_type}", relations_of_type, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", "/rooms/{room_id}/threads", threads, auth=USER_OR_GUEST, limit=None, body=None),
]
