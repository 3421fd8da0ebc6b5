from collections.abc import AsyncIterator

import pytest

from homeserver.storage.engine import Database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database of either kind."""
    async with Database.open(database_url) as database:
        yield database
