"""Events as one client is shown them: the client format with the server's `unsigned` (client-server API, Events)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId
from homeserver.matrix.relations import EDIT, REFERENCE, THREAD, can_be_edited, is_edit_of
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.visibility import Onlooker, Seen
from homeserver.storage import events, relations, timelines, transactions
from homeserver.storage.engine import ReadTx
from homeserver.storage.events import StoredEvent
from homeserver.storage.relations import Child

_MOST_COUNTED = 200
"""Of a larger thread the events are not counted one by one."""
_MOST_CHILDREN = 1000
"""Of more references to an event, or edits of it, the newest are considered."""

_encode = msgspec.json.Encoder().encode

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How events are shown."""

    now: int
    include_room_id: bool = True
    bundle: bool = False
    """Whether events carry what was aggregated from those that relate to them."""


def with_unsigned(event: Event, unsigned: Json, *, include_room_id: bool) -> msgspec.Raw:
    """The client format of the event with this `unsigned`."""
    shown = event.client_json(include_room_id=include_room_id)
    return msgspec.Raw(shown[:-1] + b',"unsigned":' + _encode(unsigned) + b"}") if unsigned else msgspec.Raw(shown)


def show(tx: ReadTx, eye: Onlooker, who: Requester, seen: Sequence[Seen], form: Form) -> list[msgspec.Raw]:
    """What the requester's device is shown of these events of one room, in their order."""
    return _show(tx, eye, who, seen, form, _bundles(tx, eye, who, seen, form) if form.bundle else {})


def show_state(
    tx: ReadTx, version: str, positions: Iterable[int], *, now: int, include_room_id: bool = True
) -> list[msgspec.Raw]:
    """State events at these positions, without what belongs to a timeline."""
    return show_state_events(tx, version, events.find_many(tx, positions).values(), now, include_room_id)


def show_state_events(
    tx: ReadTx, version: str, stored: Iterable[StoredEvent], now: int, include_room_id: bool = True
) -> list[msgspec.Raw]:
    """The same of events that were read already."""
    stored = sorted(stored, key=lambda row: row.position)
    redactions: dict[int | None, Json] = {
        row.position: _because(parse(row, version), include_room_id) for row in _redacting(tx, stored)
    }
    return [
        with_unsigned(
            parse(row, version),
            {"age": max(0, now - row.origin_server_ts)} | redactions.get(row.redacted_by, {}),
            include_room_id=include_room_id,
        )
        for row in stored
    ]


def _show(
    tx: ReadTx, eye: Onlooker, who: Requester, seen: Sequence[Seen], form: Form, bundles: Mapping[str, Json]
) -> list[msgspec.Raw]:
    own = [one.stored.position for one in seen if one.event.sender == who.user_id]
    txn_ids = transactions.find_txn_ids(tx, who.user_id, who.device_id, own) if own else {}
    replaced = _replaced(tx, eye, seen)
    redactions = {
        one.stored.position: _because(one.event, form.include_room_id)
        for one in eye.seen(_redacting(tx, (one.stored for one in seen)))
    }
    shown = []
    for one in seen:
        unsigned: Json = {"age": max(0, form.now - one.event.origin_server_ts), "membership": one.membership}
        if (txn_id := txn_ids.get(one.stored.position)) is not None:
            unsigned["transaction_id"] = txn_id
        if one.stored.replaces is not None:
            unsigned |= replaced[one.stored.replaces]
        if one.stored.redacted_by is not None:
            unsigned |= redactions.get(one.stored.redacted_by, {})
        if (aggregated := bundles.get(one.event.event_id)) is not None:
            unsigned["m.relations"] = aggregated
        shown.append(with_unsigned(one.event, unsigned, include_room_id=form.include_room_id))
    return shown


def _replaced(tx: ReadTx, eye: Onlooker, seen: Sequence[Seen]) -> dict[int, Json]:
    """What is said of each replaced state event: its id, and what was in it where the user may see it."""
    positions = {one.stored.replaces for one in seen if one.stored.replaces is not None}
    known = {one.stored.position: one for one in seen if one.stored.position in positions}
    stored = events.find_many(tx, positions - known.keys())
    known |= {one.stored.position: one for one in eye.seen(list(stored.values()))}
    ids = {position: row.event_id for position, row in stored.items()}
    ids |= {position: one.stored.event_id for position, one in known.items()}
    return {
        position: {"replaces_state": event_id}
        | ({"prev_content": msgspec.Raw(known[position].event.content_json)} if position in known else {})
        for position, event_id in ids.items()
    }


def _redacting(tx: ReadTx, stored: Iterable[StoredEvent]) -> list[StoredEvent]:
    """The redactions of those of the events that were redacted."""
    positions = {row.redacted_by for row in stored if row.redacted_by is not None}
    return list(events.find_many(tx, positions).values())


def _because(redaction: Event, include_room_id: bool) -> Json:
    """What is said of an event that was redacted, to those who may see the redaction."""
    return {"redacted_because": msgspec.Raw(redaction.client_json(include_room_id=include_room_id))}


def _bundles(
    tx: ReadTx, eye: Onlooker, who: Requester, seen: Sequence[Seen], form: Form, *, threads: bool = True
) -> dict[str, Json]:
    """`m.relations` of those of the events that others relate to; state events have none."""
    parents = {EventId(one.event.event_id): one for one in seen if not one.event.is_state}
    if not parents:
        return {}
    kinds = (EDIT, REFERENCE, THREAD) if threads else (EDIT, REFERENCE)
    summaries = {
        (one.parent_id, one.rel_type): one
        for one in relations.summarise_many(
            tx, eye.room.room_nid, parents, kinds, user_id=eye.user_id, ignored=eye.ignored
        )
    }
    if not summaries:
        return {}
    children = _children(tx, eye, parents, summaries)
    bundles: dict[str, Json] = {}
    for (parent_id, kind), of_kind in children.items():
        if kind == REFERENCE and of_kind:
            bundles.setdefault(parent_id, {})[REFERENCE] = {"chunk": [{"event_id": one.event_id} for one in of_kind]}
    counts = {
        parent_id: (one.latest, one.count)
        for (parent_id, kind), one in summaries.items()
        if kind == THREAD and (parent_id, kind) not in children
    }
    counts |= {
        parent_id: (of_kind[-1].place, len(of_kind))
        for (parent_id, kind), of_kind in children.items()
        if kind == THREAD and of_kind
    }
    stored = timelines.find_many(tx, eye.room.room_nid, [latest for latest, _ in counts.values()])
    newest = {one.stored.timeline_place: one for one in eye.seen(list(stored.values()))}
    edits = _edits(tx, eye, parents, children)
    nested = _bundles(tx, eye, who, list(newest.values()), form, threads=False)
    inner = [*edits.values(), *newest.values()]
    shown = dict(zip((one.event.event_id for one in inner), _show(tx, eye, who, inner, form, nested), strict=True))
    for parent_id, edit in edits.items():
        bundles.setdefault(parent_id, {})[EDIT] = shown[edit.event.event_id]
    for parent_id, (latest, count) in counts.items():
        if latest in newest:
            bundles.setdefault(parent_id, {})[THREAD] = {
                "latest_event": shown[newest[latest].event.event_id],
                "count": count,
                "current_user_participated": summaries[parent_id, THREAD].has_own
                or parents[parent_id].event.sender == eye.user_id,
            }
    return bundles


def _children(
    tx: ReadTx,
    eye: Onlooker,
    parents: Mapping[EventId, Seen],
    summaries: Mapping[tuple[EventId, str], relations.Summary],
) -> dict[tuple[EventId, str], list[Child]]:
    """The events that have to be looked at one by one, as far as the user may see and wants to hear them.

    Those of a thread are not among them if the user may see all of it, or if they are too many.
    """
    wanted = {
        (parent_id, kind)
        for (parent_id, kind), one in summaries.items()
        if kind == REFERENCE
        or (kind == EDIT and can_be_edited(parents[parent_id].event) and parents[parent_id].stored.redacted_by is None)
        or (kind == THREAD and one.count <= _MOST_COUNTED and not eye.sees_all_from(parents[parent_id].stored.came_at))
    }
    if not wanted:
        return {}
    found = relations.list_of_types(tx, eye.room.room_nid, wanted, most=_MOST_CHILDREN)
    heard = [one for of_kind in found.values() for one in of_kind if one.sender not in eye.ignored]
    children: dict[tuple[EventId, str], list[Child]] = {key: [] for key in wanted}
    for one in eye.seen_messages(heard):
        children[one.parent_id, one.rel_type].append(one)
    return children


def _edits(
    tx: ReadTx,
    eye: Onlooker,
    parents: Mapping[EventId, Seen],
    children: Mapping[tuple[EventId, str], list[Child]],
) -> dict[EventId, Seen]:
    """The newest edit of each event that counts as one."""
    candidates: dict[EventId, list[Child]] = {}
    for (parent_id, kind), of_kind in children.items():
        original = parents[parent_id].event
        if kind == EDIT:
            fitting = [one for one in of_kind if (one.sender, one.type) == (original.sender, original.type)]
            candidates[parent_id] = sorted(fitting, key=lambda one: (one.origin_server_ts, one.event_id))
    edits: dict[EventId, Seen] = {}
    take = 1
    while candidates := {parent_id: rest for parent_id, rest in candidates.items() if rest}:
        # Nearly always the newest one counts.
        tried = {parent_id: rest[-take:][::-1] for parent_id, rest in candidates.items()}
        stored = events.find_many(tx, [one.position for some in tried.values() for one in some])
        seen = {EventId(one.event.event_id): one for one in eye.seen(list(stored.values()))}
        for parent_id, some in tried.items():
            original = parents[parent_id].event
            valid = [seen[one.event_id] for one in some if is_edit_of(seen[one.event_id].event, original)]
            if valid:
                edits[parent_id] = valid[0]
        candidates = {key: rest[:-take] for key, rest in candidates.items() if key not in edits}
        take *= 4
    return edits
