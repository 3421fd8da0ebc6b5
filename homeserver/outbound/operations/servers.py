"""What servers say of themselves: their software, and their keys."""

from collections.abc import Mapping

import msgspec

from homeserver.matrix.identifiers import ServerName
from homeserver.matrix.server_keys import LARGEST_DOCUMENT
from homeserver.outbound.operations.asking import KEY, V1, Asking, Json
from homeserver.outbound.transport import Call

Raw = msgspec.Raw


class ServerKeys(msgspec.Struct, frozen=True):
    """Key documents, as they were signed."""

    server_keys: list[Raw]


class Servers(Asking):
    """These operations."""

    async def version(self, destination: ServerName) -> Json:
        """The software of a server."""
        return await self._call("getVersion", destination, "GET", f"{V1}/version", Json, is_signed=False)

    async def keys(self, destination: ServerName, *, timeout_s: float = 10.0) -> bytes:
        """The keys that a server publishes, as it signed them."""
        # A server that was down and now makes a request is known by its keys, and only by them.
        call = Call(
            operation="getServerKey",
            destination=destination,
            method="GET",
            target=f"{KEY}/server",
            timeout_s=timeout_s,
            largest=LARGEST_DOCUMENT,
        )
        reply = await self._ask(call, is_signed=False, is_patient=True)
        return reply.body

    async def query_server_keys(
        self, notary: ServerName, wanted: Mapping[str, Mapping[str, int]], *, timeout_s: float = 10.0
    ) -> ServerKeys:
        """Keys of servers, by server, key id, and when they must be valid."""
        content = {
            "server_keys": {
                server: {key_id: {"minimum_valid_until_ts": ts} for key_id, ts in keys.items()}
                for server, keys in wanted.items()
            }
        }
        return await self._call(
            "bulkPerspectivesKeyQuery",
            notary,
            "POST",
            f"{KEY}/query",
            ServerKeys,
            content=content,
            timeout_s=timeout_s,
            is_signed=False,
        )
