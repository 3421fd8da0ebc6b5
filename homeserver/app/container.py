"""Every long-lived object, built in the order of this file and closed in reverse."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from homeserver.config.model import Config
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.services.auth.interactive import InteractiveAuth
from homeserver.services.auth.passwords import Passwords
from homeserver.services.auth.sessions import Sessions
from homeserver.services.users.accounts import Accounts
from homeserver.storage import stream_rows
from homeserver.storage.engine import Database
from homeserver.streams.notifier import Notifier


@dataclass(frozen=True)
class Container:
    """What handlers may ask for, by type."""

    config: Config
    clock: Clock
    randomness: Randomness
    metrics: Metrics
    database: Database
    notifier: Notifier
    sessions: Sessions
    passwords: Passwords
    interactive: InteractiveAuth
    accounts: Accounts


@asynccontextmanager
async def build(config: Config, *, clock: Clock, randomness: Randomness, metrics: Metrics) -> AsyncIterator[Container]:
    """Open everything; what was opened is closed when the block ends."""
    async with AsyncExitStack() as stack:
        notifier = Notifier()
        database = await stack.enter_async_context(
            Database.open(config.effective_database_url, on_commit=notifier.changed)
        )
        notifier.begin(await database.read(stream_rows.current))
        lifetime_s = config.limits.access_token_lifetime_s
        sessions = Sessions(database, clock, randomness, lifetime_ms=lifetime_s * 1000 if lifetime_s else None)
        passwords = Passwords(config.passwords)
        stack.callback(passwords.close)
        accounts = Accounts(database, clock, randomness, sessions, passwords, config.server_name)
        yield Container(
            config=config,
            clock=clock,
            randomness=randomness,
            metrics=metrics,
            database=database,
            notifier=notifier,
            sessions=sessions,
            passwords=passwords,
            interactive=InteractiveAuth(database, clock, randomness),
            accounts=accounts,
        )
