"""What clients see of each other: presence, profiles, media, and all of it in `/sync`."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from homeserver.app.parts.foundation import Foundation
from homeserver.app.parts.graph import RoomGraph
from homeserver.app.parts.outside import Outside
from homeserver.app.parts.people import People
from homeserver.outbound.blobs import DiskBlobs
from homeserver.services.live.counter import LiveCounter
from homeserver.services.live.presence import Presence
from homeserver.services.live.receipts import Receipts
from homeserver.services.live.typing import Typing
from homeserver.services.media.elsewhere import MediaElsewhere
from homeserver.services.media.store import MediaStore
from homeserver.services.media.thumbnails import Thumbnails
from homeserver.services.sync.notifications import Notifications
from homeserver.services.sync.unread import Unread
from homeserver.services.sync.v2 import Sync
from homeserver.services.users.profiles import Profiles
from homeserver.services.users.profiles_elsewhere import ProfilesElsewhere
from homeserver.services.users.to_device import ToDevice


@dataclass(frozen=True)
class Live:
    """What is shown to people besides the events of rooms."""

    profiles: Profiles
    receipts: Receipts
    typing: Typing
    presence: Presence
    to_device: ToDevice
    media: MediaStore
    notifications: Notifications
    sync: Sync


def build_live(
    foundation: Foundation, people: People, outside: Outside, graph: RoomGraph, stack: AsyncExitStack
) -> Live:
    """Build the part."""
    config, database, clock, notifier = foundation.config, foundation.database, foundation.clock, foundation.notifier
    name, ephemeral, hot, trees = config.server_name, outside.ephemeral, graph.hot, graph.trees

    counter = LiveCounter(clock)
    typing = Typing(database, clock, notifier, counter, hot, ephemeral, name)
    stack.callback(typing.close)
    presence = Presence(database, clock, notifier, counter, ephemeral, name, is_enabled=config.presence)
    unread = Unread(trees, people.push_rules)
    return Live(
        profiles=Profiles(database, ProfilesElsewhere(outside.federation, clock), name),
        receipts=Receipts(database, clock, hot, ephemeral, name),
        typing=typing,
        presence=presence,
        to_device=ToDevice(database, clock, foundation.randomness, people.limits, outside.destinations, name),
        media=_media(foundation, outside, stack),
        notifications=Notifications(database, clock, trees, people.push_rules, unread),
        sync=Sync(database, clock, notifier, trees, counter, typing, presence, people.push_rules, unread, hot),
    )


def _media(foundation: Foundation, outside: Outside, stack: AsyncExitStack) -> MediaStore:
    config, database = foundation.config, foundation.database
    clock, randomness = foundation.clock, foundation.randomness
    largest, room = config.limits.upload_bytes, config.limits.remote_media_bytes
    blobs = DiskBlobs(Path(config.data_dir) / "media")
    thumbnails = Thumbnails(blobs)
    stack.callback(thumbnails.close)
    elsewhere = MediaElsewhere(
        database, clock, randomness, outside.federation, blobs, thumbnails, largest=largest, room=room
    )
    return MediaStore(
        database,
        clock,
        randomness,
        foundation.notifier,
        blobs,
        thumbnails,
        elsewhere,
        server_name=config.server_name,
        largest=largest,
    )
