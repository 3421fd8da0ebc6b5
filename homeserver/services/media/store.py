"""Uploading and downloading files (client-server API, Content repository)."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from homeserver.errors import Forbidden, InvalidParam, LimitExceeded, NotFound, TooLarge, Unsupported
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import KeyedLocks
from homeserver.kit.randomness import Randomness
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.blobs import Blobs
from homeserver.services.auth.sessions import Requester
from homeserver.services.media.elsewhere import MediaElsewhere
from homeserver.services.media.thumbnails import Thumbnail, Thumbnails
from homeserver.storage import media
from homeserver.storage.engine import Database
from homeserver.storage.media import Media
from homeserver.streams.notifier import Notifier

UNUSED_LIFETIME_MS = 24 * 60 * 60 * 1000
LONGEST_WAIT_MS = 60_000
_MOST_PENDING = 50
_LONGEST_NAME = 255
_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was made of a file."""

    content_type: str
    body: bytes


class MediaStore:
    """The files of this server's users, and copies of those of others."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        notifier: Notifier,
        blobs: Blobs,
        thumbnails: Thumbnails,
        elsewhere: MediaElsewhere,
        *,
        server_name: str,
        largest: int,
    ) -> None:
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._notifier = notifier
        self._blobs = blobs
        self._thumbnails = thumbnails
        self._elsewhere = elsewhere
        self._server_name = server_name
        self._uploads: KeyedLocks[str] = KeyedLocks()
        self.largest = largest

    async def announce(self, who: Requester) -> tuple[str, int]:
        """Make the address of a file whose bytes come later, and say until when they may come."""
        now = self._clock.now()
        since = now - UNUSED_LIFETIME_MS
        if await self._database.read(media.count_pending, who.user_id, since=since) >= _MOST_PENDING:
            raise LimitExceeded(60_000)
        media_id = self._randomness.token(24)
        await self._database.write(media.add, Media(media_id, who.user_id, now, None, None, None))
        return self._uri(media_id), now + UNUSED_LIFETIME_MS

    async def upload(
        self, who: Requester, chunks: AsyncIterator[bytes], content_type: str | None, filename: str | None
    ) -> str:
        """Keep a file; its address."""
        content_type, filename = _checked(content_type, filename)
        media_id = self._randomness.token(24)
        size = await self._blobs.put(media_id, self._capped(chunks))
        one = Media(media_id, who.user_id, self._clock.now(), size, content_type, filename)
        await self._database.write(media.add, one)
        return self._uri(media_id)

    async def upload_to(
        self,
        who: Requester,
        server_name: str,
        media_id: str,
        chunks: AsyncIterator[bytes],
        content_type: str | None,
        filename: str | None,
    ) -> None:
        """Keep the bytes of a file that was announced."""
        content_type, filename = _checked(content_type, filename)
        one = await self._find(server_name, media_id)
        if one.user_id != who.user_id:
            raise Forbidden("Somebody else has announced this file.")
        # One after the other: the bytes that are kept and the size that is written down are of the same request.
        async with self._uploads.hold(media_id):
            if (await self._find(server_name, media_id)).size is not None:
                raise Unsupported("M_CANNOT_OVERWRITE_MEDIA", "The file has its bytes already.", status=409)
            size = await self._blobs.put(media_id, self._capped(chunks))
            if not await self._database.write(
                media.fill, media_id, size=size, content_type=content_type, filename=filename
            ):
                raise Unsupported("M_CANNOT_OVERWRITE_MEDIA", "The file has its bytes already.", status=409)
        self._notifier.wake([_key(media_id)])

    async def find(self, server_name: str, media_id: str, *, timeout_ms: int) -> Media:
        """A file with its bytes, of whatever server; if it is only announced, wait.

        Raises `NotFound`, `M_NOT_YET_UPLOADED`, `M_TOO_LARGE`, or `RemoteFailure` where it must be fetched.
        """
        _check_address(server_name, media_id)
        timeout_ms = min(timeout_ms, LONGEST_WAIT_MS)
        if server_name != self._server_name:
            return await self._elsewhere.find(ServerName(server_name), media_id, timeout_ms=timeout_ms)
        return await self.find_own(media_id, timeout_ms=timeout_ms)

    async def find_own(self, media_id: str, *, timeout_ms: int) -> Media:
        """The same of this server's files only."""
        server_name = self._server_name
        with self._notifier.waiting_for([_key(media_id)]) as waiter:
            one = await self._find(server_name, media_id)
            if one.size is None:
                await waiter.wait(min(timeout_ms, LONGEST_WAIT_MS) / 1000)
                one = await self._find(server_name, media_id)
        if one.size is None:
            raise Unsupported("M_NOT_YET_UPLOADED", "The file has not been uploaded yet.", status=504)
        return one

    async def read(self, one: Media) -> AsyncIterator[bytes]:
        """The bytes of a file. Raises `NotFound` if they have been lost."""
        if not await self._blobs.exists(one.media_id):
            raise NotFound("The bytes of this file are not here any more.")
        return self._blobs.read(one.media_id)

    async def thumbnail(self, server_name: str, media_id: str, wish: Thumbnail, *, timeout_ms: int) -> Picture | Media:
        """A smaller picture of a file, of whatever server; or the file, if it is to be shown as it is.

        Raises what `find` does, `TooLarge` for pictures of too many pixels, `M_UNKNOWN` for what is no picture.
        """
        try:
            one = await self.find(server_name, media_id, timeout_ms=timeout_ms)
            return await self._smaller(one, wish)
        except (TooLarge, Unsupported) as error:
            is_over = isinstance(error, TooLarge) or error.errcode in ("M_TOO_LARGE", "M_UNKNOWN")
            if server_name == self._server_name or not is_over:
                raise
            # What cannot be made smaller here, its own server may be able to.
            made = await self._elsewhere.find_thumbnail(ServerName(server_name), media_id, wish)
            if made is None:
                raise
            return Picture(*made)

    async def thumbnail_own(self, media_id: str, wish: Thumbnail, *, timeout_ms: int) -> Picture | Media:
        """The same of this server's files only."""
        return await self._smaller(await self.find_own(media_id, timeout_ms=timeout_ms), wish)

    async def _smaller(self, one: Media, wish: Thumbnail) -> Picture | Media:
        made = await self._thumbnails.make(one, wish)
        return one if made is None else Picture(*made)

    async def _find(self, server_name: str, media_id: str) -> Media:
        _check_address(server_name, media_id)
        one = None
        if server_name == self._server_name:
            one = await self._database.read(media.find, media_id)
        if one is None:
            raise NotFound("There is no such file here.")
        if one.size is None and one.created_ts < self._clock.now() - UNUSED_LIFETIME_MS:
            raise NotFound("The time to upload this file is over.")
        return one

    async def _capped(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self.largest:
                raise TooLarge(f"A file may have at most {self.largest} bytes.")
            yield chunk

    def _uri(self, media_id: str) -> str:
        return f"mxc://{self._server_name}/{media_id}"


def _check_address(server_name: str, media_id: str) -> None:
    if not identifiers.is_server_name(server_name) or _ID.fullmatch(media_id) is None:
        raise InvalidParam("This is no address of a file.")


def _key(media_id: str) -> str:
    return f"media {media_id}"


def _checked(content_type: str | None, filename: str | None) -> tuple[str | None, str | None]:
    for text in (content_type, filename):
        if text is not None and (len(text) > _LONGEST_NAME or any(ord(char) < 32 for char in text)):
            raise InvalidParam(f"A type or a name has at most {_LONGEST_NAME} characters, without control characters.")
    return content_type, filename
