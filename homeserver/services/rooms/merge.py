"""Bringing many branches of a room together.

An event may follow twenty events at most. Where a room has more ends than that, events that say nothing tie them
together, so that whoever builds upon the room next builds upon all of it, and fewer branches have to be resolved.
"""

from homeserver.errors import Conflict, Forbidden, RemoteFailure, RequestError
from homeserver.kit.clock import Clock
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import domain_of
from homeserver.services.rooms.author import Author, Draft
from homeserver.services.rooms.graph import Graph
from homeserver.services.rooms.hot import HotRoom, HotRooms
from homeserver.services.rooms.persist import EventWriter, Superseded
from homeserver.services.rooms.placement import Batch
from homeserver.services.rooms.policy import PolicyServers
from homeserver.storage.state import Pair

MAX_TIPS = 20
"""So many events an event can follow (server-server API, PDUs)."""
_SPEAKERS = 10
"""So many members are tried, at most, for one who may speak."""
_DUMMY = "org.matrix.dummy_event"
"""What the network uses for this; clients show nothing of it."""


class Merger:
    """Ties branches together."""

    def __init__(
        self,
        clock: Clock,
        hot: HotRooms,
        writer: EventWriter,
        graph: Graph,
        author: Author,
        policies: PolicyServers,
        server_name: str,
    ) -> None:
        self._clock = clock
        self._hot = hot
        self._writer = writer
        self._graph = graph
        self._author = author
        self._policies = policies
        self._server_name = server_name

    def is_needed(self, room: HotRoom) -> bool:
        """Whether the room has more ends than an event can follow."""
        return len(room.latest) > MAX_TIPS

    async def merge(self, room: HotRoom) -> None:
        """Tie ends together until an event can follow them all. Raises `Conflict` where nobody here may do so."""
        while self.is_needed(room):
            async with room.alone():
                if room.is_stale:
                    raise Superseded
                event = await self._tie(room)
                try:
                    event = await self._policies.sign(room, event)
                except (RequestError, RemoteFailure):
                    raise Conflict("The policy server of the room does not let its branches be tied.") from None
                placed = await self._graph.place(room, event)
                if placed.new is None or not placed.new.is_accepted:
                    raise Conflict("The branches of the room cannot be brought together.")
                writing = self._writer.write(Batch(room, [placed.new], now=self._clock.now(), is_local=True))
            await writing

    async def _tie(self, room: HotRoom) -> Event:
        ends = room.latest[:MAX_TIPS]
        speakers = sorted(user for user in room.joined if domain_of(user) == self._server_name)[:_SPEAKERS]
        for user_id in speakers:
            state = await self._graph.state_after(room, ends, [*_NEEDED, ("m.room.member", user_id)])
            member = state.get(("m.room.member", user_id))
            drafts = [Draft(_DUMMY, user_id, {})]
            if member is not None:
                # Who may say nothing may still say again that they are here.
                drafts.append(Draft("m.room.member", user_id, member.content, state_key=user_id))
            for draft in drafts:
                if (event := self._built(room, draft, ends, state)) is not None:
                    return event
        raise Conflict("The room has too many branches, and nobody on this server may bring them together.")

    def _built(self, room: HotRoom, draft: Draft, ends: list[Event], state: dict[Pair, Event]) -> Event | None:
        try:
            return self._author.build(room, draft, ends, lambda kind, key: state.get((kind, key)))
        except Forbidden:
            return None


_NEEDED: tuple[Pair, ...] = (("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", ""))
