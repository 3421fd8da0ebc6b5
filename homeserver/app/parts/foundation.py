"""What everything else stands on."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from homeserver.config.model import Config
from homeserver.errors import ConfigError
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import Background
from homeserver.kit.logs import report
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.storage import stream_rows
from homeserver.storage.engine import Database
from homeserver.storage.occupancy import Occupancy, occupancy
from homeserver.streams.notifier import Notifier


@dataclass(frozen=True)
class Foundation:
    """The outside world as the code sees it, the database, and the news of what was committed."""

    config: Config
    clock: Clock
    randomness: Randomness
    metrics: Metrics
    database: Database
    occupancy: Occupancy
    notifier: Notifier
    background: Background


async def open_foundation(
    config: Config, clock: Clock, randomness: Randomness, metrics: Metrics, stack: AsyncExitStack, *, is_server: bool
) -> Foundation:
    """Open the database, which only one server has at a time. Raises `ConfigError`."""
    ours = await stack.enter_async_context(occupancy(config.effective_database_url, clock))
    if is_server and not await ours.take():
        raise ConfigError([("database_url", "Another server process has this database: end it first.")])
    notifier = Notifier()
    database = await stack.enter_async_context(Database.open(config.effective_database_url, on_commit=notifier.changed))
    notifier.begin(await database.read(stream_rows.current))
    background = Background(report)
    stack.push_async_callback(background.close)
    return Foundation(config, clock, randomness, metrics, database, ours, notifier, background)
