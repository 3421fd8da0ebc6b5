"""What other servers are served."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from homeserver.app.parts.foundation import Foundation
from homeserver.app.parts.graph import RoomGraph
from homeserver.app.parts.live import Live
from homeserver.app.parts.outside import Outside
from homeserver.app.parts.people import People
from homeserver.app.parts.rooms import Rooms
from homeserver.outbound.partners import Partners
from homeserver.services.auth.servers import ServerAuth
from homeserver.services.federation.destinations import DestinationReports
from homeserver.services.federation.device_keys import DeviceKeys
from homeserver.services.federation.device_lists import DeviceListUpdates, RemoteDeviceLists, SigningKeyUpdates
from homeserver.services.federation.early import Early
from homeserver.services.federation.edus import Edus
from homeserver.services.federation.history import History
from homeserver.services.federation.live import PresenceEdus, ReceiptEdus, Speakers, TypingEdus
from homeserver.services.federation.room_lines import RoomLines
from homeserver.services.federation.room_reads import RoomReads
from homeserver.services.federation.server_keys import PublishedKeys
from homeserver.services.federation.to_device import DirectToDevice
from homeserver.services.federation.transactions import Transactions
from homeserver.services.rooms.invitations import Invitations
from homeserver.services.rooms.resident import Resident
from homeserver.services.rooms.third_party import ThirdPartyInvites


@dataclass(frozen=True)
class Servers:
    """Who another server is, what it may read, and what becomes of what it sends."""

    server_auth: ServerAuth
    published_keys: PublishedKeys
    destination_reports: DestinationReports
    room_lines: RoomLines
    transactions: Transactions
    device_lists: RemoteDeviceLists
    device_keys: DeviceKeys
    invitations: Invitations
    resident: Resident
    third_party: ThirdPartyInvites
    room_reads: RoomReads
    history: History


def build_servers(
    foundation: Foundation,
    people: People,
    outside: Outside,
    graph: RoomGraph,
    rooms: Rooms,
    live: Live,
    stack: AsyncExitStack,
) -> Servers:
    """Build the part."""
    config, database, clock = foundation.config, foundation.database, foundation.clock
    metrics, background = foundation.metrics, foundation.background
    author, client, keys, name = outside.author, outside.federation, outside.keys, config.server_name
    hot, inbox, sender, acls, signatures = graph.hot, graph.inbox, graph.sender, graph.server_acls, graph.signatures

    invitations = Invitations(database, sender, rooms.members, acls, signatures, rooms.stripper, author)
    device_lists = RemoteDeviceLists(database, clock, client, name)
    speakers = Speakers(acls)
    edus = Edus(
        {
            "m.typing": TypingEdus(live.typing, hot, speakers),
            "m.presence": PresenceEdus(live.presence),
            "m.receipt": ReceiptEdus(live.receipts, hot, speakers),
            "m.direct_to_device": DirectToDevice(database, clock, name),
            "m.device_list_update": DeviceListUpdates(device_lists),
            "m.signing_key_update": SigningKeyUpdates(device_lists),
        },
        metrics,
    )
    room_lines = RoomLines(database, clock, hot, inbox, graph.gaps, metrics, background)
    stack.push_async_callback(room_lines.close)
    early = Early(hot, graph.arrivals, acls, room_lines, background, name)
    stack.push_async_callback(early.close)
    transactions = Transactions(
        database,
        clock,
        hot,
        inbox,
        invitations,
        acls,
        room_lines,
        early,
        edus,
        metrics,
        background,
        name,
        staged_per_server=config.federation.staged_per_server,
    )
    room_reads = RoomReads(database, graph.trees, acls)
    return Servers(
        server_auth=ServerAuth(keys, outside.destinations, clock, Partners(config.federation), people.limits, name),
        published_keys=PublishedKeys(database, clock, keys, people.limits, name, author.key, outside.old_keys),
        destination_reports=DestinationReports(database, clock, outside.destinations),
        room_lines=room_lines,
        transactions=transactions,
        device_lists=device_lists,
        device_keys=DeviceKeys(database, people.e2e_keys, device_lists, client, name),
        invitations=invitations,
        resident=Resident(database, sender, inbox, acls, signatures, author, graph.trees),
        third_party=ThirdPartyInvites(
            database, sender, rooms.members, acls, client, outside.transport, people.limits, name
        ),
        room_reads=room_reads,
        history=History(database, graph.trees, room_reads),
    )
