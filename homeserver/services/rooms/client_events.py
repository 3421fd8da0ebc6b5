"""Events as one client is shown them: the client format with the server's `unsigned` (client-server API, Events)."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.services.rooms.hot import parse
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.visibility import Seen, visible
from homeserver.storage import events, transactions
from homeserver.storage.engine import ReadTx

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
) -> list[msgspec.Raw]:
    """What the requester's device is shown of these events of one room, in their order."""
    own = [EventId(one.event.event_id) for one in seen if one.event.sender == who.user_id]
    txn_ids = transactions.find_txn_ids(tx, who.user_id, who.device_id, own) if own else {}
    replaced = _replaced(tx, trees, version, who.user_id, seen)
    redactions = events.find_many(tx, {one.stored.redacted_by for one in seen if one.stored.redacted_by is not None})
    shown = []
    for one in seen:
        unsigned: dict[str, Any] = {"age": max(0, now - one.event.origin_server_ts), "membership": one.membership}
        if (txn_id := txn_ids.get(EventId(one.event.event_id))) is not None:
            unsigned["transaction_id"] = txn_id
        if one.stored.replaces is not None:
            unsigned["replaces_state"], may_see = replaced[one.stored.replaces]
            if may_see is not None:
                unsigned["prev_content"] = msgspec.Raw(may_see.content_json)
        if one.stored.redacted_by is not None:
            redaction = parse(redactions[one.stored.redacted_by], version)
            unsigned["redacted_because"] = msgspec.Raw(redaction.client_json(include_room_id=include_room_id))
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


def _replaced(
    tx: ReadTx, trees: StateTrees, version: str, user_id: UserId, seen: Sequence[Seen]
) -> dict[int, tuple[str, Event | None]]:
    """For each replaced state event its id, and the event itself where the user may see it."""
    stored = events.find_many(tx, {one.stored.replaces for one in seen if one.stored.replaces is not None})
    may_see = {one.stored.position: one.event for one in visible(tx, trees, version, user_id, list(stored.values()))}
    return {position: (row.event_id, may_see.get(position)) for position, row in stored.items()}
