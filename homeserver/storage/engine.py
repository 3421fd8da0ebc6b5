"""Transactions: units of work run whole on SQLite or PostgreSQL, and cannot wait for anything but the database.

A unit of work is a plain synchronous function of a transaction. On PostgreSQL it runs in a greenlet over asyncpg,
so nothing blocks; on SQLite it runs in a thread of its own in one hop, because statement-wise hops cost ten times
that (docs/decisions/0001-one-hop-units-of-work.md).

Who holds what: SQLite has one writer thread with one connection, hence writes queue there in order, and a few reader
threads. On PostgreSQL each unit takes a connection of the pool. A caller that is cancelled waits for its unit to
end first, so a connection is never returned half used.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import asyncpg
from sqlalchemy import Connection, Engine, Executable, NullPool, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import greenlet_spawn

from homeserver.errors import RequestError, Unavailable
from homeserver.kit.concurrency import finish
from homeserver.storage.prepared import Row, driver_of, prepared, said

P = ParamSpec("P")
T = TypeVar("T")

OnCommit = Callable[[int, set[str]], None]

_SQLITE_READERS = 3
_POSTGRES_CONNECTIONS = 20
_ATTEMPTS = 5
_BEGIN = "BEGIN"
_BEGIN_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ"
# PostgreSQL: serialization_failure, deadlock_detected.
_REPEATABLE = {"40001", "40P01"}
# Its classes 53 (no space, no memory, too many connections), 57 (it is being ended, or has ended a statement) and 58
# (the disk fails), and that it takes no writes.
_TROUBLE = ("53", "57", "58", "25006")
_CONNECT_S = 10.0
_PATIENCE_S = 30.0
"""So long a unit of work waits for one of the connections."""
_AWAY = "The database cannot be used at the moment. Try again."


class ReadTx:
    """A connection that only reads."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.is_postgres = connection.dialect.name == "postgresql"


class WriteTx(ReadTx):
    """A transaction that is committed when its unit of work returns, and rolled back when it raises.

    Whoever waits for one of the `woken` keys (user ids, room ids) is woken after the commit; `position` is the last
    one that the transaction took.
    """

    def __init__(self, connection: Connection, unsettled: set[int] | None = None) -> None:
        super().__init__(connection)
        self.position = 0
        self.woken: set[str] = set()
        self._first = 0
        self._unsettled = unsettled
        self._committed: list[Callable[[], None]] = []

    def take(self, first: int, last: int) -> None:
        """Positions were taken: until this transaction is over, nobody may believe to know what is at them."""
        if self.position == 0 and self._unsettled is not None:
            self._unsettled.add(first)
            self._first = first
        self.position = last

    def run(self, statement: Executable, rows: Sequence[Row]) -> None:
        """Run a statement for each of these parameters; what it returns is not looked at.

        As `connection.execute` does, only faster: for what is written with every event.
        """
        one = prepared(statement, rows[0], self.connection.dialect)
        driver_of(self.connection).run(one.sql, [one.arguments(row) for row in rows])

    def value(self, statement: Executable, row: Row) -> Any:
        """The one value that a statement returns; in the same way."""
        one = prepared(statement, row, self.connection.dialect)
        return driver_of(self.connection).value(one.sql, one.arguments(row))

    def on_commit(self, action: Callable[[], None]) -> None:
        """Do this in the event loop after the commit, before anybody is woken."""
        self._committed.append(action)

    def settle(self) -> None:
        """The transaction is committed."""
        for action in self._committed:
            action()

    def forget(self) -> None:
        """Nothing is pending at its positions any more."""
        if self.position and self._unsettled is not None:
            self._unsettled.discard(self._first)

    def wake(self, keys: Iterable[str]) -> None:
        """Wake these after the commit."""
        self.woken.update(keys)


class Database:
    """Runs units of work."""

    def __init__(self, url: URL, run: "_Runner", on_commit: OnCommit) -> None:
        self.url = url
        self._run = run
        self._on_commit = on_commit
        self.is_lost = False
        """Another process has taken the database: nothing may be written any more."""
        self.unsettled: set[int] = set()
        """The first positions of transactions that have not ended, or were not announced yet."""

    @property
    def is_postgres(self) -> bool:
        """Whether this is PostgreSQL, and not SQLite."""
        return self.url.get_backend_name() == "postgresql"

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, on_commit: OnCommit | None = None) -> AsyncIterator["Database"]:
        """Connections to the database at this SQLAlchemy URL.

        `on_commit` is told, in the event loop, of every commit that has keys to wake: its last position and the keys.
        """
        parsed = make_url(url)
        async with AsyncExitStack() as stack:
            runner: _Runner
            if parsed.get_backend_name() == "sqlite":
                runner = _SqliteRunner(parsed)
            else:
                runner = _PostgresRunner(parsed)
            stack.push_async_callback(runner.close)
            yield cls(parsed, runner, on_commit or (lambda position, keys: None))

    async def read(self, unit: Callable[Concatenate[ReadTx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit whose statements need not agree with one another."""
        return await self._finish(self._run.read(lambda connection: unit(ReadTx(connection), *args, **kwargs)))

    async def snapshot(self, unit: Callable[Concatenate[ReadTx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit whose statements all see the database at one moment."""
        return await self._finish(self._run.snapshot(lambda connection: unit(ReadTx(connection), *args, **kwargs)))

    async def write(self, unit: Callable[Concatenate[WriteTx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit in a transaction of its own; it may be run again after a conflict with another."""
        return await self._finish(self._write(lambda tx: unit(tx, *args, **kwargs)))

    async def _write(self, unit: Callable[[WriteTx], T]) -> T:
        if self.is_lost:
            raise Unavailable(_AWAY)
        attempts: list[WriteTx] = []

        def run(connection: Connection) -> T:
            attempts.append(WriteTx(connection, self.unsettled))
            return unit(attempts[-1])

        try:
            result = await self._run.write(run)
            tx = attempts[-1]
            tx.settle()
            if tx.woken:
                self._on_commit(tx.position, tx.woken)
            return result
        finally:
            for tx in attempts:
                tx.forget()

    @staticmethod
    async def _finish(work: Coroutine[Any, Any, T]) -> T:
        try:
            return await finish(work)
        except StatementError as error:
            if isinstance(error.orig, RequestError):
                raise error.orig from None  # A column refused the value; the library has wrapped it.
            if isinstance(error, DBAPIError) and (
                error.connection_invalidated or _sqlstate(error).startswith(_TROUBLE)
            ):
                raise Unavailable(_AWAY) from error
            raise

    async def ping(self) -> None:
        """Raise if the database does not answer."""
        await self.read(_select_one)


def _select_one(tx: ReadTx) -> None:
    tx.connection.execute(text("SELECT 1"))


class _Runner(Protocol):
    """The part that differs: where a unit of work runs."""

    async def read(self, unit: Callable[[Connection], T]) -> T: ...

    async def snapshot(self, unit: Callable[[Connection], T]) -> T: ...

    async def write(self, unit: Callable[[Connection], T]) -> T: ...

    async def close(self) -> None: ...


class _SqliteRunner:
    """A writer thread and a few reader threads."""

    def __init__(self, url: URL) -> None:
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = _sqlite_engine(url)
        self._writer = ThreadPoolExecutor(1, "sqlite-writer")
        self._readers = ThreadPoolExecutor(_SQLITE_READERS, "sqlite-reader")

    async def read(self, unit: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._in_snapshot, unit)

    async def snapshot(self, unit: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._in_snapshot, unit)

    async def write(self, unit: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._in_transaction, unit)

    async def close(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        self._engine.dispose()

    def _in_snapshot(self, unit: Callable[[Connection], T]) -> T:
        with self._engine.connect().execution_options(sqlite_begin="BEGIN") as connection:
            return unit(connection)

    def _in_transaction(self, unit: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            return unit(connection)


class _PostgresRunner:
    """Units of work as greenlets over asyncpg.

    Connections are kept here, and transactions begun and ended: to have that done by SQLAlchemy costs more than a
    transaction of one statement does. For it, every statement stands alone.
    """

    def __init__(self, url: URL) -> None:
        self._async_engine: AsyncEngine = create_async_engine(
            url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            connect_args={"timeout": _CONNECT_S},
        )
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(_POSTGRES_CONNECTIONS)
        self._is_closed = False

    async def read(self, unit: Callable[[Connection], T]) -> T:
        return await self._run(unit)

    async def snapshot(self, unit: Callable[[Connection], T]) -> T:
        return await self._run(lambda connection: _in_transaction(connection, _BEGIN_SNAPSHOT, unit))

    async def write(self, unit: Callable[[Connection], T]) -> T:
        return await self._run(lambda connection: _in_transaction(connection, _BEGIN, unit))

    async def close(self) -> None:
        self._is_closed = True
        while self._idle:
            await greenlet_spawn(self._idle.pop().close)
        await self._async_engine.dispose()

    async def _run(self, unit: Callable[[Connection], T]) -> T:
        """Run the unit, and again where it was in the way of another, or its connection was gone before it ended."""
        await self._have_place()
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    return cast(T, await greenlet_spawn(self._with_connection, unit))
                except DBAPIError as error:
                    is_repeatable = error.connection_invalidated or _sqlstate(error) in _REPEATABLE
                    if attempt == _ATTEMPTS or not is_repeatable:
                        raise
            raise AssertionError("unreachable")
        finally:
            self._places.release()

    async def _have_place(self) -> None:
        if not self._places.locked():
            await self._places.acquire()  # At once: to set a timer for it costs more.
            return
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._places.acquire()
        except TimeoutError:
            raise Unavailable(_AWAY) from None

    def _with_connection(self, unit: Callable[[Connection], T]) -> T:
        connection = self._take()
        try:
            return unit(connection)
        except asyncpg.InternalClientError as error:  # As in `prepared`.
            connection.invalidate()
            raise said(error, is_gone=True) from error
        finally:
            if _is_sound(connection) and not self._is_closed:
                self._idle.append(connection)
            else:
                _throw_away(connection)

    def _take(self) -> Connection:
        """The connection that was used last, or a new one. The database may have ended those that were idle."""
        while self._idle:
            connection = self._idle.pop()
            if _is_sound(connection):
                return connection
            _throw_away(connection)
        return _connect(self._async_engine.sync_engine)


def _sqlstate(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")


def _connect(engine: Engine) -> Connection:
    """A connection. Raises `Unavailable` where there is none to be had, whatever the reason."""
    try:
        return engine.connect()
    except (OSError, DBAPIError) as error:
        raise Unavailable(_AWAY) from error


def _in_transaction(connection: Connection, begin: str, unit: Callable[[Connection], T]) -> T:
    driver = driver_of(connection)
    driver.run(begin, [()])
    try:
        result = unit(connection)
    except BaseException:
        with suppress(DBAPIError):  # What is not rolled back is thrown away.
            driver.run("ROLLBACK", [()])
        raise
    try:
        driver.run("COMMIT", [()])
    except DBAPIError as error:
        if error.connection_invalidated:
            # Whether it was written, nobody knows: it must not be done again.
            raise Unavailable(_AWAY) from error
        raise
    return result


def _is_sound(connection: Connection) -> bool:
    """Whether the connection is there, and nothing is left of what was done on it."""
    if connection.invalidated:
        return False
    driver: Any = connection.connection.driver_connection
    return not driver.is_closed() and not driver.is_in_transaction()


def _throw_away(connection: Connection) -> None:
    connection.invalidate()
    connection.close()


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        connect_args={"check_same_thread": False, "timeout": 30},
        pool_size=_SQLITE_READERS + 1,
        max_overflow=0,
        hide_parameters=True,  # Errors are logged, and the values are people's.
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # The driver begins nothing by itself; `begin` below does.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=4000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes the lock at once: upgrading a read lock later could fail.
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN IMMEDIATE"))

    return engine
