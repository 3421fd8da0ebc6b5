"""Whom to ask about a room."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from homeserver.matrix.identifiers import ServerName, domain_of
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.server_acl import ServerAcls

_SERVERS = 4
"""So many are asked, at most."""


class Askable:
    """Chooses servers."""

    def __init__(self, acls: ServerAcls, server_name: str) -> None:
        self._acls = acls
        self._server_name = server_name

    def servers(self, room: HotRoom, first: Iterable[ServerName]) -> list[ServerName]:
        """Those that are given, then those with the most users in the room; none that the room keeps out."""
        members = Counter(ServerName(domain_of(user_id)) for user_id in room.joined)
        most = [server for server, _ in members.most_common(2 * _SERVERS)]
        # Of a room that is known in part, members are missing, and their servers are not.
        found = dict.fromkeys([*first, *most, *sorted(room.servers)])
        fit = (one for one in found if one != self._server_name and self._acls.allows(room, one))
        return list(islice(fit, _SERVERS))
