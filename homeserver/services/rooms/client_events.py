"""Events as one client is shown them: the client format with the server's `unsigned` (client-server API, Events)."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, UserId
from homeserver.matrix.relations import EDIT, REFERENCE, THREAD, is_edit_of
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.visibility import Seen, visible
from homeserver.services.users.account_data import ignored_users
from homeserver.storage import events, relations, transactions
from homeserver.storage.engine import ReadTx
from homeserver.storage.events import StoredEvent

_encode = msgspec.json.Encoder().encode


def with_unsigned(event: Event, unsigned: dict[str, Any], *, include_room_id: bool) -> msgspec.Raw:
    """The client format of the event with this `unsigned`."""
    shown = event.client_json(include_room_id=include_room_id)
    return msgspec.Raw(shown[:-1] + b',"unsigned":' + _encode(unsigned) + b"}") if unsigned else msgspec.Raw(shown)


def show(
    tx: ReadTx,
    trees: StateTrees,
    version: str,
    who: Requester,
    seen: Sequence[Seen],
    *,
    now: int,
    include_room_id: bool = True,
    bundle: bool = False,
) -> list[msgspec.Raw]:
    """What the requester's device is shown of these events of one room, in their order.

    With `bundle` they carry what was aggregated from the events that relate to them.
    """
    own = [one.stored.position for one in seen if one.event.sender == who.user_id]
    txn_ids = transactions.find_txn_ids(tx, who.user_id, who.device_id, own) if own else {}
    replaced = _replaced(tx, trees, version, who.user_id, seen)
    redactions = events.find_many(tx, {one.stored.redacted_by for one in seen if one.stored.redacted_by is not None})
    bundles = _bundles(tx, trees, version, who, seen, now, include_room_id, threads=True) if bundle else {}
    shown = []
    for one in seen:
        unsigned: dict[str, Any] = {"age": max(0, now - one.event.origin_server_ts), "membership": one.membership}
        if (txn_id := txn_ids.get(one.stored.position)) is not None:
            unsigned["transaction_id"] = txn_id
        if one.stored.replaces is not None:
            unsigned["replaces_state"], may_see = replaced[one.stored.replaces]
            if may_see is not None:
                unsigned["prev_content"] = msgspec.Raw(may_see.content_json)
        if one.stored.redacted_by is not None:
            redaction = parse(redactions[one.stored.redacted_by], version)
            unsigned["redacted_because"] = msgspec.Raw(redaction.client_json(include_room_id=include_room_id))
        if (aggregated := bundles.get(one.event.event_id)) is not None:
            unsigned["m.relations"] = aggregated
        shown.append(with_unsigned(one.event, unsigned, include_room_id=include_room_id))
    return shown


def show_state(
    tx: ReadTx, version: str, positions: Iterable[int], *, now: int, include_room_id: bool = True
) -> list[msgspec.Raw]:
    """Current state events at these positions, without what belongs to a timeline."""
    stored = events.find_many(tx, positions)
    return [
        with_unsigned(
            parse(stored[position], version),
            {"age": max(0, now - stored[position].origin_server_ts)},
            include_room_id=include_room_id,
        )
        for position in sorted(stored)
    ]


def _bundles(
    tx: ReadTx,
    trees: StateTrees,
    version: str,
    who: Requester,
    seen: Sequence[Seen],
    now: int,
    include_room_id: bool,
    *,
    threads: bool,
) -> dict[str, dict[str, Any]]:
    """`m.relations` of those of the events that others relate to; state events have none."""
    parents = {EventId(one.event.event_id): one for one in seen if not one.event.is_state}
    if not parents:
        return {}
    room_nid = seen[0].stored.room_nid
    ignored = ignored_users(tx, who.user_id)

    def shown(rows: Sequence[StoredEvent]) -> list[Seen]:
        return [one for one in visible(tx, trees, version, who.user_id, rows) if one.event.sender not in ignored]

    bundles: dict[str, dict[str, Any]] = {}
    for parent_id, rows in relations.list_of_type(tx, room_nid, parents, EDIT).items():
        original = parents[parent_id]
        valid = [one for one in shown(rows) if is_edit_of(one.event, original.event)]
        if valid and original.stored.redacted_by is None:
            newest = max(valid, key=lambda one: (one.event.origin_server_ts, one.event.event_id))
            [edit] = show(tx, trees, version, who, [newest], now=now, include_room_id=include_room_id)
            bundles.setdefault(parent_id, {})[EDIT] = edit
    for parent_id, rows in relations.list_of_type(tx, room_nid, parents, REFERENCE).items():
        chunk = [{"event_id": one.event.event_id} for one in shown(rows)]
        if chunk:
            bundles.setdefault(parent_id, {})[REFERENCE] = {"chunk": chunk}
    if not threads:
        return bundles
    found = relations.find_threads(tx, room_nid, parents, who.user_id, ignored)
    newest_rows = events.find_many(tx, [thread.latest for thread in found.values()])
    latest = {one.stored.position: one for one in shown(list(newest_rows.values()))}
    nested = _bundles(tx, trees, version, who, list(latest.values()), now, include_room_id, threads=False)
    for root_id, thread in found.items():
        if (one := latest.get(thread.latest)) is None:
            continue
        unsigned: dict[str, Any] = {"age": max(0, now - one.event.origin_server_ts)}
        if one.event.event_id in nested:
            unsigned["m.relations"] = nested[one.event.event_id]
        bundles.setdefault(root_id, {})[THREAD] = {
            "latest_event": with_unsigned(one.event, unsigned, include_room_id=include_room_id),
            "count": thread.count,
            "current_user_participated": thread.participated or parents[root_id].event.sender == who.user_id,
        }
    return bundles


def _replaced(
    tx: ReadTx, trees: StateTrees, version: str, user_id: UserId, seen: Sequence[Seen]
) -> dict[int, tuple[str, Event | None]]:
    """For each replaced state event its id, and the event itself where the user may see it."""
    stored = events.find_many(tx, {one.stored.replaces for one in seen if one.stored.replaces is not None})
    may_see = {one.stored.position: one.event for one in visible(tx, trees, version, user_id, list(stored.values()))}
    return {position: (row.event_id, may_see.get(position)) for position, row in stored.items()}
