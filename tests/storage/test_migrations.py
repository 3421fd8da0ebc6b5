"""The migrations make exactly the tables that the code declares, and an upgrade from each of them works."""

import asyncio
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from homeserver.app.migrations import alembic_config
from homeserver.storage.schema import metadata
from tests.processes.postgres import Postgres
from tests.processes.server import sqlite_url

REVISIONS = [script.revision for script in ScriptDirectory.from_config(alembic_config("")).walk_revisions()][::-1]


def differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


async def schema_differences(url: str) -> list[object]:
    engine = create_async_engine(url, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        found = await connection.run_sync(differences)
    await engine.dispose()
    return found


async def test_the_migrated_schema_is_the_declared_one(database_url: str) -> None:
    assert await schema_differences(database_url) == []


@pytest.mark.parametrize("revision", REVISIONS)
async def test_upgrade_from_each_revision_on_sqlite(revision: str, tmp_path: Path) -> None:
    await upgrade_in_two_steps(sqlite_url(tmp_path / "old.db"), revision)


@pytest.mark.postgres
@pytest.mark.parametrize("revision", REVISIONS)
async def test_upgrade_from_each_revision_on_postgresql(revision: str, postgres: Postgres) -> None:
    with postgres.database() as url:
        await upgrade_in_two_steps(url, revision)


async def upgrade_in_two_steps(url: str, revision: str) -> None:
    config = alembic_config(url)
    await asyncio.to_thread(command.upgrade, config, revision)
    await asyncio.to_thread(command.upgrade, config, "head")
    assert await schema_differences(url) == []


async def test_data_from_before_is_said_to_be_its_users_on_sqlite(tmp_path: Path) -> None:
    assert await users_of_old_data(sqlite_url(tmp_path / "old.db")) == {1: "@alice:a.test", 2: "@bob:a.test"}


@pytest.mark.postgres
async def test_data_from_before_is_said_to_be_its_users_on_postgresql(postgres: Postgres) -> None:
    with postgres.database() as url:
        assert await users_of_old_data(url) == {1: "@alice:a.test", 2: "@bob:a.test"}


async def users_of_old_data(url: str) -> dict[int, str]:
    """Whose data for other servers is, by position, that was stored before anybody wrote that down."""
    config = alembic_config(url)
    content = {
        1: '{"sender": "@alice:a.test", "type": "m.test", "message_id": "\\u0000\\ud800", "messages": {}}',
        2: '{"user_id": "@bob:a.test", "device_id": "D", "stream_id": 1}',
    }
    await asyncio.to_thread(command.upgrade, config, "0090")
    engine = create_async_engine(url, poolclass=pool.NullPool)
    async with engine.begin() as connection:
        for position, told in content.items():
            row = {"position": position, "content": told.encode()}
            insert = "INSERT INTO outgoing_edus VALUES ('b.test', :position, 'm.test', :content, NULL)"
            await connection.execute(text(insert), row)
    await asyncio.to_thread(command.upgrade, config, "head")
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT position, user_id FROM outgoing_edus"))
        users = {row.position: row.user_id for row in found}
    await engine.dispose()
    return users


def test_migrations_are_numbered_in_their_order() -> None:
    # A start looks at the largest number alone, to find out whether there is anything to do.
    assert sorted(REVISIONS) == REVISIONS
