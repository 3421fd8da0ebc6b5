"""Which rooms there are."""

from collections.abc import Sequence

import msgspec

from homeserver.matrix.identifiers import RoomAlias, RoomId, ServerName
from homeserver.outbound.operations.asking import LARGEST_SPACE, TIMEOUT_S, V1, Asking, Json, part


class Resolved(msgspec.Struct, frozen=True):
    """The room of an alias, and servers that are in it."""

    room_id: str
    servers: list[str]


class Directory(Asking):
    """These operations."""

    async def hierarchy(
        self, destination: ServerName, room_id: RoomId, *, suggested_only: bool, timeout_s: float = TIMEOUT_S
    ) -> Json:
        """A space and its children, as that server knows them."""
        query = [("suggested_only", "true" if suggested_only else "false")]
        target = f"{V1}/hierarchy/{part(room_id)}"
        return await self._call(
            "getSpaceHierarchy",
            destination,
            "GET",
            target,
            Json,
            query=query,
            timeout_s=timeout_s,
            largest=LARGEST_SPACE,
        )

    async def public_rooms(self, destination: ServerName, query: Sequence[tuple[str, str]]) -> Json:
        """That server's directory."""
        return await self._call("getPublicRooms", destination, "GET", f"{V1}/publicRooms", Json, query=query)

    async def search_public_rooms(self, destination: ServerName, body: Json) -> Json:
        """What is to be found in that server's directory."""
        return await self._call("queryPublicRooms", destination, "POST", f"{V1}/publicRooms", Json, content=body)

    async def query_directory(self, destination: ServerName, alias: RoomAlias) -> Resolved:
        """The room of an alias."""
        return await self._call(
            "queryRoomDirectory", destination, "GET", f"{V1}/query/directory", Resolved, query=[("room_alias", alias)]
        )
