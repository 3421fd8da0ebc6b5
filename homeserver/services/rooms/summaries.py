"""Rooms in short, as those are shown them who look for one (client-server API, Published room directory, Spaces)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import RoomId, ServerName, UserId
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.services.rooms.conditions import allowed_rooms
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.spaces_elsewhere import RoomElsewhere
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import events, members, out_of_room, room_servers, rooms
from homeserver.storage.engine import ReadTx
from homeserver.storage.rooms import Room

_KEPT = 20_000
_TYPES = (
    "m.room.create",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
)
_PAIRS = [(kind, "") for kind in _TYPES]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Summary:
    """A room in short. `texts` has what is absent where the room has none: its name, topic and so on."""

    join_rule: str
    world_readable: bool
    guest_can_join: bool
    texts: dict[str, str]
    encryption: str | None
    allowed_room_ids: tuple[str, ...]

    @property
    def room_type(self) -> str | None:
        """The type of the room, if it has one."""
        return self.texts.get("room_type")

    def public_json(self, room: Room, joined: int) -> Json:
        """What the directory says of the room."""
        return {
            "room_id": room.room_id,
            "num_joined_members": joined,
            "world_readable": self.world_readable,
            "guest_can_join": self.guest_can_join,
            "join_rule": self.join_rule,
            **self.texts,
        }

    def full_json(self, room: Room, joined: int) -> Json:
        """What is said of the room by itself."""
        more: Json = {"room_version": room.version}
        if self.encryption is not None:
            more["encryption"] = self.encryption
        if self.allowed_room_ids:
            more["allowed_room_ids"] = list(self.allowed_room_ids)
        return {**self.public_json(room, joined), **more}


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks: the memberships by room number, and the rooms that they are in. Nobody has none."""

    memberships: dict[int, str]
    joined: frozenset[RoomId]
    invited: frozenset[RoomId] = frozenset()
    """Rooms that this server is not in, and that they are invited to."""

    def may_see_elsewhere(self, room: RoomElsewhere) -> bool:
        """Whether a room may be shown that only other servers know."""
        if room.room_id in self.invited or room.world_readable:
            return True
        if room.join_rule in ("restricted", "knock_restricted") and not self.joined.isdisjoint(
            room.allowed_room_ids or ()
        ):
            return True
        return room.join_rule in ("public", "knock", "knock_restricted")

    def may_see(self, room: Room, summary: Summary) -> bool:
        """Whether the room may be shown: to those whom it concerns, and to all who could come in or ask to."""
        version = ROOM_VERSIONS[room.version]
        if self.memberships.get(room.room_nid) in ("join", "invite", "knock") or summary.world_readable:
            return True
        match summary.join_rule:
            case "public":
                return True
            case "knock":
                return version.knock
            case "knock_restricted":
                return version.knock_restricted
            case "restricted":
                return version.restricted and not self.joined.isdisjoint(summary.allowed_room_ids)
        return False


class Summaries:
    """Reads rooms in short.

    A summary is kept by the root of the state that it was made of, and by the last redaction in that, and so never
    grows stale. Units of work run in threads on SQLite: what is kept is a plain dictionary, whose single operations
    are atomic, emptied when full.
    """

    def __init__(self, trees: StateTrees) -> None:
        self._trees = trees
        self._kept: dict[tuple[int, int], Summary] = {}

    def read(self, tx: ReadTx, found: Iterable[Room]) -> dict[int, Summary]:
        """The summaries, by the rooms' numbers."""
        found = list(found)
        made = {room.room_nid: self._kept.get((room.state_root, room.redacted_at)) for room in found}
        missing = [room for room in found if made[room.room_nid] is None]
        if missing:
            made.update(self._read(tx, missing))
        return {room_nid: summary for room_nid, summary in made.items() if summary is not None}

    def viewer(self, tx: ReadTx, user_id: UserId | None) -> Viewer:
        """The user, as one who looks; None for somebody who is not known."""
        if user_id is None:
            return Viewer({}, frozenset())
        found = members.list_of_user(tx, user_id, ["join", "invite", "knock", "leave", "ban"])
        joined = rooms.find_many(tx, [member.room_nid for member in found if member.membership == "join"])
        return Viewer(
            {member.room_nid: member.membership for member in found},
            frozenset(room.room_id for room in joined.values()),
            frozenset(one.room_id for one in out_of_room.list_of_user(tx, user_id, ["invite", "knock"])),
        )

    def viewing_server(self, tx: ReadTx, server: ServerName, found: Sequence[Room]) -> Viewer:
        """Another server, as one that looks at these rooms: whoever of its users could see most."""
        nids = {room.room_nid: room.room_id for room in found}
        allowed = {RoomId(one) for summary in self.read(tx, found).values() for one in summary.allowed_room_ids}
        nids |= {room.room_nid: room_id for room_id, room in rooms.find_many_by_id(tx, allowed).items()}
        memberships = dict.fromkeys(members.find_rooms_of_server(tx, nids, server, ["invite", "knock"]), "invite")
        joined = room_servers.find_rooms(tx, server, nids)
        return Viewer(memberships | dict.fromkeys(joined, "join"), frozenset(nids[nid] for nid in joined))

    def _read(self, tx: ReadTx, found: Sequence[Room]) -> dict[int, Summary]:
        positions = self._trees.find_many(tx, {room.state_root for room in found}, _PAIRS)
        stored = events.find_many(tx, {at for of_root in positions.values() for at in of_root.values()})
        made = {}
        for room in found:
            state = {kind: parse(stored[at], room.version) for (kind, _), at in positions[room.state_root].items()}
            made[room.room_nid] = _summary(state)
            if len(self._kept) > _KEPT:
                self._kept.clear()
            self._kept[room.state_root, room.redacted_at] = made[room.room_nid]
        return made


def _summary(state: dict[str, Event]) -> Summary:
    content = {kind: event.content for kind, event in state.items()}

    def text(kind: str, name: str) -> str | None:
        value = content.get(kind, {}).get(name)
        return value if isinstance(value, str) and value else None

    texts = {
        "name": text("m.room.name", "name"),
        "topic": _plain_topic(content.get("m.room.topic", {})),
        "avatar_url": text("m.room.avatar", "url"),
        "canonical_alias": text("m.room.canonical_alias", "alias"),
        "room_type": text("m.room.create", "type"),
    }
    return Summary(
        join_rule=text("m.room.join_rules", "join_rule") or "invite",
        world_readable=text("m.room.history_visibility", "history_visibility") == "world_readable",
        guest_can_join=text("m.room.guest_access", "guest_access") == "can_join",
        texts={name: value for name, value in texts.items() if value is not None},
        encryption=text("m.room.encryption", "algorithm"),
        allowed_room_ids=tuple(room_id for room_id in allowed_rooms(content.get("m.room.join_rules", {}))),
    )


def _plain_topic(content: Json) -> str | None:
    """The topic as plain text: its `text/plain` form, or the older key where it has no forms."""
    block = content.get("m.topic")
    forms = block.get("m.text") if isinstance(block, dict) else None
    if not isinstance(forms, list):
        topic = content.get("topic")
        return topic if isinstance(topic, str) and topic else None
    for form in forms:
        if isinstance(form, dict) and form.get("mimetype", "text/plain") == "text/plain":
            body = form.get("body")
            if isinstance(body, str) and body:
                return body
    return None
