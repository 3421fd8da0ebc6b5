"""Every long-lived object, built in the order of this file and closed in reverse."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from homeserver.config.model import Config
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.storage.engine import Database


@dataclass(frozen=True)
class Container:
    """What handlers may ask for, by type."""

    config: Config
    clock: Clock
    randomness: Randomness
    metrics: Metrics
    database: Database


@asynccontextmanager
async def build(config: Config, *, clock: Clock, randomness: Randomness, metrics: Metrics) -> AsyncIterator[Container]:
    """Open everything; what was opened is closed when the block ends."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(config.effective_database_url))
        yield Container(config=config, clock=clock, randomness=randomness, metrics=metrics, database=database)
