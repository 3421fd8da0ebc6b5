"""This server's seat in a room, for users of servers that are not in it: they join, knock and leave through it.

Nothing that comes from them is believed: an event is checked field by field to be the one membership event that the
request is for, before it is taken in as any other event of another server is, and before this server adds its
signature where that lets the user in (server-server API, Joining Rooms, Knocking upon a room, Leaving Rooms).
"""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.errors import Forbidden, InvalidParam, NotFound, Unsupported
from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.events import Event, MalformedEvent
from homeserver.matrix.identifiers import EventId, Origin, RoomId, ServerName, UserId, domain_of
from homeserver.services.rooms.auth_chain import auth_chain
from homeserver.services.rooms.author import Author, Draft, Drafts
from homeserver.services.rooms.checks import MAX_AUTH_EVENTS, MAX_PREV_EVENTS
from homeserver.services.rooms.conditions import (
    AUTHORISED,
    Whereabouts,
    allowed_rooms,
    authoriser_of,
    find_whereabouts,
)
from homeserver.services.rooms.hot import HotRoom, parse
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.partial import check_whole
from homeserver.services.rooms.receipts import Outcome
from homeserver.services.rooms.send import Sender
from homeserver.services.rooms.server_acl import ServerAcls
from homeserver.services.rooms.signatures import Signatures, signers_of
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.stripped import stripped_state
from homeserver.services.rooms.verdicts import auth_keys, state_refusal
from homeserver.storage import events, members, rooms
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.state import Pair

_HEROES = 5
_FEW_MEMBERS = 100
"""Up to so many members, none is left out: to ask for them would take longer than to be told."""
_AT_ONCE = 1000
"""So many events of an answer are read at once."""

Json = dict[str, Any]

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Template:
    """An event for another server to complete and sign."""

    version: str
    event: Json


@dataclass(frozen=True, slots=True)
class Welcome:
    """What somebody who has joined is told of the room: where its events are stored."""

    event: bytes | None
    """The join with the signature of this server, where that was needed."""
    state: Sequence[int]
    auth_chain: Sequence[int]
    servers: Sequence[ServerName] | None
    """The servers in the room, if members were left out."""


class Resident:
    """Lets users of other servers in and out of rooms that this server is in."""

    def __init__(
        self,
        database: Database,
        sender: Sender,
        inbox: Inbox,
        acls: ServerAcls,
        signatures: Signatures,
        author: Author,
        trees: StateTrees,
    ) -> None:
        self._database = database
        self._sender = sender
        self._inbox = inbox
        self._acls = acls
        self._signatures = signatures
        self._author = author
        self._trees = trees

    async def make_join(self, origin: Origin, room_id: RoomId, user_id: UserId, versions: Collection[str]) -> Template:
        """A join for a user of that server, whose rooms may be of these versions."""
        room = await self._admit(origin, room_id, user_id)
        _check_version(room, versions)
        whereabouts = await self._whereabouts(room, user_id)

        def see(drafts: Drafts) -> Json:
            content = {"membership": "join"}
            authoriser = authoriser_of(drafts, user_id, whereabouts, self._author.server_name)
            if authoriser is not None:
                content[AUTHORISED] = authoriser
            return self._template(drafts, user_id, content)

        return Template(room.version.identifier, await self._sender.look(room_id, see))

    async def make_knock(self, origin: Origin, room_id: RoomId, user_id: UserId, versions: Collection[str]) -> Template:
        """A knock for a user of that server, whose rooms may be of these versions."""
        room = await self._admit(origin, room_id, user_id)
        _check_version(room, versions)
        return await self._make(room, user_id, "knock")

    async def make_leave(self, origin: Origin, room_id: RoomId, user_id: UserId) -> Template:
        """A leave for a user of that server: the end of an invite, a knock or a stay."""
        room = await self._admit(origin, room_id, user_id)
        return await self._make(room, user_id, "leave")

    async def send_join(
        self, origin: Origin, room_id: RoomId, event_id: EventId, pdu: bytes, *, omit_members: bool
    ) -> Welcome:
        """Take a user in. Raises `InvalidParam` for an event that is not their join, `Forbidden` if they may not."""
        room, event = await self._submitted(origin, room_id, event_id, pdu, "join")
        if not omit_members:
            check_whole(room)
        signed = await self._countersigned(room, event)
        servers, is_partial = sorted(room.servers), room.partial is not None
        await self._take(room, signed or event)
        surroundings = await self._database.snapshot(self._surroundings, room_id, event_id, omit_members, is_partial)
        state, chain, is_whole = surroundings
        return Welcome(None if signed is None else signed.pdu, state, chain, None if is_whole else servers)

    async def send_knock(self, origin: Origin, room_id: RoomId, event_id: EventId, pdu: bytes) -> list[bytes]:
        """Take a knock; the events that say what room it is."""
        room, event = await self._submitted(origin, room_id, event_id, pdu, "knock")
        await self._take(room, event)
        return await self._sender.look(room_id, stripped_state)

    async def send_leave(self, origin: Origin, room_id: RoomId, event_id: EventId, pdu: bytes) -> None:
        """Let a user go."""
        room, event = await self._submitted(origin, room_id, event_id, pdu, "leave")
        await self._take(room, event)

    async def tell(self, welcome: Welcome) -> AsyncIterator[bytes]:
        """The answer to a join as JSON text, piece by piece, so that no large room is ever in memory as a whole."""
        yield b'{"members_omitted":' + _encode(welcome.servers is not None)
        if welcome.servers is not None:
            yield b',"servers_in_room":' + _encode(welcome.servers)
        if welcome.event is not None:
            yield b',"event":' + welcome.event
        for name, positions in ((b"state", welcome.state), (b"auth_chain", welcome.auth_chain)):
            yield b',"' + name + b'":['
            for start in range(0, len(positions), _AT_ONCE):
                part = positions[start : start + _AT_ONCE]
                found = await self._database.read(events.find_pdus, part)
                yield (b"," if start else b"") + b",".join(found[position] for position in part if position in found)
            yield b"]"
        yield b"}"

    async def _admit(self, origin: Origin, room_id: RoomId, user_id: str) -> HotRoom:
        """The room, if this server can speak for it to that server, and that server for the user."""
        room = await self._seat(origin, room_id)
        if domain_of(user_id) != origin:
            raise Forbidden("A server may only ask for its own users.")
        _check_known(room, user_id)
        return room

    async def _seat(self, origin: Origin, room_id: RoomId) -> HotRoom:
        """The room, if this server is in it, and it does not keep that server out."""
        room = await self._sender.room(room_id)
        if self._author.server_name not in room.servers:
            raise NotFound("This server is not in the room.")
        if not self._acls.allows(room, origin):
            raise Forbidden("The room does not let this server take part.")
        return room

    async def _make(self, room: HotRoom, user_id: UserId, membership: str) -> Template:
        def see(drafts: Drafts) -> Json:
            return self._template(drafts, user_id, {"membership": membership})

        return Template(room.version.identifier, await self._sender.look(room.room_id, see))

    def _template(self, drafts: Drafts, user_id: UserId, content: Json) -> Json:
        draft = Draft("m.room.member", user_id, content, state_key=user_id)
        template = drafts.template(draft, signer=self._author.server_name if AUTHORISED in content else None)
        # The field means nothing any more, but the specification's data asks for it.
        return {**msgspec.json.decode(template), "origin": self._author.server_name}

    async def _submitted(
        self, origin: Origin, room_id: RoomId, event_id: EventId, pdu: bytes, membership: str
    ) -> tuple[HotRoom, Event]:
        """The event, if it is what it has to be: a membership event of a user of that server about themselves."""
        room = await self._seat(origin, room_id)
        event = parse_submitted(pdu, room.version.identifier, room_id, event_id)
        if event.type != "m.room.member" or event.membership != membership:
            raise InvalidParam(f"The event is no member event of a {membership}.")
        if event.state_key != event.sender:
            raise InvalidParam("The event is about somebody else than its sender.")
        if domain_of(event.sender) != origin:
            raise InvalidParam("The sender is no user of the server that sent the event.")
        # The one signature that may be missing is ours: it is for us to add.
        wrong = await self._signatures.check_one(event, (signers_of(event) - {self._author.server_name}) | {origin})
        if wrong is not None:
            raise InvalidParam(wrong)
        _check_known(room, event.sender)
        return room, event

    async def _countersigned(self, room: HotRoom, event: Event) -> Event | None:
        """The join with our signature, if it says that one of our users lets the sender in; None if it does not.

        It does not become ours by that: whether the user may come in by a condition is found out anew.
        """
        user_id = UserId(event.sender)
        authoriser = event.content.get(AUTHORISED)
        if not room.version.restricted or not isinstance(authoriser, str):
            return None
        if domain_of(authoriser) != self._author.server_name:
            return None
        whereabouts = await self._whereabouts(room, user_id)
        signed = self._author.countersign(event)

        def see(drafts: Drafts) -> None:
            authoriser_of(drafts, user_id, whereabouts, self._author.server_name)
            if authoriser not in drafts.room.joined:
                raise InvalidParam("The user who lets the sender in is not in the room.")
            _check_auth(drafts, signed)

        await self._sender.look(room.room_id, see)
        return signed

    async def _whereabouts(self, room: HotRoom, user_id: UserId) -> Whereabouts:
        rules = room.state.get(("m.room.join_rules", ""))
        allowed = allowed_rooms({} if rules is None else rules.content)
        return await self._database.read(find_whereabouts, user_id, allowed, self._author.server_name)

    async def _take(self, room: HotRoom, event: Event) -> None:
        """Take in an event that was checked. Raises `Forbidden` where the room does not allow it."""
        has_ended = room.membership_of(UserId(event.sender)) in ("leave", "ban") and event.membership != "leave"
        if not has_ended and await self._database.read(_is_accepted, room, event):
            return  # It was handed over before, and the answer did not arrive: the room as it is now is no judge of it.
        if not await self._database.read(_has_place, room, event):
            raise InvalidParam("The event follows, or cites, events that this server does not know in the room.")
        await self._sender.look(room.room_id, lambda drafts: _check_auth(drafts, event))
        origin = ServerName(domain_of(event.sender))
        [receipt] = await self._inbox.receive(room.room_id, [event.pdu], relay_to_all_but=origin)
        match receipt.outcome:
            case Outcome.ACCEPTED:
                return
            case Outcome.REJECTED | Outcome.SOFT_FAILED:
                raise Forbidden(receipt.reason or "The room does not allow this.")
            case _:
                raise InvalidParam(receipt.reason or "The event cannot be placed in the room.")

    def _surroundings(
        self, tx: ReadTx, room_id: RoomId, event_id: EventId, omit_members: bool, is_partial: bool
    ) -> tuple[list[int], list[int], bool]:
        """Where the state before a join is, and the auth chains of all of it; and whether that is all members."""
        room = rooms.find(tx, room_id)
        row = None if room is None else events.find_by_id(tx, room.room_nid, event_id)
        if room is None or row is None:
            raise NotFound("This server does not know the room.")
        state = self._trees.items(tx, row.state_before)
        count = sum(pair[0] == "m.room.member" for pair in state)
        is_whole = not omit_members or (count <= _FEW_MEMBERS and not is_partial)
        if not is_whole:
            kept = self._heroes(tx, room.room_nid, state, UserId(parse(row, room.version).sender))
            state = {pair: at for pair, at in state.items() if pair[0] != "m.room.member" or pair in kept}
        positions = sorted(state.values())
        chain = auth_chain(tx, room, [row.position, *positions])
        if omit_members:
            told = set(positions)
            chain = [position for position in chain if position not in told]
        return positions, chain, is_whole

    @staticmethod
    def _heroes(tx: ReadTx, room_nid: int, state: Collection[Pair], user_id: UserId) -> set[Pair]:
        """The member events by which a room without a name is named (client-server API, Syncing)."""
        if ("m.room.name", "") in state or ("m.room.canonical_alias", "") in state:
            return set()
        heroes = members.list_first(tx, room_nid, ["join", "invite"], but=user_id, limit=_HEROES)
        if not heroes:
            heroes = members.list_first(tx, room_nid, ["leave", "ban"], but=user_id, limit=_HEROES)
        return {("m.room.member", hero) for hero in heroes}


def parse_submitted(pdu: bytes, version: str, room_id: RoomId, event_id: EventId) -> Event:
    """An event that another server hands over for one purpose. Raises `InvalidParam` if it is not what it says."""
    try:
        event = Event.parse(pdu, version)
    except (CanonicalJsonError, MalformedEvent) as error:
        raise InvalidParam(f"This is no event of room version {version}: {error}") from None
    if event.event_id != event_id:
        raise InvalidParam("The event is not the one that the path names.")
    if event.room_id != room_id:
        raise InvalidParam("The event is of another room than the path names.")
    if len(event.prev_events) > MAX_PREV_EVENTS or len(event.auth_events) > MAX_AUTH_EVENTS or not event.prev_events:
        raise InvalidParam("The event names too many events, or too few.")
    if not event.content_hash_matches():
        raise InvalidParam("The content of the event is not what was hashed.")
    return event


def _check_known(room: HotRoom, user_id: str) -> None:
    """Raise `NotFound` if it is not known what the user is in the room: whoever is unknown may have been put out."""
    if not room.state.knows(user_id):
        check_whole(room)


def _check_version(room: HotRoom, versions: Collection[str]) -> None:
    if room.version.identifier not in versions:
        raise Unsupported(
            "M_INCOMPATIBLE_ROOM_VERSION",
            "Your server does not say that it supports the version of the room.",
            room_version=room.version.identifier,
        )


def _check_auth(drafts: Drafts, event: Event) -> None:
    """Raise `Forbidden` unless the room as it is now allows the event."""
    found = [one for key in auth_keys(event) if (one := drafts.state(*key)) is not None]
    if reason := state_refusal(event, found, drafts.state("m.room.create")):
        raise Forbidden(reason)


def _is_accepted(tx: ReadTx, room: HotRoom, event: Event) -> bool:
    """Whether the event has been taken into the room already."""
    event_id = EventId(event.event_id)
    standing = events.find_standings_by_id(tx, [event_id]).get(event_id)
    return standing is not None and standing.room_nid == room.room_nid and standing.status == events.OK


def _has_place(tx: ReadTx, room: HotRoom, event: Event) -> bool:
    """Whether the room has what the event follows and cites."""
    named = {EventId(one) for one in (*event.prev_events, *event.auth_events)}
    standings = events.find_standings_by_id(tx, named).values()
    followed = events.find_in_graph(tx, room.room_nid or 0, [EventId(one) for one in event.prev_events])
    return len({one.event_id for one in standings if one.room_nid == room.room_nid}) == len(named) and (
        followed == set(event.prev_events)
    )
