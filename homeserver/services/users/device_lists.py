"""Who hears of changes to a local user's devices and keys: the users, and the servers, that share a room with the user.

Other servers are told in one sequence for each user: every update has a number, and names the one before
(server-server API, Device Management). Who has missed one, fetches the whole list; so nothing need be sent twice.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from homeserver.matrix.identifiers import DeviceId, ServerName, UserId, domain_of
from homeserver.services.users import shown_keys
from homeserver.services.users.shown_keys import NOBODY, ShownKeys
from homeserver.storage import e2e_keys, events, introductions, members, outgoing_edus, room_servers, stream_rows
from homeserver.storage.engine import WriteTx
from homeserver.storage.introductions import Introduction
from homeserver.storage.outgoing_edus import DEVICE_LIST, SIGNING_KEY, OutgoingEdu


class _MemberContent(msgspec.Struct):
    membership: Any = None


class _MemberEvent(msgspec.Struct):
    content: _MemberContent


_MOST_UPDATES = 20
"""Of more changes at a time the last alone is sent: whoever gets it misses the one before, and fetches the list."""

Json = dict[str, Any]


def note_devices(tx: WriteTx, user_id: UserId, device_ids: Sequence[DeviceId]) -> None:
    """Devices of a local user came, went, or have other keys or names; all is written already."""
    local, servers = _sharing(tx, user_id)
    before, last = e2e_keys.note_updates(tx, user_id, len(device_ids), local)
    if not servers:
        return
    first = last - len(device_ids) + 1
    numbered = list(enumerate(device_ids, first))[-_MOST_UPDATES if len(device_ids) <= _MOST_UPDATES else -1 :]
    shown = shown_keys.read(tx, [user_id], requester=NOBODY)
    contents = _updates(shown, user_id, numbered, first=first, before=before)
    outgoing_edus.add_many(tx, _edus(servers, DEVICE_LIST, user_id, contents))


def note_cross_signing(tx: WriteTx, user_id: UserId) -> None:
    """A local user has other cross-signing keys, or signatures upon them."""
    local, servers = _sharing(tx, user_id)
    e2e_keys.note_changes(tx, [user_id], local)
    if not servers:
        return
    shown = shown_keys.read(tx, [user_id], requester=NOBODY)
    content: Json = {"user_id": user_id}
    for usage in ("master", "self_signing"):
        if (user_id, usage) in shown.cross_signing:
            content[f"{usage}_key"] = shown.cross_signing[user_id, usage]
    outgoing_edus.add_many(tx, _edus(servers, SIGNING_KEY, user_id, [content]))


def introduce_next(tx: WriteTx, *, limit: int) -> bool:
    """Tell servers of the devices of local users who came to a room, where they were told nothing until now.

    One update is enough, with a number of its own that nothing else will follow: they do not know what it follows,
    and fetch the list. False if there was nobody to introduce.
    """
    found = introductions.list_first(tx, limit=limit)
    if not found:
        return False
    come = _come(tx, found)
    joins = members.list_joins(tx, {one.user_id for one in come})
    servers = room_servers.list_open_many(tx, {nid for of_user in joins.values() for nid in of_user})
    new: dict[UserId, set[ServerName]] = {}
    for one in come:
        earlier = [nid for nid, position in joins.get(one.user_id, {}).items() if position < one.position]
        told = set().union(*(servers.get(nid, ()) for nid in earlier))
        new.setdefault(one.user_id, set()).update(servers.get(one.room_nid, set()) - told)
    shown = shown_keys.read(tx, list(new), requester=NOBODY)
    edus: list[OutgoingEdu] = []
    for user_id, to in new.items():
        device_ids = sorted(shown.of_user(user_id))
        if to and device_ids:
            before, number = e2e_keys.find_stream_id(tx, user_id), stream_rows.advance(tx)
            contents = _updates(shown, user_id, [(number, device_ids[-1])], first=number, before=before)
            edus += _edus(to, DEVICE_LIST, user_id, contents)
    if edus:
        outgoing_edus.add_many(tx, edus)
    introductions.remove_many(tx, found)
    return True


def _come(tx: WriteTx, found: Sequence[Introduction]) -> list[Introduction]:
    """Those who were not in the room before."""
    rows = events.find_many(tx, {one.position for one in found})
    before = events.find_many(tx, {row.replaces for row in rows.values() if row.replaces is not None})
    come = []
    for one in found:
        row = rows.get(one.position)
        old = None if row is None or row.replaces is None else before.get(row.replaces)
        if old is None or msgspec.json.decode(old.pdu, type=_MemberEvent).content.membership != "join":
            come.append(one)
    return come


def _sharing(tx: WriteTx, user_id: UserId) -> tuple[set[UserId], set[ServerName]]:
    """The local users, and the other servers, that share a room with a local user."""
    local = members.list_sharing_of_server(tx, [user_id], domain_of(user_id))
    joined = [member.room_nid for member in members.list_of_user(tx, user_id, ["join"])]
    return local, room_servers.list_of_rooms(tx, joined)


def _updates(
    shown: ShownKeys, user_id: UserId, numbered: Sequence[tuple[int, DeviceId]], *, first: int, before: int
) -> list[Json]:
    """What is told of devices, each with the number of its update; `before` is the one before the first."""
    contents = []
    for number, device_id in numbered:
        previous = number - 1 if number > first else before
        content: Json = {
            "user_id": user_id,
            "device_id": device_id,
            "stream_id": number,
            "prev_id": [previous] if previous else [],
        }
        device = (user_id, device_id)
        if device not in shown.names:
            content["deleted"] = True
        if (name := shown.names.get(device)) is not None:
            content["device_display_name"] = name
        if (keys := shown.devices.get(device)) is not None:
            content["keys"] = {name: value for name, value in keys.items() if name != "unsigned"}
        contents.append(content)
    return contents


def _edus(servers: Iterable[ServerName], edu_type: str, user_id: UserId, contents: Iterable[Json]) -> list[OutgoingEdu]:
    encoded = [msgspec.json.encode(content) for content in contents]
    return [OutgoingEdu(server, edu_type, content, user_id) for server in sorted(servers) for content in encoded]
