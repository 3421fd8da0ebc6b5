"""Where the bytes of media are kept."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from anyio import to_thread

_CHUNK = 262_144


class Blobs(Protocol):
    """Keeps bytes under names. A name is made by this server, of letters, digits, `_` and `-`."""

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Keep the bytes, and say how many there are. Where `chunks` raises, nothing is kept."""

    def read(self, name: str) -> AsyncIterator[bytes]:
        """The bytes. Raises `FileNotFoundError`."""

    async def get(self, name: str) -> bytes:
        """The bytes at once, for small ones. Raises `FileNotFoundError`."""

    async def exists(self, name: str) -> bool:
        """Whether there are bytes under the name."""

    async def delete(self, name: str) -> None:
        """Remove the bytes, if they are there."""


class DiskBlobs:
    """Files in a folder, in subfolders by the first letters of their names.

    A file appears under its name only when it is whole and on the disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        path = self._path(name)
        file = await to_thread.run_sync(_begin, path)
        size = 0
        try:
            async for chunk in chunks:
                size += len(chunk)
                await to_thread.run_sync(file.write, chunk)
            await to_thread.run_sync(_finish, file, path)
        except BaseException:
            file.close()
            with suppress(FileNotFoundError):
                os.unlink(file.name)
            raise
        return size

    async def read(self, name: str) -> AsyncIterator[bytes]:
        with await to_thread.run_sync(self._path(name).open, "rb") as file:
            while chunk := await to_thread.run_sync(file.read, _CHUNK):
                yield chunk

    async def get(self, name: str) -> bytes:
        return await to_thread.run_sync(self._path(name).read_bytes)

    async def exists(self, name: str) -> bool:
        return await to_thread.run_sync(self._path(name).exists)

    async def delete(self, name: str) -> None:
        await to_thread.run_sync(lambda: self._path(name).unlink(missing_ok=True))

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name[2:4] / name


def _begin(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False)


def _finish(file: IO[bytes], path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
    os.replace(file.name, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
