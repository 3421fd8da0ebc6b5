"""What a sync tells besides rooms' events: one function for each stream."""

from collections.abc import Iterable
from typing import Any

import msgspec

from homeserver.matrix.filters import Filter
from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.live.receipts import content_of
from homeserver.services.users.account_data import PUSH_RULES
from homeserver.services.users.e2e_keys import list_changes
from homeserver.services.users.push_rules import PushRules
from homeserver.storage import account_data, e2e_keys, receipts, to_device
from homeserver.storage.account_data import GLOBAL, AccountData
from homeserver.storage.engine import ReadTx
from homeserver.storage.receipts import Receipt

MOST_TO_DEVICE = 100

Json = dict[str, Any]


def account_data_events(
    tx: ReadTx, push_rules: PushRules, user_id: UserId, wanted: Filter, *, since: int | None, upto: int
) -> tuple[list[Json], dict[str, list[Json]]]:
    """New account data: of all rooms, and by room. The push rules are part of the first."""
    of_all: list[Json] = []
    by_room: dict[str, list[Json]] = {}
    for data in account_data.list_since(tx, user_id, after=since or 0, upto=upto):
        if data.room_id != GLOBAL:
            if wanted.room.account_data.admits_room(data.room_id) and wanted.room.account_data.admits(data.type, None):
                by_room.setdefault(data.room_id, []).append(_data(data))
        elif wanted.account_data.admits(data.type, None):
            of_all.append(_data(data))
    rules, changed = push_rules.read(tx, user_id)
    if wanted.account_data.admits(PUSH_RULES, None) and (since is None or since < changed <= upto):
        of_all.append({"type": PUSH_RULES, "content": {"global": rules}})
    return of_all, by_room


def receipt_events(
    tx: ReadTx, user_id: UserId, rooms: dict[int, RoomId], wanted: Filter, *, after: int, upto: int
) -> tuple[dict[RoomId, Json], set[RoomId]]:
    """New receipts, one event for each room; and the rooms in which the user has read on."""
    if not rooms:
        return {}, set()
    by_room: dict[RoomId, list[Receipt]] = {}
    for receipt in receipts.list_since(tx, rooms, user_id, after=after, upto=upto):
        by_room.setdefault(rooms[receipt.room_nid], []).append(receipt)
    own = {room_id for room_id, found in by_room.items() if any(receipt.user_id == user_id for receipt in found)}
    chosen = wanted.room.ephemeral
    if not chosen.admits("m.receipt", None):
        return {}, own
    events: dict[RoomId, Json] = {
        room_id: {"type": "m.receipt", "content": content_of(found)}
        for room_id, found in by_room.items()
        if chosen.admits_room(room_id)
    }
    return events, own


def typing_event(users: Iterable[UserId]) -> Json:
    """Who types in a room."""
    return {"type": "m.typing", "content": {"user_ids": list(users)}}


def to_device_events(tx: ReadTx, who: Requester, *, after: int, upto: int) -> tuple[list[msgspec.Raw], int | None]:
    """The device's messages; and, where there are more, the position up to which these go."""
    found = to_device.list_since(tx, who.user_id, who.device_id, after=after, upto=upto, limit=MOST_TO_DEVICE + 1)
    shown = found[:MOST_TO_DEVICE]
    more = shown[-1].position if len(found) > MOST_TO_DEVICE else None
    return [msgspec.Raw(message.body.encode()) for message in shown], more


def device_lists(tx: ReadTx, user_id: UserId, *, after: int, upto: int) -> Json:
    """Whose keys to look at again; nothing if nobody's."""
    found = list_changes(tx, user_id, after=after, upto=upto)
    lists = {"changed": sorted(found.changed), "left": sorted(found.left)}
    return {name: users for name, users in lists.items() if users}


def key_counts(tx: ReadTx, who: Requester) -> Json:
    """How many one-time keys the device has left, and which fallback keys nobody was given."""
    device = (who.user_id, who.device_id)
    return {
        "device_one_time_keys_count": {"signed_curve25519": 0, **e2e_keys.count_one_time(tx, device)},
        "device_unused_fallback_key_types": e2e_keys.list_unused_fallbacks(tx, device),
    }


def _data(data: AccountData) -> Json:
    return {"type": data.type, "content": msgspec.Raw(data.content.encode())}
