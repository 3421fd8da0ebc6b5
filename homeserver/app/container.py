"""Every long-lived object, built in the order of this file and closed in reverse."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from homeserver.app import signing_key
from homeserver.config.model import Config
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import Background
from homeserver.kit.logs import report
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.services.auth.interactive import InteractiveAuth
from homeserver.services.auth.passwords import Passwords
from homeserver.services.auth.sessions import Sessions
from homeserver.services.rooms.create import RoomCreation
from homeserver.services.rooms.hot import HotRooms
from homeserver.services.rooms.members import Members
from homeserver.services.rooms.persist import EventWriter
from homeserver.services.rooms.read import RoomReader
from homeserver.services.rooms.send import Author, Sender
from homeserver.services.rooms.state import StateTrees
from homeserver.services.sync.v2 import Sync
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
    sender: Sender
    members: Members
    room_creation: RoomCreation
    room_reader: RoomReader
    sync: Sync


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
        author = Author(config.server_name, signing_key.ensure(config, randomness), clock, randomness)
        trees = StateTrees()
        hot = HotRooms(database, trees)
        background = Background(report)
        stack.push_async_callback(background.close)
        sender = Sender(database, clock, hot, EventWriter(database, hot, trees, background), author)
        members = Members(database, sender, config.server_name)
        stack.callback(notifier.wake_all)
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
            sender=sender,
            members=members,
            room_creation=RoomCreation(clock, sender, members, author, default_version=config.default_room_version),
            room_reader=RoomReader(database, clock, trees),
            sync=Sync(database, clock, notifier, trees),
        )
