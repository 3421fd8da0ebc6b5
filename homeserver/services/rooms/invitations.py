"""Invites that servers send for users of this one (server-server API, Inviting to a room).

This server signs nothing but what it has checked, field by field, to be an invite of one of its users. Of a room that
it is not in it believes no more than it has to: the invite is kept beside the rooms (`storage/out_of_room.py`), with
what the inviting server said about the room.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec

from homeserver.errors import Forbidden, InvalidParam, NotFound, Unsupported
from homeserver.matrix import identifiers
from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.events import Event, MalformedEvent
from homeserver.matrix.identifiers import EventId, InvalidIdentifier, Origin, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.services.auth.limits import host_of
from homeserver.services.rooms.author import Author
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.members import Members
from homeserver.services.rooms.remote_members import outsider_of, put_outsider
from homeserver.services.rooms.resident import parse_submitted
from homeserver.services.rooms.send import Sender, is_local
from homeserver.services.rooms.server_acl import ServerAcls
from homeserver.services.rooms.signatures import Signatures, signers_of
from homeserver.services.rooms.stripped import Stripper
from homeserver.storage import out_of_room
from homeserver.storage.engine import Database, WriteTx
from homeserver.storage.out_of_room import Outsider


class _Head(msgspec.Struct, frozen=True):
    type: str
    state_key: str


_decode_head = msgspec.json.Decoder(_Head).decode

_LARGEST = 1 << 14
_MOST_OF_HOST = 200
_MOST = 1000
"""All of a user's invites come in one answer to a sync: what one server may send, and all, has to end somewhere."""
_ENDED = 100


class Invitations:
    """Receives invites."""

    def __init__(
        self,
        database: Database,
        sender: Sender,
        members: Members,
        acls: ServerAcls,
        signatures: Signatures,
        stripper: Stripper,
        author: Author,
    ) -> None:
        self._database = database
        self._sender = sender
        self._members = members
        self._acls = acls
        self._signatures = signatures
        self._stripper = stripper
        self._author = author

    async def receive(
        self,
        origin: Origin,
        room_id: RoomId,
        event_id: EventId,
        version_name: str,
        pdu: bytes,
        state: Sequence[bytes],
    ) -> bytes:
        """The invite with our signature.

        Raises `InvalidParam` for what is no such invite, `M_INCOMPATIBLE_ROOM_VERSION`, and `Forbidden` or
        `M_INVITE_BLOCKED` where it is not wanted.
        """
        room = await self._find(room_id)
        if room is not None and not self._acls.allows(room, origin):
            raise Forbidden("The room does not let this server take part.")
        version = ROOM_VERSIONS.get(version_name)
        if version is None:
            raise Unsupported(
                "M_INCOMPATIBLE_ROOM_VERSION",
                "This server does not support the version of the room.",
                room_version=version_name,
            )
        event = parse_submitted(pdu, version.identifier, room_id, event_id)
        user_id = self._invited(origin, event)
        # By a third-party invite a room may speak for a user; the server that asks us must have signed all the same.
        wrong = await self._signatures.check_one(event, signers_of(event) | {origin})
        if wrong is not None:
            raise InvalidParam(wrong)
        # Older servers send less than they should, and their rooms' ids prove nothing.
        stripped = await self._stripper.strip(version, room_id, state, is_strict=version.room_ids_are_hashes)
        await self._check_wanted(user_id)
        if len(event.stripped_json()) > _LARGEST:
            raise InvalidParam("The invite is too large.")
        signed = self._author.countersign(event)
        if room is not None and self._author.server_name in room.servers:
            # It comes again, among the events of the room, and is taken then.
            if room.membership_of(user_id) in ("join", "ban"):
                raise Forbidden("The user is in the room, or banned from it.")
        else:
            await self._database.write(_put_invite, outsider_of(signed, stripped, [origin]))
        return signed.pdu

    async def receive_end(self, origin: ServerName, room_id: RoomId, pdu: bytes) -> EventId | None:
        """Take an event that withdraws an invite to a room that this server is not in, or turns down a knock on it.

        None if it is nothing of the kind. The rules of the room cannot be asked here, so it has to come from whoever
        sent the invite, or from a server through which the room was reached, or else to cite the invite or the knock,
        as it should: of that only those know who are in the room.
        """
        try:
            head = _decode_head(pdu)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if head.type != "m.room.member" or not is_local(head.state_key, self._author.server_name):
            return None
        held = await self._database.read(out_of_room.find, UserId(head.state_key), room_id)
        if held is None or held.membership not in ("invite", "knock"):
            return None
        try:
            event = Event.parse(pdu, held.version)
            before = Event.parse(held.pdu, held.version)
        except (CanonicalJsonError, MalformedEvent):
            return None
        if event.room_id != room_id or event.membership not in ("leave", "ban") or not event.content_hash_matches():
            return None
        is_to_be_heard = event.sender == held.sender or origin in held.servers or before.event_id in event.auth_events
        if domain_of(event.sender) != origin or not is_to_be_heard:
            return None
        # What the invite stands on came before it.
        if event.event_id in before.auth_events or await self._signatures.check_one(event, signers_of(event)):
            return None
        await self._database.write(_put_end, outsider_of(event, [], held.servers))
        return EventId(event.event_id)

    def _invited(self, origin: Origin, event: Event) -> UserId:
        if event.type != "m.room.member" or event.membership != "invite":
            raise InvalidParam("The event is no invite.")
        if domain_of(event.sender) != origin:
            raise InvalidParam("The sender is no user of the server that sent the invite.")
        try:
            user_id = identifiers.user_id(event.state_key or "")
        except InvalidIdentifier as error:
            raise InvalidParam(str(error)) from None
        if not is_local(user_id, self._author.server_name):
            raise InvalidParam("The invite is for no user of this server.")
        return user_id

    async def _check_wanted(self, user_id: UserId) -> None:
        try:
            await self._members.invite_contents([user_id])
        except NotFound:
            raise Forbidden("There is no such user on this server.") from None

    async def _find(self, room_id: RoomId) -> HotRoom | None:
        try:
            return await self._sender.room(room_id)
        except NotFound:
            return None


def _put_invite(tx: WriteTx, invite: Outsider) -> None:
    """Record an invite. Raises `Forbidden` if the user has too many."""
    by_host = Counter[str]()
    for sender, number in out_of_room.count_invites(tx, invite.user_id, besides=invite.room_id).items():
        by_host[host_of(ServerName(domain_of(sender)))] += number
    if by_host[host_of(ServerName(domain_of(invite.sender)))] >= _MOST_OF_HOST or by_host.total() >= _MOST:
        raise Forbidden("The user has too many open invites.")
    put_outsider(tx, invite)


def _put_end(tx: WriteTx, end: Outsider) -> None:
    """Record the end of an invite or a knock."""
    put_outsider(tx, end)
    out_of_room.remove_old_ended(tx, end.user_id, kept=_ENDED)
