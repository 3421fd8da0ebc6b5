"""Brings a database to the schema that this release needs."""

import asyncio
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from homeserver.config.model import Config
from homeserver.storage.engine import Database, ReadTx

_REPOSITORY = Path(__file__).parents[2]
_MIGRATIONS = _REPOSITORY / "migrations"


async def migrate(config: Config) -> None:
    """Run every migration that the database has not had yet."""
    url = config.effective_database_url
    if not await is_current(url):
        await asyncio.to_thread(_upgrade, url)


def alembic_config(url: str) -> Any:
    """What Alembic needs to know for the database at this URL."""
    settings = import_module("alembic.config").Config()
    settings.set_main_option("script_location", str(_MIGRATIONS))
    settings.attributes["url"] = url
    return settings


def _upgrade(url: str) -> None:
    # Alembic is loaded only when there is something to do: it is ten megabytes that a server need not hold.
    import_module("alembic.command").upgrade(alembic_config(url), "head")


async def is_current(url: str) -> bool:
    """Whether the database has the schema of this release."""
    newest = max(path.name[:4] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))
    async with Database.open(url) as database:
        try:
            return await database.read(_version) == newest
        except DBAPIError:
            return False  # There is no table of versions yet.


def _version(tx: ReadTx) -> str | None:
    return tx.connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
