"""What other servers say of their aliases and published rooms (server-server API, Querying for information)."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from homeserver.errors import Forbidden, NotFound, Refused, Unreachable
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import InvalidIdentifier, RoomAlias, RoomId, ServerName, domain_of
from homeserver.outbound.federation import FederationClient

MOST_SERVERS = 50
_MOST_ROOMS = 500
_LONGEST_TOKEN = 1000

Json = dict[str, Any]
Count = Annotated[int, Meta(ge=0, le=2**53)]


class PublicRoom(msgspec.Struct, frozen=True, omit_defaults=True):
    """A room of a directory."""

    room_id: Annotated[str, Meta(pattern="^!", max_length=255)]
    num_joined_members: Count
    world_readable: bool
    guest_can_join: bool
    name: str | None = None
    topic: str | None = None
    avatar_url: str | None = None
    canonical_alias: str | None = None
    join_rule: str | None = None
    room_type: str | None = None


class _Page(msgspec.Struct, frozen=True):
    chunk: list[Json]
    next_batch: Annotated[str, Meta(max_length=_LONGEST_TOKEN)] | None = None
    prev_batch: Annotated[str, Meta(max_length=_LONGEST_TOKEN)] | None = None
    total_room_count_estimate: Count | None = None


class DirectoriesElsewhere:
    """Asks other servers. Their words are checked, and their errors told in ours."""

    def __init__(self, federation: FederationClient) -> None:
        self._federation = federation

    async def resolve(self, alias: RoomAlias) -> tuple[RoomId, list[ServerName]]:
        """The room of an alias and servers that are in it. Raises `NotFound`, or `RemoteFailure`."""
        server = ServerName(domain_of(alias))
        try:
            found = await self._federation.query_directory(server, alias)
        except Refused as refusal:
            if refusal.status == 404:
                raise NotFound("There is no room of this alias.") from None
            raise
        try:
            room_id = identifiers.room_id(found.room_id)
        except InvalidIdentifier as error:
            raise Unreachable(f"{server} does not tell a room: {error}") from None
        named = [ServerName(name) for name in found.servers[:MOST_SERVERS] if identifiers.is_server_name(name)]
        return room_id, named

    async def list_public(self, server: ServerName, wanted: Json) -> Json:
        """A page of a server's directory. `wanted` is the body of a search; without a filter it is a plain list."""
        try:
            if "filter" in wanted:
                answer = await self._federation.search_public_rooms(server, wanted)
            else:
                query = [(name, "true" if value is True else str(value)) for name, value in wanted.items()]
                answer = await self._federation.public_rooms(server, query)
        except Refused as refusal:
            if refusal.status == 403:
                raise Forbidden("That server does not show its rooms to others.") from None
            raise
        try:
            page = msgspec.convert(answer, _Page)
        except msgspec.ValidationError as error:
            raise Unreachable(f"{server} does not answer with a list of rooms: {error}") from None
        rooms = [room for entry in page.chunk[:_MOST_ROOMS] if (room := _room(entry)) is not None]
        told = {
            "next_batch": page.next_batch,
            "prev_batch": page.prev_batch,
            "total_room_count_estimate": page.total_room_count_estimate,
        }
        return {"chunk": rooms, **{name: value for name, value in told.items() if value is not None}}


def _room(entry: Json) -> PublicRoom | None:
    try:
        return msgspec.convert(entry, PublicRoom)
    except msgspec.ValidationError:
        return None
