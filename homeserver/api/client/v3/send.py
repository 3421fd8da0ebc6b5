"""Sending and redacting events (client-server API, Sending events to a room)."""

from typing import Any

from homeserver.http.bodies import JsonObject
from homeserver.http.endpoint import USER, USER_OR_GUEST, Endpoint
from homeserver.matrix.identifiers import EventId, RoomId
from homeserver.services.auth.sessions import Requester
from homeserver.services.live.presence import Presence
from homeserver.services.rooms.relations import Relations
from homeserver.services.rooms.send import Sender


async def send(
    room_id: RoomId,
    event_type: str,
    txn_id: str,
    body: JsonObject,
    who: Requester,
    sender: Sender,
    relations: Relations,
    presence: Presence,
) -> dict[str, Any]:
    scope = f"send/{room_id}/{event_type}"
    await relations.check(who, room_id, event_type, body.raw, scope=scope, txn_id=txn_id)
    event_id = await sender.send(who, room_id, event_type, body.raw, scope=scope, txn_id=txn_id)
    await presence.note_activity(who.user_id)
    return {"event_id": event_id}


async def redact(
    room_id: RoomId, event_id: EventId, txn_id: str, body: JsonObject, who: Requester, sender: Sender
) -> dict[str, Any]:
    scope = f"redact/{room_id}/{event_id}"
    return {"event_id": await sender.redact(who, room_id, event_id, body.raw, scope=scope, txn_id=txn_id)}


ENDPOINTS = [
    Endpoint(
        "PUT", "/rooms/{room_id}/send/{event_type}/{txn_id}", send, auth=USER_OR_GUEST, limit="send", body=JsonObject
    ),
    Endpoint("PUT", "/rooms/{room_id}/redact/{event_id}/{txn_id}", redact, auth=USER, limit="send", body=JsonObject),
]
