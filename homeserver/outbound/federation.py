"""Calls to other servers, one function for each operation of the server-server API; they are in `operations`, by area.

What comes back is decoded as far as the specification fixes it, and nothing in it is believed: events are bytes, to
be taken in through `services/rooms`. Whoever is asked may be slow, gone or lying: each call is bounded in time and
size, and raises `Unreachable` where there is no usable answer, `Refused` where there is an error.
"""

from homeserver.outbound.operations.directory import Directory
from homeserver.outbound.operations.graph import Graph
from homeserver.outbound.operations.media import Media
from homeserver.outbound.operations.membership import Membership
from homeserver.outbound.operations.servers import Servers
from homeserver.outbound.operations.transactions import Transactions
from homeserver.outbound.operations.users import Users


class FederationClient(Transactions, Membership, Graph, Directory, Users, Servers, Media):
    """Asks other servers, in the name of this one."""
