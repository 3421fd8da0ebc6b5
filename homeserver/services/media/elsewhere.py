"""Files of other servers, and the copies that are kept of them (server-server API, Content Repository)."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from homeserver.errors import (
    AnswerTooLarge,
    HomeserverError,
    NotFound,
    Refused,
    RemoteFailure,
    Unreachable,
    Unsupported,
)
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import KeyedLocks, SingleFlight
from homeserver.kit.randomness import Randomness
from homeserver.matrix import multipart
from homeserver.matrix.identifiers import ServerName, UserId
from homeserver.matrix.multipart import MalformedMultipart, Part
from homeserver.outbound.blobs import Blobs
from homeserver.outbound.federation import FederationClient
from homeserver.outbound.transport import Reply
from homeserver.services.media.thumbnails import Thumbnail, Thumbnails
from homeserver.storage import remote_media
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.media import Media
from homeserver.storage.remote_media import RemoteMedia

_ENVELOPE = 64 << 10
"""So many bytes an answer may have besides the file."""
_LARGEST_THUMBNAIL = 10 << 20
_SMALL = 4 << 20
_AT_ONCE = 64
"""So many files are fetched at once, as long as they are small: they are in memory until they are on the disk."""
_AT_ONCE_EACH = 8
"""So many of one server, which may be slow, or wait for what is yet to be uploaded."""
_LARGE_AT_ONCE = 4
"""A file that turns out to be large is asked for again, when it is its turn among others: one of each server."""
_FAILED = 5000
_FAILURE_FOR_S = 60
_MOST_REMOVED = 1000
_PICTURES = ("image/png", "image/apng", "image/jpeg", "image/gif", "image/webp", "image/avif")

Key = tuple[ServerName, str]


@dataclass(frozen=True, slots=True)
class _Failure:
    until: float
    error: HomeserverError


class MediaElsewhere:
    """Fetches each file from its own server once, and keeps it; the copies that were made first go when it is full."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        federation: FederationClient,
        blobs: Blobs,
        thumbnails: Thumbnails,
        *,
        largest: int,
        room: int,
    ) -> None:
        """`largest` is the size of the largest file that is fetched, `room` that of all copies together."""
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._federation = federation
        self._blobs = blobs
        self._thumbnails = thumbnails
        self._largest = largest
        self._room = room
        self._fetching: SingleFlight[Key, RemoteMedia] = SingleFlight()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._turns_each: KeyedLocks[ServerName] = KeyedLocks(_AT_ONCE_EACH)
        self._large_turns_each: KeyedLocks[ServerName] = KeyedLocks()
        self._large_turns = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._failed: Lru[Key, _Failure] = Lru(_FAILED)

    async def find(self, server_name: ServerName, media_id: str, *, timeout_ms: int) -> Media:
        """The file, fetched if need be.

        Raises `NotFound`, `M_NOT_YET_UPLOADED` or `M_TOO_LARGE` where its server says so, and `RemoteFailure`.
        """
        one = await self._database.read(remote_media.find, server_name, media_id)
        if one is None or not await self._blobs.exists(one.blob):
            key = (server_name, media_id)
            failure = self._failed.get(key)
            if failure is not None and failure.until > self._clock.monotonic():
                raise failure.error
            one = await self._fetching.run(key, lambda: self._fetch(key, one, timeout_ms))
        return Media(one.blob, UserId(""), one.fetched_ts, one.size, one.content_type, one.filename)

    async def find_thumbnail(self, server_name: ServerName, media_id: str, wish: Thumbnail) -> tuple[str, bytes] | None:
        """The type and bytes of a smaller picture that the server of a file makes of it, if it does."""
        query = [("width", str(wish.width)), ("height", str(wish.height)), ("method", wish.method)]
        if wish.animated:
            query.append(("animated", "true"))
        async with self._turns_each.hold(server_name), self._turns:
            try:
                part = await self._ask_for_thumbnail(server_name, media_id, query)
            except RemoteFailure:
                return None
        kind, _ = multipart.parameters_of(part.headers.get("content-type", ""))
        return (kind, part.body) if kind in _PICTURES and len(part.body) <= _LARGEST_THUMBNAIL else None

    async def _fetch(self, key: Key, lost: RemoteMedia | None, timeout_ms: int) -> RemoteMedia:
        server_name, media_id = key
        try:
            try:
                async with self._turns_each.hold(server_name), self._turns:
                    part = await self._ask(server_name, media_id, timeout_ms, min(_SMALL, self._largest))
                    return await self._keep(key, lost, part)
            except AnswerTooLarge:
                async with self._large_turns_each.hold(server_name), self._large_turns:
                    part = await self._ask(server_name, media_id, 0, self._largest)
                    return await self._keep(key, lost, part)
        except RemoteFailure as error:
            failure = _in_own_words(error)
            if not (isinstance(failure, Unsupported) and failure.errcode == "M_NOT_YET_UPLOADED"):
                self._failed.put(key, _Failure(self._clock.monotonic() + _FAILURE_FOR_S, failure))
            raise failure from None

    async def _ask(self, server_name: ServerName, media_id: str, timeout_ms: int, size: int) -> Part:
        """The file, from the server that it is of. Raises `RemoteFailure`, of it `AnswerTooLarge`."""
        largest = size + _ENVELOPE
        try:
            reply = await self._federation.media(server_name, media_id, largest=largest, wait_ms=timeout_ms)
            part = await self._file(reply, size)
        except Refused as refusal:
            if not _is_of_old(refusal):
                raise
            reply = await self._federation.media_of_old(server_name, server_name, media_id, largest=largest)
            part = Part(reply.headers, reply.body)
        if len(part.body) > size:
            raise AnswerTooLarge(f"The file has more than {size} bytes.")
        return part

    async def _ask_for_thumbnail(
        self, server_name: ServerName, media_id: str, query: Sequence[tuple[str, str]]
    ) -> Part:
        """What the server of a file answers to a wish. Raises `RemoteFailure`."""
        largest = _LARGEST_THUMBNAIL
        try:
            reply = await self._federation.thumbnail(server_name, media_id, query, largest=largest)
            return await self._file(reply, largest)
        except Refused as refusal:
            if not _is_of_old(refusal):
                raise
            reply = await self._federation.thumbnail_of_old(server_name, server_name, media_id, query, largest=largest)
            return Part(reply.headers, reply.body)

    async def _file(self, reply: Reply, largest: int) -> Part:
        """The part with the file, fetched from where it says, if it is not there itself. Raises `Unreachable`."""
        try:
            part = multipart.file_part(reply.headers.get("content-type", ""), reply.body)
        except MalformedMultipart as error:
            raise Unreachable(f"The answer cannot be taken apart: {error}") from None
        location = part.headers.get("location")
        if location is None:
            return part
        # The address is good for this once.
        reply = await self._federation.file_at(location, largest=largest)
        return Part({**part.headers, **reply.headers}, reply.body)

    async def _keep(self, key: Key, lost: RemoteMedia | None, part: Part) -> RemoteMedia:
        server_name, media_id = key
        one = RemoteMedia(
            server_name,
            media_id,
            self._randomness.token(24),
            self._clock.now(),
            len(part.body),
            multipart.safe_type(part.headers.get("content-type")),
            multipart.filename_of(part.headers.get("content-disposition")),
        )
        await self._blobs.put(one.blob, _once(part.body))

        def write(tx: WriteTx) -> RemoteMedia:
            if lost is not None:
                remote_media.remove_many(tx, [lost.blob])
            if remote_media.add(tx, one):
                return one
            return remote_media.find(tx, server_name, media_id) or one

        kept = await self._database.write(write)
        if kept is not one:
            await self._blobs.delete(one.blob)
        await self._make_room()
        return kept

    async def _make_room(self) -> None:
        """Let the copies go that were made first, if all together are too large."""
        gone = await self._database.read(self._surplus)
        if gone:
            await self._database.write(remote_media.remove_many, gone)
        for blob in gone:
            await self._blobs.delete(blob)
            await self._thumbnails.forget(blob)

    def _surplus(self, tx: ReadTx) -> list[str]:
        surplus = remote_media.total_size(tx) - self._room
        gone: list[str] = []
        if surplus > 0:
            for blob, size in remote_media.list_oldest(tx, limit=_MOST_REMOVED):
                if surplus <= 0:
                    break
                gone.append(blob)
                surplus -= size
        return gone


def _is_of_old(refusal: Refused) -> bool:
    """Whether the server only knows the way without authentication."""
    return (refusal.status, refusal.errcode) == (404, "M_UNRECOGNIZED")


def _in_own_words(error: RemoteFailure) -> HomeserverError:
    match error:
        case AnswerTooLarge():
            return Unsupported("M_TOO_LARGE", "The file is too large to be served here.", status=502)
        case Refused(errcode="M_TOO_LARGE"):
            return Unsupported("M_TOO_LARGE", "The file is too large for its server to serve.", status=502)
        case Refused(errcode="M_NOT_YET_UPLOADED"):
            return Unsupported("M_NOT_YET_UPLOADED", "The file has not been uploaded yet.", status=504)
        case Refused(status=403 | 404 | 410):
            return NotFound("Its server has no such file for others.")
    return error


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
