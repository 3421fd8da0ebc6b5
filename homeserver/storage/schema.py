"""The metadata of all tables, for migrations: importing this module imports every module that declares some."""

from homeserver.storage import (
    aliases,
    devices,
    events,
    interactive,
    members,
    rooms,
    sessions,
    state,
    stream_rows,
    transactions,
    users,
)
from homeserver.storage.tables import metadata

__all__ = [
    "aliases",
    "devices",
    "events",
    "interactive",
    "members",
    "metadata",
    "rooms",
    "sessions",
    "state",
    "stream_rows",
    "transactions",
    "users",
]
