"""The metadata of all tables, for migrations: importing this module imports every module that declares some."""

from homeserver.storage import stream_rows
from homeserver.storage.tables import metadata

__all__ = ["metadata", "stream_rows"]
