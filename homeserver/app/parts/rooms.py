"""What people do with rooms."""

from dataclasses import dataclass

from homeserver.app.parts.foundation import Foundation
from homeserver.app.parts.graph import RoomGraph
from homeserver.app.parts.outside import Outside
from homeserver.services.rooms.create import RoomCreation
from homeserver.services.rooms.directories_elsewhere import DirectoriesElsewhere
from homeserver.services.rooms.directory import Directory
from homeserver.services.rooms.glance import Glances
from homeserver.services.rooms.guests import Guests
from homeserver.services.rooms.hierarchy import Hierarchy
from homeserver.services.rooms.joining import Joining
from homeserver.services.rooms.members import Members
from homeserver.services.rooms.nearest import NearestEvents
from homeserver.services.rooms.partial import PartialRooms
from homeserver.services.rooms.purge import Purge
from homeserver.services.rooms.read import RoomReader
from homeserver.services.rooms.relations import Relations
from homeserver.services.rooms.remote_members import RemoteMembers
from homeserver.services.rooms.signed_elsewhere import SignedElsewhere
from homeserver.services.rooms.spaces_elsewhere import SpacesElsewhere
from homeserver.services.rooms.state_events import StateEvents
from homeserver.services.rooms.stripped import Stripper
from homeserver.services.rooms.succession import Succession
from homeserver.services.rooms.summaries import Summaries
from homeserver.services.rooms.upgrade import RoomUpgrade


@dataclass(frozen=True)
class Rooms:
    """Making, entering, reading, finding and removing rooms."""

    stripper: Stripper
    partial_rooms: PartialRooms
    guests: Guests
    members: Members
    room_creation: RoomCreation
    room_reader: RoomReader
    nearest_events: NearestEvents
    relations: Relations
    room_upgrade: RoomUpgrade
    directory: Directory
    glances: Glances
    hierarchy: Hierarchy
    state_events: StateEvents
    purge: Purge


def build_rooms(foundation: Foundation, outside: Outside, graph: RoomGraph) -> Rooms:
    """Build the part."""
    config, database, clock = foundation.config, foundation.database, foundation.clock
    author, client, name = outside.author, outside.federation, config.server_name
    sender, trees = graph.sender, graph.trees

    stripper = Stripper(graph.signatures)
    remote_members = RemoteMembers(database, clock, client, author, graph.signatures, graph.arrivals, stripper)
    succession = Succession(database, trees)
    known_in_part = PartialRooms(database, foundation.notifier)
    spaces_elsewhere = SpacesElsewhere(client, clock)
    guests = Guests(database, sender, trees, name)
    signed = SignedElsewhere(graph.inbox, graph.gaps)
    joining = Joining(database, sender, guests, succession, remote_members, signed, spaces_elsewhere, name)
    members = Members(database, sender, joining, remote_members, signed, known_in_part, name)
    creation = RoomCreation(clock, sender, members, author, default_version=config.default_room_version)
    reader = RoomReader(database, clock, trees, known_in_part, graph.backfill)
    summaries = Summaries(trees)
    directory = Directory(database, clock, sender, summaries, DirectoriesElsewhere(client), name)
    holder = foundation.randomness.letters(16)
    return Rooms(
        stripper=stripper,
        partial_rooms=known_in_part,
        guests=guests,
        members=members,
        room_creation=creation,
        room_reader=reader,
        nearest_events=NearestEvents(database, graph.hot, graph.inbox, reader, graph.backfill, client),
        relations=Relations(database, reader),
        room_upgrade=RoomUpgrade(database, sender, members, creation, author),
        directory=directory,
        glances=Glances(database, summaries, spaces_elsewhere, name),
        hierarchy=Hierarchy(database, trees, summaries, spaces_elsewhere, name),
        state_events=StateEvents(sender, members, guests, directory),
        purge=Purge(database, clock, trees, graph.hot, graph.resolver, sender, server_name=name, holder=holder),
    )
