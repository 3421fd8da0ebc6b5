"""Events: how they come into a room, from here and from elsewhere."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from homeserver.app.parts.foundation import Foundation
from homeserver.app.parts.outside import Outside
from homeserver.matrix.identifiers import RoomId, ServerName
from homeserver.services.rooms.admission import Admission
from homeserver.services.rooms.arrival import Arrivals
from homeserver.services.rooms.askable import Askable
from homeserver.services.rooms.backfill import Backfill
from homeserver.services.rooms.checks import Checks
from homeserver.services.rooms.completion import Completion
from homeserver.services.rooms.founding import Founding
from homeserver.services.rooms.gap_filling import GapFilling
from homeserver.services.rooms.gaps import Gaps
from homeserver.services.rooms.graph import Graph
from homeserver.services.rooms.hot import HotRooms
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.merge import Merger
from homeserver.services.rooms.outliers import Outliers
from homeserver.services.rooms.past import Past
from homeserver.services.rooms.persist import EventWriter
from homeserver.services.rooms.policy import PolicyServers
from homeserver.services.rooms.redactions import Redactions
from homeserver.services.rooms.replay import Replay
from homeserver.services.rooms.resolution import Resolver
from homeserver.services.rooms.searches import Searches
from homeserver.services.rooms.send import Sender
from homeserver.services.rooms.server_acl import ServerAcls
from homeserver.services.rooms.signatures import Signatures
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.state_requests import StateRequests
from homeserver.services.rooms.states_elsewhere import StatesElsewhere
from homeserver.services.rooms.waiting import WaitingEvents


@dataclass(frozen=True)
class RoomGraph:
    """The rooms in memory, and the ways by which an event gets its place in one."""

    trees: StateTrees
    hot: HotRooms
    resolver: Resolver
    server_acls: ServerAcls
    signatures: Signatures
    inbox: Inbox
    gaps: Gaps
    backfill: Backfill
    arrivals: Arrivals
    completion: Completion
    sender: Sender


def build_graph(foundation: Foundation, outside: Outside, stack: AsyncExitStack) -> RoomGraph:
    """Build the part."""
    config, database, clock = foundation.config, foundation.database, foundation.clock
    metrics, background = foundation.metrics, foundation.background
    author, client, name = outside.author, outside.federation, config.server_name

    trees = StateTrees()
    hot = HotRooms(database, trees, config.room_memory_mib << 20)
    writer = EventWriter(database, hot, trees, background, name)
    resolver = Resolver(database, trees)
    graph = Graph(database, trees, hot, resolver)
    server_acls = ServerAcls(hot)
    policies = PolicyServers(client, clock, name)
    merger = Merger(clock, hot, writer, graph, author, policies, name)
    sender = Sender(database, clock, hot, writer, merger, author, policies)

    signatures = Signatures(outside.keys)
    checks, outliers = Checks(signatures), Outliers(database, clock, writer, Redactions(database, trees))
    waiting, founding = WaitingEvents(database), Founding(database, clock, writer, checks)
    admission = Admission(clock, hot, writer, graph, merger, policies, waiting)
    inbox = Inbox(database, hot, checks, founding, outliers, admission, waiting)

    requests = StateRequests(client)
    states_elsewhere = StatesElsewhere(database, trees, inbox, requests)
    askable = Askable(server_acls, name)
    gap_searches: Searches[tuple[RoomId, ServerName]] = Searches(clock, background)
    history_searches: Searches[RoomId] = Searches(clock, background)
    stack.push_async_callback(gap_searches.close)
    stack.push_async_callback(history_searches.close)
    filling = GapFilling(database, hot, inbox, states_elsewhere, client)
    per_server = config.federation.searches_per_server
    gaps = Gaps(database, hot, filling, metrics, askable, gap_searches, name, searches_per_server=per_server)
    past = Past(database, clock, trees, hot, writer, graph, inbox, outliers)
    backfill = Backfill(database, hot, inbox, states_elsewhere, past, client, metrics, askable, history_searches)

    arrivals = Arrivals(database, clock, hot, trees, writer, inbox, checks, outliers, name)
    replay = Replay(database, trees, hot, resolver, name)
    completion = Completion(database, clock, metrics, requests, hot, trees, inbox, checks, outliers, replay, name)
    return RoomGraph(
        trees=trees,
        hot=hot,
        resolver=resolver,
        server_acls=server_acls,
        signatures=signatures,
        inbox=inbox,
        gaps=gaps,
        backfill=backfill,
        arrivals=arrivals,
        completion=completion,
        sender=sender,
    )
