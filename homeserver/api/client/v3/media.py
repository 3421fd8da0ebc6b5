"""Uploading, downloading and shrinking files (client-server API, Content repository).

All files of this server were uploaded after the unauthenticated endpoints were frozen, so those give nothing away.
"""

from typing import Annotated, Any, Literal
from urllib.parse import quote

from msgspec import Meta
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from homeserver.errors import NotFound, NotJson, TooLarge
from homeserver.http.bodies import Empty, Query
from homeserver.http.endpoint import NOBODY, USER, USER_OR_GUEST, Endpoint
from homeserver.services.auth.sessions import Requester
from homeserver.services.media.store import MediaStore
from homeserver.services.media.thumbnails import Thumbnail
from homeserver.storage.media import Media

_INLINE = frozenset(
    [
        "text/css",
        "text/plain",
        "text/csv",
        "application/json",
        "application/ld+json",
        "image/jpeg",
        "image/gif",
        "image/png",
        "image/apng",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/aac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wave",
        "audio/wav",
        "audio/x-wav",
        "audio/x-pn-wav",
        "audio/flac",
        "audio/x-flac",
    ]
)
_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; "
    "style-src 'unsafe-inline'; object-src 'self';",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, max-age=86400, immutable",
}


class Named(Query, frozen=True):
    filename: str | None = None


class Wait(Query, frozen=True):
    timeout_ms: Annotated[int, Meta(ge=0)] = 20_000


class ThumbnailQuery(Query, frozen=True):
    width: int
    height: int
    method: Literal["crop", "scale"] = "scale"
    animated: bool | None = None
    timeout_ms: Annotated[int, Meta(ge=0)] = 20_000


async def upload(query: Named, who: Requester, request: Request, store: MediaStore) -> dict[str, Any]:
    _check_length(request, store)
    uri = await store.upload(who, _chunks(request), request.headers.get("content-type"), query.filename)
    return {"content_uri": uri}


async def create(who: Requester, store: MediaStore) -> dict[str, Any]:
    uri, until = await store.announce(who)
    return {"content_uri": uri, "unused_expires_at": until}


async def upload_to(
    server_name: str, media_id: str, query: Named, who: Requester, request: Request, store: MediaStore
) -> Empty:
    _check_length(request, store)
    content_type = request.headers.get("content-type")
    await store.upload_to(who, server_name, media_id, _chunks(request), content_type, query.filename)
    return Empty()


async def config(store: MediaStore) -> dict[str, Any]:
    return {"m.upload.size": store.largest}


async def download(server_name: str, media_id: str, query: Wait, store: MediaStore) -> Response:
    one = await store.find(server_name, media_id, timeout_ms=query.timeout_ms)
    return await _file(store, one, one.filename)


async def download_as(server_name: str, media_id: str, file_name: str, query: Wait, store: MediaStore) -> Response:
    one = await store.find(server_name, media_id, timeout_ms=query.timeout_ms)
    return await _file(store, one, file_name)


async def thumbnail(server_name: str, media_id: str, query: ThumbnailQuery, store: MediaStore) -> Response:
    wish = Thumbnail(query.width, query.height, query.method, bool(query.animated))
    found = await store.thumbnail(server_name, media_id, wish, timeout_ms=query.timeout_ms)
    if isinstance(found, Media):
        return await _file(store, found, found.filename)
    return Response(found.body, media_type=found.content_type, headers=_HEADERS | {"Content-Disposition": "inline"})


async def frozen() -> Empty:
    raise NotFound("Files are only given to those who are logged in: /_matrix/client/v1/media has them.")


async def _file(store: MediaStore, one: Media, filename: str | None) -> Response:
    # The type is set as it was given: a library that adds a charset would change what was uploaded.
    headers = _HEADERS | described(one, filename) | {"Content-Length": str(one.size)}
    return StreamingResponse(await store.read(one), headers=headers)


def described(one: Media, filename: str | None) -> dict[str, str]:
    """The headers that say what a file is, and whether it may be shown as a page or is to be kept."""
    content_type = one.content_type or "application/octet-stream"
    kind = "inline" if content_type.partition(";")[0].strip().lower() in _INLINE else "attachment"
    if filename:
        kind += f"; filename*=utf-8''{quote(filename, safe='')}"
    return {
        "Content-Type": content_type.encode("latin-1", "replace").decode("latin-1"),
        "Content-Disposition": kind,
    }


async def _chunks(request: Request) -> Any:
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except ClientDisconnect:
        raise NotJson("The connection ended before the file did.") from None


def _check_length(request: Request, store: MediaStore) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > store.largest:
        raise TooLarge(f"A file may have at most {store.largest} bytes.")


_FILE = "/{server_name}/{media_id}"

ENDPOINTS_V1 = [
    Endpoint("GET", "/media/config", config, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", "/media/download" + _FILE, download, auth=USER_OR_GUEST, limit="media", body=None),
    Endpoint(
        "GET", "/media/download" + _FILE + "/{file_name}", download_as, auth=USER_OR_GUEST, limit="media", body=None
    ),
    Endpoint("GET", "/media/thumbnail" + _FILE, thumbnail, auth=USER_OR_GUEST, limit="media", body=None),
]

ENDPOINTS_MEDIA = [
    Endpoint("POST", "/v3/upload", upload, auth=USER, limit="media", body=None),
    Endpoint("POST", "/v1/create", create, auth=USER, limit="media", body=None),
    Endpoint("PUT", "/v3/upload" + _FILE, upload_to, auth=USER, limit="media", body=None),
    Endpoint("GET", "/v3/config", config, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", "/v3/download" + _FILE, frozen, auth=NOBODY, limit=None, body=None),
    Endpoint("GET", "/v3/download" + _FILE + "/{file_name}", frozen, auth=NOBODY, limit=None, body=None),
    Endpoint("GET", "/v3/thumbnail" + _FILE, frozen, auth=NOBODY, limit=None, body=None),
]
