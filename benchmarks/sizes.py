"""How many bytes each table and each index of a database takes."""

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.processes.postgres import Postgres

Sizes = dict[str, int]
"""By `table` or `table: index`; what an index that belongs to a key is called is the database's affair."""

_POSTGRES = """
SELECT coalesce(t.relname || ': ', '') || c.relname, pg_table_size(c.oid)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_index i ON i.indexrelid = c.oid
LEFT JOIN pg_class t ON t.oid = i.indrelid
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'i')
"""
_SQLITE = """
SELECT CASE WHEN m.type = 'index' THEN m.tbl_name || ': ' || m.name ELSE s.name END, sum(s.pgsize)
FROM dbstat s LEFT JOIN sqlite_master m ON m.name = s.name
GROUP BY 1
"""


def of_postgres(server: Postgres, database: str) -> Sizes:
    """After a checkpoint and a vacuum of what was left behind, as an hour of an ordinary server would do it."""
    server.execute("VACUUM", database=database)
    rows = server.execute(_POSTGRES.replace("\n", " "), database=database).splitlines()
    return {name: int(size) for name, size in (row.rsplit("|", 1) for row in rows)}


def of_sqlite(path: Path) -> Sizes:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute(_SQLITE).fetchall())


def grown(before: Sizes, after: Sizes) -> Sizes:
    """What has grown, the most first."""
    more = {name: size - before.get(name, 0) for name, size in after.items()}
    return dict(sorted(((name, size) for name, size in more.items() if size > 0), key=lambda item: -item[1]))


def show(what: str, growth: Sizes, count: int, *, least: float = 0.5) -> None:
    """Print bytes for each of `count` things."""
    print(f"| {what}: bytes per {'' if count == 1 else 'one of '}{count:,} | |")
    print("|---|---|")
    print(f"| all | {sum(growth.values()) / count:.1f} |")
    for name, size in growth.items():
        if size / count >= least:
            print(f"| {name} | {size / count:.1f} |")
    print()
