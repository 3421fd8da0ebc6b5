"""The metadata of all tables, for migrations: importing this module imports every module that declares some."""

from homeserver.storage import devices, interactive, sessions, stream_rows, users
from homeserver.storage.tables import metadata

__all__ = ["devices", "interactive", "metadata", "sessions", "stream_rows", "users"]
