"""What every table definition needs: the one MetaData, with names for all constraints."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from sqlalchemy import Delete, Dialect, MetaData, Table, bindparam, delete, select, tuple_
from sqlalchemy import Text as PlainText
from sqlalchemy.types import TypeDecorator

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
