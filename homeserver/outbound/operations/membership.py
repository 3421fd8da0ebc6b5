"""Joining, leaving, knocking and inviting by way of other servers."""

from collections.abc import Collection, Sequence

import msgspec

from homeserver.matrix.identifiers import EventId, RoomId, ServerName, UserId
from homeserver.outbound.operations.asking import LARGEST_STATE, LONG_TIMEOUT_S, V1, V2, Asking, Json, part

Raw = msgspec.Raw


class Template(msgspec.Struct, frozen=True):
    """A membership event that another server proposes (`make_join`, `make_leave`, `make_knock`)."""

    event: Raw
    room_version: str = "1"


class Joined(msgspec.Struct, frozen=True):
    """What `send_join` tells about the room."""

    state: list[Raw]
    auth_chain: list[Raw]
    event: Raw = Raw(b"null")
    """The join with the signature of the server, where it had to authorise it."""
    members_omitted: bool = False
    servers_in_room: list[str] | None = None


class Knocked(msgspec.Struct, frozen=True):
    """What `send_knock` tells about the room."""

    knock_room_state: list[Raw]


class Invited(msgspec.Struct, frozen=True):
    """An invite with the signature of the invited user's server."""

    event: Raw


class Membership(Asking):
    """These operations."""

    async def make_join(
        self, destination: ServerName, room_id: RoomId, user_id: UserId, versions: Collection[str]
    ) -> Template:
        """A join to be completed and signed."""
        target = f"{V1}/make_join/{part(room_id)}/{part(user_id)}"
        return await self._call(
            "makeJoin", destination, "GET", target, Template, query=[("ver", one) for one in versions]
        )

    async def send_join(
        self, destination: ServerName, room_id: RoomId, event_id: EventId, pdu: bytes, *, omit_members: bool
    ) -> Joined:
        """Join."""
        return await self._call(
            "sendJoinV2",
            destination,
            "PUT",
            f"{V2}/send_join/{part(room_id)}/{part(event_id)}",
            Joined,
            query=[("omit_members", "true")] if omit_members else [],
            content=Raw(pdu),
            timeout_s=LONG_TIMEOUT_S,
            largest=LARGEST_STATE,
        )

    async def make_knock(
        self, destination: ServerName, room_id: RoomId, user_id: UserId, versions: Collection[str]
    ) -> Template:
        """A knock to be completed and signed."""
        target = f"{V1}/make_knock/{part(room_id)}/{part(user_id)}"
        return await self._call(
            "makeKnock", destination, "GET", target, Template, query=[("ver", one) for one in versions]
        )

    async def send_knock(self, destination: ServerName, room_id: RoomId, event_id: EventId, pdu: bytes) -> Knocked:
        """Knock."""
        target = f"{V1}/send_knock/{part(room_id)}/{part(event_id)}"
        return await self._call("sendKnock", destination, "PUT", target, Knocked, content=Raw(pdu))

    async def make_leave(self, destination: ServerName, room_id: RoomId, user_id: UserId) -> Template:
        """A leave to be completed and signed."""
        return await self._call(
            "makeLeave", destination, "GET", f"{V1}/make_leave/{part(room_id)}/{part(user_id)}", Template
        )

    async def send_leave(self, destination: ServerName, room_id: RoomId, event_id: EventId, pdu: bytes) -> None:
        """Leave."""
        target = f"{V2}/send_leave/{part(room_id)}/{part(event_id)}"
        await self._call("sendLeaveV2", destination, "PUT", target, Json, content=Raw(pdu))

    async def send_invite(
        self,
        destination: ServerName,
        room_id: RoomId,
        event_id: EventId,
        pdu: bytes,
        *,
        room_version: str,
        invite_room_state: Sequence[bytes],
    ) -> Invited:
        """Invite a user of that server."""
        body = {
            "room_version": room_version,
            "event": Raw(pdu),
            "invite_room_state": [Raw(event) for event in invite_room_state],
        }
        target = f"{V2}/invite/{part(room_id)}/{part(event_id)}"
        return await self._call("sendInviteV2", destination, "PUT", target, Invited, content=body)

    async def send_invite_v1(self, destination: ServerName, room_id: RoomId, event_id: EventId, pdu: bytes) -> Raw:
        """Invite a user of an older server, in rooms of version 1 or 2; the event as signed there."""
        target = f"{V1}/invite/{part(room_id)}/{part(event_id)}"
        # The answer is a pair of a status and an object.
        pair = await self._call("sendInviteV1", destination, "PUT", target, tuple[int, Invited], content=Raw(pdu))
        return pair[1].event

    async def exchange_third_party_invite(self, destination: ServerName, room_id: RoomId, event: Json) -> None:
        """Ask a server in the room to turn a third-party invite into one."""
        target = f"{V1}/exchange_third_party_invite/{part(room_id)}"
        await self._call("exchangeThirdPartyInvite", destination, "PUT", target, Json, content=event)
