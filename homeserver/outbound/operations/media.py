"""Files of other servers."""

from collections.abc import Sequence

from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.operations.asking import V1, Asking, part, refusal, with_query
from homeserver.outbound.transport import Call, Reply

_TIMEOUT_S = 60.0


class Media(Asking):
    """These operations."""

    async def media(self, destination: ServerName, media_id: str, *, largest: int, wait_ms: int = 20_000) -> Reply:
        """A file, as the parts of a multipart answer; the server may wait for it to be uploaded."""
        target = with_query(f"{V1}/media/download/{part(media_id)}", [("timeout_ms", str(wait_ms))])
        timeout_s = _TIMEOUT_S + wait_ms / 1000
        return await self._ask(_get("getContent", destination, target, largest, timeout_s))

    async def thumbnail(
        self, destination: ServerName, media_id: str, query: Sequence[tuple[str, str]], *, largest: int
    ) -> Reply:
        """A thumbnail, as the parts of a multipart answer."""
        target = with_query(f"{V1}/media/thumbnail/{part(media_id)}", query)
        return await self._ask(_get("getContentThumbnail", destination, target, largest))

    async def media_of_old(self, destination: ServerName, server: ServerName, media_id: str, *, largest: int) -> Reply:
        """A file, from a server that does not know the authenticated way."""
        target = f"/_matrix/media/v3/download/{part(server)}/{part(media_id)}?allow_remote=false"
        return await self._ask(_get("getContent", destination, target, largest), is_signed=False)

    async def thumbnail_of_old(
        self,
        destination: ServerName,
        server: ServerName,
        media_id: str,
        query: Sequence[tuple[str, str]],
        *,
        largest: int,
    ) -> Reply:
        """A thumbnail, from a server that does not know the authenticated way."""
        path = f"/_matrix/media/v3/thumbnail/{part(server)}/{part(media_id)}"
        target = with_query(path, [*query, ("allow_remote", "false")])
        return await self._ask(_get("getContentThumbnail", destination, target, largest), is_signed=False)

    async def file_at(self, url: str, *, largest: int) -> Reply:
        """A file that a server says is at this address."""
        reply = await self._transport.fetch(url, timeout_s=_TIMEOUT_S, largest=largest)
        if reply.status != 200:
            raise refusal(reply)
        return reply


def _get(operation: str, destination: ServerName, target: str, largest: int, timeout_s: float = _TIMEOUT_S) -> Call:
    return Call(
        operation=operation, destination=destination, method="GET", target=target, timeout_s=timeout_s, largest=largest
    )
