"""Invites by an address elsewhere, once an identity server says whose it is (client-server API, Third-party invites).

Whoever may invite offers it by an `m.room.third_party_invite` event, which has the public keys of an identity server.
That server signs, for the user who proves to have the address, the token of the offer. The inviter's server makes an
invite of it, for which it asks the identity server whether its key is still good; all others only check the signature,
lest they should come to different rooms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote

import msgspec
import structlog

from homeserver.errors import Forbidden, InvalidParam, NotFound, RemoteFailure, RequestError
from homeserver.matrix import identifiers
from homeserver.matrix.canonical import CanonicalJsonError, canonical_json
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import InvalidIdentifier, Origin, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.signing import SignatureError, verify_json
from homeserver.outbound.federation import FederationClient
from homeserver.outbound.transport import Transport
from homeserver.services.auth.limits import Limits, host_of
from homeserver.services.rooms.author import Drafts
from homeserver.services.rooms.hot import HotRoom, parse
from homeserver.services.rooms.members import Members
from homeserver.services.rooms.power import may_act
from homeserver.services.rooms.refusals import for_client
from homeserver.services.rooms.send import Sender, is_local
from homeserver.services.rooms.server_acl import ServerAcls
from homeserver.storage import events, members, users
from homeserver.storage.engine import Database, ReadTx

log = structlog.get_logger()

Json = dict[str, Any]

MOST_INVITES = 50
_OFFER = "m.room.third_party_invite"
_MOST_KEYS = 20
_MOST_SIGNATURES = 10
"""More are not tried, each with every key of the offer: who asks chooses their number."""
_MOST_CHANGES = 200
"""So many of a user's memberships are looked through for one that came of the same offer."""
_TIMEOUT_S = 10.0
_LARGEST = 1 << 14
_LARGEST_SIGNED = 1 << 13
_STANDARD_ALPHABET = str.maketrans("-_", "+/")
"""The public keys of an offer may be in either alphabet of base64."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What an identity server signed: that a user is whom the offer of this token is for."""

    mxid: UserId
    token: str
    signed: Json

    @classmethod
    def parse(cls, value: Any) -> "Proof":
        """The proof. Raises `InvalidParam`; nothing is verified."""
        if not isinstance(value, dict):
            raise InvalidParam("`signed` is an object.")
        signed = value  # All of it was signed, whatever it is.
        if len(msgspec.json.encode(signed)) > _LARGEST_SIGNED:
            raise InvalidParam("`signed` is too large.")
        texts = [signed.get("mxid"), signed.get("token"), signed.get("sender", "")]
        if not all(isinstance(text, str) and "\0" not in text for text in texts):
            raise InvalidParam("`signed` has a `mxid` and a `token`, which are texts.")
        try:
            given = msgspec.convert(signed.get("signatures"), dict[str, dict[str, str]])
            return cls(identifiers.user_id(signed["mxid"]), signed["token"], {**signed, "signatures": given})
        except (InvalidIdentifier, msgspec.ValidationError) as error:
            raise InvalidParam(f"`signed` is not well formed: {error}") from None


@dataclass(frozen=True, slots=True)
class _Key:
    public_key: str
    validity_url: str | None


class ThirdPartyInvites:
    """Makes invites of offers."""

    def __init__(
        self,
        database: Database,
        sender: Sender,
        members: Members,
        acls: ServerAcls,
        client: FederationClient,
        transport: Transport,
        limits: Limits,
        server_name: str,
    ) -> None:
        self._database = database
        self._sender = sender
        self._members = members
        self._acls = acls
        self._client = client
        self._transport = transport
        self._limits = limits
        self._server_name = server_name

    async def exchange(self, origin: Origin, room_id: RoomId, sender: str, target: str, proof: Proof) -> None:
        """Invite a user of that server, in the name of one of ours who made the offer (SS-3PI-02)."""
        room = await self._sender.room(room_id)
        if self._server_name not in room.servers:
            raise NotFound("This server is not in the room.")
        if not self._acls.allows(room, origin):
            raise Forbidden("The room does not let this server take part.")
        if target != proof.mxid:
            raise InvalidParam("What was signed is for another user.")
        if domain_of(target) != origin:
            raise Forbidden("A server may only ask for its own users.")
        await self._issue(room, UserId(sender), proof)

    async def bind(self, user_id: UserId, invites: Sequence[tuple[RoomId, str, Proof]]) -> None:
        """An identity server found out whose an address is: turn the offers to it into invites (SS-3PI-01).

        Offers, with room and sender, that come to nothing are passed over; nobody is there to be told.
        """
        if (await self._database.read(users.find, user_id)) is None or not is_local(user_id, self._server_name):
            raise NotFound("There is no such user on this server.")
        for room_id, sender, proof in invites[:MOST_INVITES]:
            if proof.mxid != user_id:
                continue
            try:
                await self.redeem(user_id, room_id, sender, proof)
            except (RequestError, RemoteFailure) as failure:
                log.info("third-party invite came to nothing", room_id=room_id, user_id=user_id, reason=str(failure))

    async def redeem(self, user_id: UserId, room_id: RoomId, sender: str, proof: Proof) -> None:
        """Have an offer turned into an invite for a user of this server, here or by the server of whoever made it."""
        if proof.mxid != user_id:
            raise Forbidden("What was signed is for another user.")
        if is_local(sender, self._server_name):
            await self._issue(await self._sender.room(room_id), UserId(sender), proof)
            return
        invite = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": sender,
            "state_key": user_id,
            "content": {
                "membership": "invite",
                "third_party_invite": {"display_name": user_id, "signed": proof.signed},
            },
        }
        if not identifiers.is_server_name(domain_of(sender)):
            raise InvalidParam("The sender is no user.")
        # Whoever has an address bound, which is nobody we know, chooses who is asked.
        self._limits.take("offers", host_of(ServerName(domain_of(sender))))
        try:
            await self._client.exchange_third_party_invite(ServerName(domain_of(sender)), room_id, invite)
        except RemoteFailure as failure:
            raise for_client(failure) from None

    async def _issue(self, room: HotRoom, sender: UserId, proof: Proof) -> None:
        """Send the invite, if the offer stands and everything about it is as it has to be."""
        if not is_local(sender, self._server_name):
            raise Forbidden("The offer was made by nobody of this server.")
        offer = await self._sender.look(room.room_id, lambda drafts: _offer(drafts, sender, proof))
        await self._check_key(_signing_key(offer, proof))
        if await self._database.snapshot(_is_used, room, proof):
            raise Forbidden("The invite was used before.")
        name = offer.content.get("display_name")
        content = {
            "membership": "invite",
            "third_party_invite": {"display_name": name if isinstance(name, str) else "", "signed": proof.signed},
        }
        await self._members.invite_contents([proof.mxid])
        await self._members.issue(sender, room.room_id, proof.mxid, content)

    async def _check_key(self, key: _Key) -> None:
        """Ask whether the key was revoked, where that can be asked. Raises `Forbidden`."""
        if key.validity_url is None:
            return
        joint = "&" if "?" in key.validity_url else "?"
        url = f"{key.validity_url}{joint}public_key={quote(key.public_key, safe='')}"
        try:
            reply = await self._transport.fetch(url, timeout_s=_TIMEOUT_S, largest=_LARGEST)
        except RemoteFailure:
            raise Forbidden("The identity server cannot be asked whether its key is good.") from None
        try:
            is_valid = reply.status == 200 and msgspec.json.decode(reply.body, type=_Validity).valid
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            is_valid = False
        if not is_valid:
            raise Forbidden("The key of the identity server is not good any more.")


class _Validity(msgspec.Struct, frozen=True):
    valid: bool


def _offer(drafts: Drafts, sender: UserId, proof: Proof) -> Event:
    """The offer, if who made it may still make good on it. Raises `Forbidden`.

    The rules of the room would allow more: the offer stands though who made it has left, or lost the power to invite.
    This server does not speak for such users.
    """
    offer = drafts.state(_OFFER, proof.token)
    if offer is None or offer.sender != sender:
        raise Forbidden("The room has no such offer.")
    power_levels, create = drafts.state("m.room.power_levels"), drafts.state("m.room.create")
    assert create is not None
    if drafts.room.membership_of(sender) != "join" or not may_act(sender, "invite", power_levels, create):
        raise Forbidden("Who made the offer may not invite any more.")
    if drafts.room.membership_of(proof.mxid) in ("join", "ban"):
        raise Forbidden("The user is in the room, or banned from it.")
    return offer


def _signing_key(offer: Event, proof: Proof) -> _Key:
    """The key of the offer by which the proof is signed. Raises `Forbidden`."""
    signed = _canonical(proof.signed)
    named = ((signer, key_id) for signer, signatures in proof.signed["signatures"].items() for key_id in signatures)
    tried = list(islice(named, _MOST_SIGNATURES))
    for key in _keys(offer.content):
        for signer, key_id in tried:
            try:
                verify_json(signed, signer, key_id, key.public_key.translate(_STANDARD_ALPHABET))
            except (SignatureError, CanonicalJsonError):
                continue
            return key
    raise Forbidden("What was signed is signed by no key of the offer.")


def _canonical(signed: Json) -> bytes:
    try:
        return canonical_json(signed)
    except CanonicalJsonError as error:
        raise InvalidParam(str(error)) from None


def _keys(content: Json) -> list[_Key]:
    listed = content.get("public_keys")
    found = [content, *(listed[:_MOST_KEYS] if isinstance(listed, list) else [])]
    return [
        _Key(one["public_key"], url if isinstance(url := one.get("key_validity_url"), str) else None)
        for one in found
        if isinstance(one, dict) and isinstance(one.get("public_key"), str)
    ]


def _is_used(tx: ReadTx, room: HotRoom, proof: Proof) -> bool:
    """Whether the user was invited by this offer before, and the invite is not open any more."""
    assert room.room_nid is not None
    member = members.find(tx, room.room_nid, proof.mxid)
    position = None if member is None or member.membership == "invite" else member.event
    for _ in range(_MOST_CHANGES):
        row = events.find_many(tx, [position]).get(position) if position is not None else None
        if row is None:
            return False
        offer = parse(row, room.version.identifier).content.get("third_party_invite")
        signed = offer.get("signed") if isinstance(offer, dict) else None
        if isinstance(signed, dict) and signed.get("token") == proof.token:
            return True
        position = row.replaces
    return True
