"""Making events in the name of this server's users: built, signed, and authorised by the state they stand on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from homeserver.errors import BadJson, Forbidden, TooLarge
from homeserver.kit.clock import Clock
from homeserver.kit.randomness import Randomness
from homeserver.matrix import event_auth, signing
from homeserver.matrix.canonical import CanonicalJsonError
from homeserver.matrix.event_auth import AuthError
from homeserver.matrix.event_content import BadContent, check_content
from homeserver.matrix.events import Event, EventTooLarge, MalformedEvent, build_event, build_template
from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.matrix.signing import SigningKey
from homeserver.services.rooms.hot import HotRoom
from homeserver.services.rooms.placement import NewEvent, Redaction

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Draft:
    """What a user wants to say. `content` is a JSON object, as its text or as a value."""

    type: str
    sender: UserId
    content: bytes | dict[str, Any]
    state_key: str | None = None
    redacts: str | None = None

    @property
    def content_json(self) -> bytes:
        """The content as text."""
        return self.content if isinstance(self.content, bytes) else _encode(self.content)


class Drafts:
    """Events that are built one upon the other, in a room."""

    def __init__(self, room: HotRoom, author: "Author") -> None:
        self.room = room
        self.events: list[NewEvent] = []
        self._author = author
        self._changed: dict[tuple[str, str], Event] = {}

    def state(self, type_: str, state_key: str = "") -> Event | None:
        """The state event that is current after what was added so far."""
        changed = self._changed.get((type_, state_key))
        return changed if changed is not None else self.room.state.get((type_, state_key))

    def template(self, draft: Draft, *, signer: str | None = None) -> bytes:
        """What somebody on another server may sign and send: an event without hashes and signatures, authorised as if
        it were signed by `signer` as well. Raises `Forbidden`, `BadJson` or `TooLarge`.
        """
        return self._author.template(self.room, draft, self.room.latest, self.state, signer)

    def add(self, draft: Draft, redaction: Redaction | None = None) -> Event:
        """Build, sign and authorise an event. Raises `Forbidden`, `BadJson` or `TooLarge`."""
        latest = [self.events[-1].event] if self.events else self.room.latest
        event = self._author.build(self.room, draft, latest, self.state)
        self.events.append(NewEvent(event, redaction))
        if event.state_key is not None:
            self._changed[event.type, event.state_key] = event
        return event

    def replace(self, index: int, signed: Event) -> None:
        """Put the same event with further signatures in its place."""
        self.events[index] = replace(self.events[index], event=signed)


State = Callable[[str, str], Event | None]


class Author:
    """Makes events in the name of this server's users."""

    def __init__(self, server_name: str, key: SigningKey, clock: Clock, randomness: Randomness) -> None:
        self.server_name = server_name
        self.key = key
        self._clock = clock
        self._randomness = randomness
        self._last_create_ts = 0

    def new_room_id(self) -> RoomId:
        """A room id for the versions in which the server chooses it."""
        return RoomId(f"!{self._randomness.letters(18)}:{self.server_name}")

    def build(self, room: HotRoom, draft: Draft, latest: list[Event], state: State) -> Event:
        """An event that follows `latest` and is allowed by `state`."""
        version = room.version
        is_create = draft.type == "m.room.create" and not latest
        with _refusals():
            check_content(draft.type, draft.content_json, is_state=draft.state_key is not None)
            auth_events = _auth_events(version.identifier, draft, state)
            event = build_event(
                server_name=self.server_name,
                key=self.key,
                **self._fields(room, draft, latest, auth_events),
            )
            event_auth.check_auth(
                event,
                auth_events,
                create=None if is_create or version.create_in_auth_events else state("m.room.create", ""),
            )
        return event

    def template(self, room: HotRoom, draft: Draft, latest: list[Event], state: State, signer: str | None) -> bytes:
        """An event as `build` makes it, for the server of its sender to sign; nothing is signed here."""
        version = room.version
        with _refusals():
            check_content(draft.type, draft.content_json, is_state=draft.state_key is not None)
            auth_events = _auth_events(version.identifier, draft, state)
            template = build_template(**self._fields(room, draft, latest, auth_events))
            # The rules ask whether there is a signature of whoever authorises a join, and the caller will see to it.
            signatures = {} if signer is None else {signer: {"ed25519:none": ""}}
            proofs = _encode({"hashes": {}, "signatures": signatures})
            event_auth.check_auth(
                Event.parse(template[:-1] + b"," + proofs[1:], version.identifier),
                auth_events,
                create=None if version.create_in_auth_events else state("m.room.create", ""),
            )
        return template

    def countersign(self, event: Event) -> Event:
        """An event of another server with our signature beside those that it has. Raises `TooLarge`."""
        with _refusals():
            return signing.sign_event(event, self.server_name, self.key)

    def _fields(self, room: HotRoom, draft: Draft, latest: list[Event], auth_events: list[Event]) -> dict[str, Any]:
        version = room.version
        is_create = draft.type == "m.room.create" and not latest
        return {
            "version": version.identifier,
            "room_id": None if is_create and version.room_ids_are_hashes else room.room_id,
            "type": draft.type,
            "sender": draft.sender,
            "state_key": draft.state_key,
            "content": draft.content_json,
            "origin_server_ts": self._create_ts() if is_create else self._clock.now(),
            "depth": min(max((event.depth for event in latest), default=0) + 1, version.max_depth),
            "prev_events": latest,
            "auth_events": auth_events,
            "redacts": draft.redacts,
            "event_id": self.new_event_id() if version.event_ids_in_pdu else None,
        }

    def _create_ts(self) -> int:
        """A time for a create event. A room id can be its hash, so no two of them may be alike."""
        self._last_create_ts = max(self._clock.now(), self._last_create_ts + 1)
        return self._last_create_ts

    def new_event_id(self) -> str:
        """An event id for the versions in which the server chooses it."""
        return f"${self._randomness.letters(18)}:{self.server_name}"


def _auth_events(version: str, draft: Draft, state: State) -> list[Event]:
    """The events of the state that an event of this kind cites."""
    content = draft.content_json
    keys = event_auth.auth_event_keys(
        version, type=draft.type, sender=draft.sender, state_key=draft.state_key, content=content
    )
    return [event for key in keys if (event := state(*key)) is not None]


@contextmanager
def _refusals() -> Iterator[None]:
    """What is wrong with an event, as errors of the request that asked for it."""
    try:
        yield
    except AuthError as error:
        raise Forbidden(str(error)) from None
    except EventTooLarge as error:
        raise TooLarge(str(error)) from None
    except (BadContent, CanonicalJsonError, MalformedEvent) as error:
        raise BadJson(str(error)) from None
