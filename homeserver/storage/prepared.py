"""Statements as the driver takes them: made once, and from then on handed over past SQLAlchemy's layers.

These cost some 80 µs for each execution, several times what the driver and PostgreSQL's protocol do. That matters for
the few statements that are run with every event, and that return nothing, or one number.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import asyncpg
from sqlalchemy import Connection, Dialect, Executable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.util import await_only

Row = Mapping[str, Any]


def said(error: BaseException, *, is_gone: bool) -> DBAPIError:
    """An error of the library, as SQLAlchemy says it; the connection may be gone by it."""
    return DBAPIError(None, None, error, hide_parameters=True, connection_invalidated=is_gone)


class Driver(Protocol):
    """A connection as the library of the database has it."""

    def run(self, sql: str, rows: Sequence[Sequence[Any]]) -> None: ...

    def value(self, sql: str, row: Sequence[Any]) -> Any: ...


class _Asyncpg:
    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    def run(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        if len(rows) == 1:
            self._wait(self._connection.execute(sql, *rows[0]))
        else:
            self._wait(self._connection.executemany(sql, rows))

    def value(self, sql: str, row: Sequence[Any]) -> Any:
        return self._wait(self._connection.fetchval(sql, *row))

    def _wait(self, work: Awaitable[Any]) -> Any:
        """What comes of it; what goes wrong as SQLAlchemy says it."""
        try:
            return await_only(work)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise said(error, is_gone=self._connection.is_closed()) from error
        except asyncpg.InternalClientError as error:
            # The database has said that it ends the connection, and the library did not expect to be told anything.
            self._connection.terminate()
            raise said(error, is_gone=True) from error


class _Sqlite:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(sql, rows)

    def value(self, sql: str, row: Sequence[Any]) -> Any:
        return self._connection.execute(sql, row).fetchone()[0]


def driver_of(connection: Connection) -> Driver:
    """What is behind the connection."""
    driver: Any = connection.connection.driver_connection
    return _Sqlite(driver) if isinstance(driver, sqlite3.Connection) else _Asyncpg(driver)


class Prepared:
    """A statement for one kind of database. Its parameters are named, each time the same."""

    def __init__(self, statement: Executable, dialect: Dialect, names: Iterable[str]) -> None:
        compiled = cast(ClauseElement, statement).compile(dialect=dialect, column_keys=list(names))
        assert isinstance(compiled, SQLCompiler)
        self.sql = compiled.string
        self._parameters = [
            (name, _processor(compiled, name, dialect), compiled.params.get(name))
            for name in compiled.positiontup or ()
        ]

    def arguments(self, row: Row) -> list[Any]:
        """The parameters of one execution in their order, as the driver takes them."""
        return [
            row.get(name, default) if process is None else process(row.get(name, default))
            for name, process, default in self._parameters
        ]


_known: dict[tuple[Executable, str], Prepared] = {}


def prepared(statement: Executable, row: Row, dialect: Dialect) -> Prepared:
    """The statement, prepared when it is wanted for the first time."""
    found = _known.get((statement, dialect.name))
    if found is None:
        found = _known[statement, dialect.name] = Prepared(statement, dialect, row)
    return found


def _processor(compiled: SQLCompiler, name: str, dialect: Dialect) -> Callable[[Any], Any] | None:
    kind = compiled.binds[name].type
    return kind.dialect_impl(dialect).bind_processor(dialect)
