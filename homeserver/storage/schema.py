"""The metadata of all tables, for migrations: importing this module imports every module that declares some."""

from homeserver.storage import devices, sessions, stream_rows, users
from homeserver.storage.tables import metadata

__all__ = ["devices", "metadata", "sessions", "stream_rows", "users"]
