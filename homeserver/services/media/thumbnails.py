"""Smaller pictures (client-server API, Thumbnails).

Pictures are made in two threads, so that many of them leave the event loop and the other core alone. Whoever asks
for a size gets the next one of a short list, so a file has a few thumbnails at most; they are kept with the files.
Pieces of an aspect that is not of the list are made as they were asked for, and not kept.
"""

import asyncio
import io
import struct
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image, ImageOps, UnidentifiedImageError

from homeserver.errors import InvalidParam, NotFound, TooLarge, Unsupported
from homeserver.kit.concurrency import SingleFlight
from homeserver.outbound.blobs import Blobs
from homeserver.storage.media import Media

Method = Literal["crop", "scale"]

MOST_PIXELS = 50_000_000
# Of all pictures of an animation together, as they are and as they become.
_MOST_DECODED = 400_000_000
_MOST_ENCODED = 50_000_000
_MOST_FRAMES = 500
_LARGEST_FILE = 100_000_000
_THREADS = 2
_SIZES: tuple[tuple[int, int, Method], ...] = (
    (32, 32, "crop"),
    (96, 96, "crop"),
    (320, 240, "crop"),
    (640, 480, "crop"),
    (800, 600, "crop"),
    (320, 240, "scale"),
    (640, 480, "scale"),
    (800, 600, "scale"),
    (1600, 1200, "scale"),
    (10_000, 10_000, "scale"),
)
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF")
# What the decoders raise on files that are not what they seem.
_BROKEN = (
    UnidentifiedImageError,
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    ZeroDivisionError,
    RuntimeError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """The picture that a client wants."""

    width: int
    height: int
    method: Method
    animated: bool


class Thumbnails:
    """Makes and keeps smaller pictures."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._threads = ThreadPoolExecutor(_THREADS, "thumbnails")
        self._turn = asyncio.Semaphore(_THREADS)
        self._flights: SingleFlight[str, tuple[str, bytes] | None] = SingleFlight()

    async def make(self, one: Media, wish: Thumbnail) -> tuple[str, bytes] | None:
        """The type and bytes of the thumbnail; None if the file itself is small enough."""
        if not (0 < wish.width <= 10_000 and 0 < wish.height <= 10_000):
            raise InvalidParam("A thumbnail has a sensible width and height.")
        if (one.size or 0) > _LARGEST_FILE:
            raise TooLarge("The file is too large to make it smaller.")
        size = _standard(wish)
        name = f"{one.media_id}-{size.width}x{size.height}-{size.method}" + ("-animated" if size.animated else "")
        return await self._flights.run(name, lambda: self._find(one, size, name))

    async def _find(self, one: Media, size: Thumbnail, name: str) -> tuple[str, bytes] | None:
        is_kept = (size.width, size.height, size.method) in _SIZES
        if is_kept and await self._blobs.exists(name):
            kept = await self._blobs.get(name)
            return (_type_of(kept), kept) if kept else None
        # The file is only read when it is its turn: those that wait cost nothing.
        async with self._turn:
            try:
                original = await self._blobs.get(one.media_id)
            except FileNotFoundError:
                raise NotFound("The bytes of this file are not here any more.") from None
            made = await asyncio.get_running_loop().run_in_executor(self._threads, _shrunk, original, size)
        if is_kept:
            # An empty one says that the original is to be shown.
            await self._blobs.put(name, _once(made or b""))
        return None if made is None else (_type_of(made), made)

    async def forget(self, media_id: str) -> None:
        """Remove what is kept of a file that is gone."""
        for width, height, method in _SIZES:
            name = f"{media_id}-{width}x{height}-{method}"
            await self._blobs.delete(name)
            await self._blobs.delete(name + "-animated")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()


def _standard(wish: Thumbnail) -> Thumbnail:
    """The smallest of the sizes that is as large as the wish; pieces keep the aspect of the wish."""
    for width, height, method in _SIZES:
        is_alike = wish.method == "scale" or width * wish.height == height * wish.width
        if method == wish.method and is_alike and width >= wish.width and height >= wish.height:
            return replace(wish, width=width, height=height)
    return wish


def _shrunk(original: bytes, size: Thumbnail) -> bytes | None:
    try:
        with Image.open(io.BytesIO(original), formats=_FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise TooLarge("The picture has too many pixels to make it smaller.")
            is_small = opened.width <= size.width and opened.height <= size.height
            is_animated = opened.format in _ANIMATED and getattr(opened, "is_animated", False)
            if is_small and (size.animated or not is_animated):
                return None
            if is_animated and size.animated:
                animation = _animation(opened, size)
                if animation is not None:
                    return animation
                opened.seek(0)
            opened.draft("RGB", (size.width * 2, size.height * 2))
            return _encoded(_fitted(ImageOps.exif_transpose(opened), size))
    except Image.DecompressionBombError:
        raise TooLarge("The picture has too many pixels to make it smaller.") from None
    except _BROKEN:
        raise Unsupported("M_UNKNOWN", "No smaller picture can be made of this file.") from None


def _animation(opened: Image.Image, size: Thumbnail) -> bytes | None:
    """The pictures, smaller; None if there are too many of them."""
    frames: list[Image.Image] = []
    durations: list[int] = []
    while True:
        try:
            opened.seek(len(frames))
        except EOFError:
            break
        frame = _fitted(opened.convert("RGBA"), size)
        decoded = (len(frames) + 1) * opened.width * opened.height
        encoded = (len(frames) + 1) * frame.width * frame.height
        if len(frames) == _MOST_FRAMES or decoded > _MOST_DECODED or encoded > _MOST_ENCODED:
            return None
        frames.append(frame)
        durations.append(min(60_000, max(0, int(opened.info.get("duration", 100)))))
    out = io.BytesIO()
    loop = min(65_535, max(0, int(opened.info.get("loop", 0))))
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=loop, quality=75)
    return out.getvalue()


def _fitted(picture: Image.Image, size: Thumbnail) -> Image.Image:
    if picture.mode not in ("RGB", "RGBA", "L"):
        picture = picture.convert("RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB")
    if size.method == "crop":
        width, height = min(size.width, picture.width), min(size.height, picture.height)
        return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    # No side becomes smaller than was asked, and none larger than it is.
    ratio = min(1.0, max(size.width / picture.width, size.height / picture.height))
    wanted = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
    return picture.resize(wanted, Image.Resampling.LANCZOS)


def _encoded(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    if picture.mode == "RGBA":
        picture.save(out, "PNG", optimize=True)
    else:
        picture.save(out, "JPEG", quality=82, progressive=True)
    return out.getvalue()


def _type_of(picture: bytes) -> str:
    if picture.startswith(b"RIFF"):
        return "image/webp"
    return "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
