"""Files of this server's users, for other servers (server-server API, Content Repository).

The answer has two parts: an object, which says nothing yet, and the file.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Literal

from msgspec import Meta
from starlette.responses import Response, StreamingResponse

from homeserver.api.client.v3.media import described
from homeserver.http.bodies import Query
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import Origin
from homeserver.services.media.store import MediaStore
from homeserver.services.media.thumbnails import Thumbnail
from homeserver.storage.media import Media


class Wait(Query, frozen=True):
    timeout_ms: Annotated[int, Meta(ge=0)] = 20_000


class ThumbnailQuery(Query, frozen=True):
    width: int
    height: int
    method: Literal["crop", "scale"] = "scale"
    animated: bool | None = None
    timeout_ms: Annotated[int, Meta(ge=0)] = 20_000


async def download(media_id: str, query: Wait, origin: Origin, store: MediaStore, randomness: Randomness) -> Response:
    return await _file(await store.find_own(media_id, timeout_ms=query.timeout_ms), store, randomness)


async def thumbnail(
    media_id: str, query: ThumbnailQuery, origin: Origin, store: MediaStore, randomness: Randomness
) -> Response:
    wish = Thumbnail(query.width, query.height, query.method, bool(query.animated))
    found = await store.thumbnail_own(media_id, wish, timeout_ms=query.timeout_ms)
    if isinstance(found, Media):
        return await _file(found, store, randomness)
    headers = {"Content-Type": found.content_type, "Content-Disposition": "inline"}
    return _parts(headers, _once(found.body), len(found.body), randomness)


async def _file(one: Media, store: MediaStore, randomness: Randomness) -> Response:
    return _parts(described(one, one.filename), await store.read(one), one.size or 0, randomness)


def _parts(headers: Mapping[str, str], body: AsyncIterator[bytes], size: int, randomness: Randomness) -> Response:
    boundary = randomness.token(40)
    described = "\r\n".join(f"{name}: {value}" for name, value in headers.items())
    start = (
        f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n{described}\r\n\r\n"
    ).encode("latin-1")
    end = f"\r\n--{boundary}--\r\n".encode()

    async def parts() -> AsyncIterator[bytes]:
        yield start
        async for chunk in body:
            yield chunk
        yield end

    return StreamingResponse(
        parts(),
        headers={
            "Content-Type": f"multipart/mixed; boundary={boundary}",
            "Content-Length": str(len(start) + size + len(end)),
        },
    )


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


ENDPOINTS = [
    Endpoint("GET", "/media/download/{media_id}", download, auth=SERVER, limit="media_by_server", body=None),
    Endpoint("GET", "/media/thumbnail/{media_id}", thumbnail, auth=SERVER, limit="media_by_server", body=None),
]
