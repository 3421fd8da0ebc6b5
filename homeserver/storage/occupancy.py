"""One server process at a time has a database: what it keeps in memory of rooms, another would write over.

On PostgreSQL it is a lock of a session, which lasts as long as its connection; beside an SQLite database it is a lock
on a file. Either ends with the process, however that ends.
"""

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import structlog
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from homeserver.errors import Unavailable
from homeserver.kit.clock import Clock
from homeserver.storage.engine import Database

_PATIENCE_S = 10.0
"""So long a process that is about to end may take for it."""
_AGAIN_S = 0.1
_LOOK_S = 5.0
_CONNECT_S = 10.0
_LOCK = 0x6D61747269780001

log = structlog.get_logger()


class _Hold(Protocol):
    """What only one process can have."""

    async def take(self) -> bool:
        """Take it; False if another has it. Raises `Unavailable`."""
        ...

    async def is_held(self) -> bool:
        """Whether it was not lost since."""
        ...

    async def release(self) -> None:
        """Give it up."""
        ...


class Occupancy:
    """That this process has the database."""

    def __init__(self, hold: _Hold, clock: Clock) -> None:
        self._hold = hold
        self._clock = clock

    async def take(self) -> bool:
        """Have it from now on; False if another process keeps it."""
        end = self._clock.monotonic() + _PATIENCE_S
        while not await self._hold.take():
            if self._clock.monotonic() >= end:
                return False
            await self._clock.sleep(_AGAIN_S)
        return True

    async def watch(self, database: Database) -> None:
        """Look whether it still is so: a session may end while the process goes on.

        Once another process has it, nothing is written here any more.
        """
        while True:
            await self._clock.sleep(_LOOK_S)
            if await self._hold.is_held():
                continue
            try:
                is_ours = await self._hold.take()
            except Unavailable:
                continue  # The database is away: nobody writes.
            if not is_ours:
                log.critical("another server process has taken the database; this one writes nothing any more")
                database.is_lost = True
                return


@asynccontextmanager
async def occupancy(url: str, clock: Clock) -> AsyncIterator[Occupancy]:
    """Not taken yet; given up when the block ends."""
    parsed = make_url(url)
    hold = _File(parsed) if parsed.get_backend_name() == "sqlite" else _Session(parsed)
    try:
        yield Occupancy(hold, clock)
    finally:
        await hold.release()


class _File:
    """A lock on a file beside the database; one of the process, whichever part of it has asked."""

    def __init__(self, url: URL) -> None:
        self._path = f"{url.database}.lock" if url.database else os.devnull
        self._descriptor: int | None = None

    async def take(self) -> bool:
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    async def is_held(self) -> bool:
        return True

    async def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class _Session:
    """A lock of a PostgreSQL session that does nothing else."""

    def __init__(self, url: URL) -> None:
        self._engine = create_async_engine(
            url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args={"timeout": _CONNECT_S}
        )
        self._connection: AsyncConnection | None = None

    async def take(self) -> bool:
        await self.release()
        try:
            self._connection = await self._engine.connect()
            is_ours = await self._connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK})
        except (OSError, DBAPIError) as error:
            raise Unavailable("The database cannot be used at the moment.") from error
        if not is_ours:
            await self.release()
        return bool(is_ours)

    async def is_held(self) -> bool:
        if self._connection is None:
            return False
        try:
            await self._connection.execute(text("SELECT 1"))
        except (OSError, DBAPIError):
            return False
        return True

    async def release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
