"""Joining, leaving and moderating rooms (client-server API, Room membership)."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import field

from homeserver.errors import InvalidParam, MissingParam, Unsupported
from homeserver.http.bodies import Body, Empty, Query, identifier
from homeserver.http.endpoint import USER, USER_OR_GUEST, Endpoint
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import RoomId, UserId, domain_of
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.directory import Directory
from homeserver.services.rooms.members import Members
from homeserver.services.rooms.read import RoomReader
from homeserver.services.rooms.third_party import Proof, ThirdPartyInvites
from homeserver.streams.positions import RoomToken


class WithReason(Body, frozen=True):
    reason: str | None = None


class Join(Body, frozen=True):
    reason: str | None = None
    third_party_signed: dict[str, Any] | None = None


class Servers(Query, frozen=True):
    """Servers by which to reach a room that this one does not know; `server_name` is the older name."""

    via: list[str] = field(default_factory=list)
    server_name: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """Both."""
        return [*self.via, *self.server_name]


Membership = Literal["join", "invite", "knock", "leave", "ban"]


class MembersQuery(Query, frozen=True):
    at: str | None = None
    membership: Membership | None = None
    not_membership: Membership | None = None


class Target(Body, frozen=True):
    user_id: str
    reason: str | None = None


class Invite(Body, frozen=True):
    """Somebody by user id, or, in the other form of the endpoint, by an address elsewhere."""

    user_id: str | None = None
    reason: str | None = None
    medium: str | None = None


async def join(
    room_id: RoomId, body: Join, who: Requester, members: Members, third_party: ThirdPartyInvites
) -> dict[str, Any]:
    return await _join(room_id, (), body, who, members, third_party)


async def join_by_name(
    room_id_or_alias: str,
    query: Servers,
    body: Join,
    who: Requester,
    members: Members,
    directory: Directory,
    third_party: ThirdPartyInvites,
) -> dict[str, Any]:
    room_id, servers = await directory.locate(room_id_or_alias)
    return await _join(room_id, [*query.all, *servers], body, who, members, third_party)


async def knock(
    room_id_or_alias: str, query: Servers, body: WithReason, who: Requester, members: Members, directory: Directory
) -> dict[str, Any]:
    room_id, servers = await directory.locate(room_id_or_alias)
    await members.knock(who, room_id, via=[*query.all, *servers], reason=body.reason)
    return {"room_id": room_id}


async def leave(room_id: RoomId, body: WithReason, who: Requester, members: Members) -> Empty:
    await members.leave(who.user_id, room_id, reason=body.reason)
    return Empty()


async def forget(room_id: RoomId, who: Requester, members: Members) -> Empty:
    await members.forget(who, room_id)
    return Empty()


async def invite(room_id: RoomId, body: Invite, who: Requester, members: Members) -> Empty:
    if body.user_id is None:
        if body.medium is not None:
            raise Unsupported("M_THREEPID_DENIED", "This server invites nobody by e-mail or telephone.", status=403)
        raise MissingParam("The invite needs a `user_id`.")
    await members.invite(who.user_id, room_id, _user(body.user_id), reason=body.reason)
    return Empty()


async def kick(room_id: RoomId, body: Target, who: Requester, members: Members) -> Empty:
    await members.kick(who.user_id, room_id, _user(body.user_id), reason=body.reason)
    return Empty()


async def ban(room_id: RoomId, body: Target, who: Requester, members: Members) -> Empty:
    await members.ban(who.user_id, room_id, _user(body.user_id), reason=body.reason)
    return Empty()


async def unban(room_id: RoomId, body: Target, who: Requester, members: Members) -> Empty:
    await members.unban(who.user_id, room_id, _user(body.user_id), reason=body.reason)
    return Empty()


async def joined_rooms(who: Requester, members: Members) -> dict[str, Any]:
    return {"joined_rooms": await members.joined_rooms(who.user_id)}


async def members_of(room_id: RoomId, query: MembersQuery, who: Requester, reader: RoomReader) -> dict[str, Any]:
    def wanted(membership: str) -> bool:
        # The two are joined by "or"; with neither, all are wanted.
        if query.membership is None and query.not_membership is None:
            return True
        return membership == query.membership or (
            query.not_membership is not None and membership != query.not_membership
        )

    at = RoomToken.parse(query.at) if query.at else None
    return {"chunk": await reader.members(who, room_id, at, wanted)}


async def joined_members(room_id: RoomId, who: Requester, reader: RoomReader) -> dict[str, Any]:
    return {"joined": await reader.joined_members(who, room_id)}


async def _join(
    room_id: RoomId,
    via: Sequence[str],
    body: Join,
    who: Requester,
    members: Members,
    third_party: ThirdPartyInvites,
) -> dict[str, Any]:
    via = list(via)
    if body.third_party_signed is not None:
        sender = body.third_party_signed.get("sender")
        if not isinstance(sender, str):
            raise InvalidParam("`third_party_signed` names its `sender`.")
        await third_party.redeem(who.user_id, room_id, sender, Proof.parse(body.third_party_signed))
        via.append(domain_of(sender))
    await members.join(who, room_id, via=via, reason=body.reason)
    return {"room_id": room_id}


def _user(text: str) -> UserId:
    return identifier(identifiers.user_id, text)


ENDPOINTS = [
    Endpoint("POST", "/join/{room_id_or_alias}", join_by_name, auth=USER_OR_GUEST, limit="join", body=Join),
    Endpoint("POST", "/knock/{room_id_or_alias}", knock, auth=USER, limit="join", body=WithReason),
    Endpoint("POST", "/rooms/{room_id}/join", join, auth=USER_OR_GUEST, limit="join", body=Join),
    Endpoint("POST", "/rooms/{room_id}/leave", leave, auth=USER_OR_GUEST, limit=None, body=WithReason),
    Endpoint("POST", "/rooms/{room_id}/forget", forget, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("POST", "/rooms/{room_id}/invite", invite, auth=USER, limit="invite", body=Invite),
    Endpoint("POST", "/rooms/{room_id}/kick", kick, auth=USER, limit="moderate", body=Target),
    Endpoint("POST", "/rooms/{room_id}/ban", ban, auth=USER, limit="moderate", body=Target),
    Endpoint("POST", "/rooms/{room_id}/unban", unban, auth=USER, limit="moderate", body=Target),
    Endpoint("GET", "/rooms/{room_id}/members", members_of, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", "/rooms/{room_id}/joined_members", joined_members, auth=USER_OR_GUEST, limit=None, body=None),
    Endpoint("GET", "/joined_rooms", joined_rooms, auth=USER_OR_GUEST, limit=None, body=None),
]
