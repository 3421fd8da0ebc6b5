"""Smaller pictures (client-server API, Thumbnails).

Pictures are made in two threads, so that many of them leave the event loop and the other core alone. Whoever asks
for a size gets the next one of a short list, so a file has a few thumbnails at most; they are kept with the files.
"""

import asyncio
import io
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageOps, UnidentifiedImageError

from homeserver.errors import InvalidParam, TooLarge, Unsupported
from homeserver.outbound.blobs import Blobs
from homeserver.storage.media import Media

Method = Literal["crop", "scale"]

MOST_PIXELS = 50_000_000
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
)
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF")


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

    async def make(self, one: Media, wish: Thumbnail) -> tuple[str, bytes] | None:
        """The type and bytes of the thumbnail; None if the file itself is small enough."""
        if not (0 < wish.width <= 10_000 and 0 < wish.height <= 10_000):
            raise InvalidParam("A thumbnail has a sensible width and height.")
        if (one.size or 0) > _LARGEST_FILE:
            raise TooLarge("The file is too large to make it smaller.")
        width, height, method = _standard(wish)
        name = f"{one.media_id}-{width}x{height}-{method}"
        if await self._blobs.exists(name):
            kept = await self._blobs.get(name)
            return (_type_of(kept), kept) if kept else None
        original = await self._blobs.get(one.media_id)
        made = await asyncio.get_running_loop().run_in_executor(self._threads, _shrunk, original, width, height, method)
        # An empty one says that the original is to be shown.
        await self._blobs.put(name, _once(made or b""))
        return None if made is None else (_type_of(made), made)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()


def _standard(wish: Thumbnail) -> tuple[int, int, Method]:
    """The smallest of the sizes that is as large as the wish, else the largest."""
    sizes = [size for size in _SIZES if size[2] == wish.method]
    for size in sizes:
        if size[0] >= wish.width and size[1] >= wish.height:
            return size
    return sizes[-1]


def _shrunk(original: bytes, width: int, height: int, method: Method) -> bytes | None:
    try:
        with Image.open(io.BytesIO(original), formats=_FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise TooLarge("The picture has too many pixels to make it smaller.")
            if opened.width <= width and opened.height <= height:
                return None
            opened.draft("RGB", (width * 2, height * 2))
            picture = ImageOps.exif_transpose(opened)
            return _encoded(_fitted(picture, width, height, method))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise Unsupported("M_UNKNOWN", "No smaller picture can be made of this file.") from None


def _fitted(picture: Image.Image, width: int, height: int, method: Method) -> Image.Image:
    if picture.mode not in ("RGB", "RGBA", "L"):
        picture = picture.convert("RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB")
    if method == "crop":
        width, height = min(width, picture.width), min(height, picture.height)
        return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    # One side may be smaller than was asked, never both, and nothing is made larger.
    ratio = min(1.0, max(width / picture.width, height / picture.height))
    size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _encoded(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    if picture.mode == "RGBA":
        picture.save(out, "PNG", optimize=True)
    else:
        picture.save(out, "JPEG", quality=82, progressive=True)
    return out.getvalue()


def _type_of(picture: bytes) -> str:
    return "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
