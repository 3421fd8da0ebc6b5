"""The way to other servers, and what is known of them."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from homeserver.app import identity
from homeserver.app.parts.foundation import Foundation
from homeserver.matrix.server_keys import PublishedKey
from homeserver.outbound.destinations import Destinations
from homeserver.outbound.ephemeral import Ephemeral
from homeserver.outbound.federation import FederationClient
from homeserver.outbound.http import opened
from homeserver.outbound.keyring import KeyRing
from homeserver.outbound.transport import Transport
from homeserver.services.rooms.author import Author


@dataclass(frozen=True)
class Outside:
    """Who we are to others, and how we call them."""

    author: Author
    transport: Transport
    destinations: Destinations
    ephemeral: Ephemeral
    federation: FederationClient
    keys: KeyRing
    old_keys: Mapping[str, PublishedKey]


async def open_outside(foundation: Foundation, transport: Transport | None, stack: AsyncExitStack) -> Outside:
    """Build the part; `transport` is what stands in for the network, if something does."""
    config, clock, randomness = foundation.config, foundation.clock, foundation.randomness
    key = await identity.signing_key_of(foundation.database, config, randomness)
    author = Author(config.server_name, key, clock, randomness)
    if transport is None:
        transport = await stack.enter_async_context(opened(config.federation, clock, randomness, foundation.metrics))
    destinations = Destinations(clock, randomness)
    client = FederationClient(transport, destinations, config.server_name, author.key)
    old_keys = {one.key_id: PublishedKey(one.public_key, one.expired_ts) for one in config.federation.old_keys}
    notaries = config.federation.notaries
    keys = KeyRing(foundation.database, clock, client, config.server_name, author.key, old=old_keys, notaries=notaries)
    stack.push_async_callback(keys.close)
    return Outside(author, transport, destinations, Ephemeral(), client, keys, old_keys)
