"""Who of the other servers may take part in a room (server-server API, Server Access Control Lists)."""

from homeserver.errors import Forbidden
from homeserver.kit.caching import Lru
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import RoomId, ServerName
from homeserver.matrix.server_acl import ServerAcl
from homeserver.services.rooms.hot import HotRoom, HotRooms

_KEPT = 1000


class ServerAcls:
    """Asks the current state of rooms."""

    def __init__(self, hot: HotRooms) -> None:
        self._hot = hot
        self._parsed: Lru[str, tuple[Event, ServerAcl]] = Lru(_KEPT)

    async def check(self, room_id: RoomId, server: ServerName) -> None:
        """Raise `Forbidden` if the room keeps the server out; `NotFound` if the room is not known."""
        if not self.allows(await self._hot.find(room_id), server):
            raise Forbidden("The room does not let this server take part.")

    def allows(self, room: HotRoom, server: ServerName) -> bool:
        """Whether the room lets the server take part, by its current state."""
        event = room.state.get(("m.room.server_acl", ""))
        if event is None:
            return True
        known = self._parsed.get(event.event_id)
        # Redacted it has another content, and the same id. As it names nobody then, nobody is let in.
        if known is None or known[0] is not event:
            known = event, ServerAcl(event.content_json)
            self._parsed.put(event.event_id, known)
        return known[1].allows(server)
