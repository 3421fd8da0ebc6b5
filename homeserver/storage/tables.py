"""What every table definition needs: the one MetaData, with names for all constraints."""

from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Delete,
    Dialect,
    MetaData,
    Table,
    bindparam,
    delete,
    select,
    tuple_,
)
from sqlalchemy import Text as PlainText
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from homeserver.errors import InvalidParam

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


T = TypeVar("T")

# Both databases limit the number of parameters of a statement, to about 32,000.
_PARAMETERS = 10_000


def chunks(values: Iterable[T], size: int = _PARAMETERS) -> Iterator[list[T]]:
    """The values in parts that one statement can name."""
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part


def some_of_room(table: Table) -> Delete:
    """A statement that removes some of a room's rows from a table: at most `limit`, of the room `nid`."""
    keys = list(table.primary_key.columns)
    some = select(*keys).where(table.c.room_nid == bindparam("nid")).limit(bindparam("limit"))
    return delete(table).where((tuple_(*keys) if len(keys) > 1 else keys[0]).in_(some))


class Text(TypeDecorator[str]):
    """Text that both databases can hold: PostgreSQL takes no NUL, so nobody may store one (C24)."""

    impl = PlainText
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """The value itself. Raises `InvalidParam` where it has a NUL."""
        if value is not None and "\0" in value:
            raise InvalidParam("Text may not have a NUL character in it.")
        return value


class _Numbers(TypeDecorator[Collection[int]]):
    """Any number of numbers in one parameter: an array, or JSON where there are no arrays."""

    impl = PlainText
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(BigInteger()) if dialect.name == "postgresql" else PlainText())

    def process_bind_param(self, value: Collection[int] | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value if value is None else list(value)
        return msgspec.json.encode(list(value)).decode()


class among(FunctionElement[bool]):  # noqa: N801 - it reads as the function that it is in SQL
    """Whether the column is one of the numbers in the parameter of this name.

    A list of parameters is another statement for each length of it, to be prepared anew, and slow to make.
    """

    type = Boolean()
    inherit_cache = True

    def __init__(self, column: Column[Any], name: str) -> None:
        super().__init__(column, bindparam(name, type_=_Numbers()))

    def self_group(self, against: Any = None) -> Any:
        """Itself: compared with 1, as truth is where it is no type, it would find nothing by an index."""
        return self


@compiles(among)
def _in_json(element: among, compiler: SQLCompiler, **options: Any) -> str:
    column, numbers = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({numbers}))"  # noqa: S608 - made of rendered clauses


@compiles(among, "postgresql")
def _in_array(element: among, compiler: SQLCompiler, **options: Any) -> str:
    column, numbers = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} = ANY ({numbers})"


class domain(FunctionElement[str]):  # noqa: N801 - it reads as the function that it is in SQL
    """What stands behind the first colon of an identifier."""

    type = Text()
    inherit_cache = True


@compiles(domain)
def _domain(element: domain, compiler: SQLCompiler, **options: Any) -> str:
    identifier = compiler.process(element.clauses, **options)
    return f"substr({identifier}, instr({identifier}, ':') + 1)"


@compiles(domain, "postgresql")
def _domain_on_postgresql(element: domain, compiler: SQLCompiler, **options: Any) -> str:
    identifier = compiler.process(element.clauses, **options)
    return f"substr({identifier}, strpos({identifier}, ':') + 1)"
