"""Brings a database to the schema that this release needs."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config as AlembicConfig

from homeserver.config.model import Config

_REPOSITORY = Path(__file__).parents[2]


async def migrate(config: Config) -> None:
    """Run every migration that the database has not had yet."""
    await asyncio.to_thread(command.upgrade, alembic_config(config.effective_database_url), "head")


def alembic_config(url: str) -> AlembicConfig:
    """What Alembic needs to know for the database at this URL."""
    settings = AlembicConfig()
    settings.set_main_option("script_location", str(_REPOSITORY / "migrations"))
    settings.attributes["url"] = url
    return settings
