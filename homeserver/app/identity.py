"""Whose the database is: under another name, or with another key, a server makes what no other server believes."""

from collections.abc import Mapping, Sequence

from homeserver.app import signing_key
from homeserver.config.model import Config
from homeserver.errors import ConfigError
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import domain_of
from homeserver.matrix.signing import SigningKey
from homeserver.storage import server_keys, users
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.server_keys import ServerKey

_FOR_EVER = 2**53 - 1


async def signing_key_of(database: Database, config: Config, randomness: Randomness) -> SigningKey:
    """The key of the server whose database this is; a new one where there was none.

    Raises `ConfigError` if the database is another server's, or if a key is not known by which this one has signed.
    """
    is_there = signing_key.path_of(config).exists()
    key = signing_key.ensure(config, randomness) if is_there else None
    # Before a new key is made in the place of one that is missing.
    faults, kept = await database.read(_look, config, key)
    if faults:
        raise ConfigError(faults)
    key = key or signing_key.ensure(config, randomness)
    if key.key_id not in kept:
        own = ServerKey(config.server_name, key.key_id, key.public_key, _FOR_EVER)
        await database.write(server_keys.put_many, [own])
    return key


def _look(
    tx: ReadTx, config: Config, key: SigningKey | None
) -> tuple[Sequence[tuple[str, str]], Mapping[str, ServerKey]]:
    """What is wrong, and the keys that this server has had."""
    faults = []
    somebody = users.find_any(tx)
    if somebody is not None and domain_of(somebody) != config.server_name:
        faults.append(
            (
                "server_name",
                f"The database is that of {domain_of(somebody)}, which cannot become {config.server_name}: the name is "
                "in all that it has signed. Put the old name back, or begin with an empty database.",
            )
        )
        return faults, {}
    kept = server_keys.find_of_server(tx, config.server_name)
    known = {one.key_id: one.public_key for one in config.federation.old_keys}
    if key is not None:
        known[key.key_id] = key.public_key
    for lost in kept.values():
        if known.get(lost.key_id) != lost.public_key:
            faults.append(
                (
                    "signing_key_path",
                    f"This server has signed with the key {lost.key_id}, which {signing_key.path_of(config)} does not "
                    "hold. Restore that file. If the key is given up, or lost, name it in federation.old_keys, so that "
                    f"old events can be checked still: key_id {lost.key_id}, public_key {lost.public_key}, expired_ts "
                    "the time (ms) until which it was used.",
                )
            )
    return faults, kept
