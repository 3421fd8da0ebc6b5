"""Public keys of servers, by which their events are checked."""

from collections.abc import Collection

from homeserver.matrix.signing import SigningKey
from homeserver.storage import server_keys
from homeserver.storage.engine import Database
from homeserver.storage.server_keys import KeyName, ServerKey

_FOR_EVER = 2**53 - 1


class KeyRing:
    """Finds keys: this server's own, and those of others that were kept."""

    def __init__(self, database: Database, server_name: str, key: SigningKey) -> None:
        self._database = database
        self._own = ServerKey(server_name, key.key_id, key.public_key, _FOR_EVER)

    async def find(self, names: Collection[KeyName]) -> dict[KeyName, ServerKey]:
        """Those of the keys that can be had."""
        own = (self._own.server_name, self._own.key_id)
        found = {own: self._own} if own in names else {}
        others = [name for name in names if name != own]
        if others:
            found |= await self._database.read(server_keys.find_many, others)
        return found
