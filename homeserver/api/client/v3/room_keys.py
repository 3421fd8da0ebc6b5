"""Key backups (client-server API, Server-side key backups)."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from homeserver.errors import NotFound
from homeserver.http.bodies import Body, Empty, Query
from homeserver.http.endpoint import USER, Endpoint
from homeserver.matrix.identifiers import RoomId
from homeserver.services.auth.sessions import Requester
from homeserver.services.users.key_backups import KeyBackups
from homeserver.storage.key_backups import Key

Json = dict[str, Any]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class NewVersion(Body, frozen=True):
    algorithm: str
    auth_data: Json


class ChangedVersion(Body, frozen=True):
    algorithm: str
    auth_data: Json
    version: str | None = None


class BackedUp(Body, frozen=True):
    first_message_index: Count
    forwarded_count: Count
    is_verified: bool
    session_data: Json


class RoomBackup(Body, frozen=True):
    sessions: dict[str, BackedUp]


class Backup(Body, frozen=True):
    rooms: dict[str, RoomBackup]


class OfVersion(Query, frozen=True):
    version: str


async def create(body: NewVersion, who: Requester, backups: KeyBackups) -> Json:
    return {"version": await backups.create(who.user_id, body.algorithm, body.auth_data)}


async def latest(who: Requester, backups: KeyBackups) -> Json:
    return await backups.get(who.user_id, None)


async def get(version: str, who: Requester, backups: KeyBackups) -> Json:
    return await backups.get(who.user_id, version)


async def update(version: str, body: ChangedVersion, who: Requester, backups: KeyBackups) -> Empty:
    await backups.update(who.user_id, version, body.version, body.algorithm, body.auth_data)
    return Empty()


async def delete(version: str, who: Requester, backups: KeyBackups) -> Empty:
    await backups.delete(who.user_id, version)
    return Empty()


async def keys(query: OfVersion, who: Requester, backups: KeyBackups) -> Json:
    rooms = await backups.keys(who.user_id, query.version)
    return {"rooms": {room_id: {"sessions": sessions} for room_id, sessions in rooms.items()}}


async def room_keys(room_id: RoomId, query: OfVersion, who: Requester, backups: KeyBackups) -> Json:
    rooms = await backups.keys(who.user_id, query.version, room_id)
    return {"sessions": rooms.get(room_id, {})}


async def session_key(room_id: RoomId, session_id: str, query: OfVersion, who: Requester, backups: KeyBackups) -> Json:
    rooms = await backups.keys(who.user_id, query.version, room_id, session_id)
    if room_id not in rooms:
        raise NotFound("The backup has no such key.")
    return rooms[room_id][session_id]


async def put_keys(query: OfVersion, body: Backup, who: Requester, backups: KeyBackups) -> Json:
    rooms = {room_id: _keys(room_id, room.sessions) for room_id, room in body.rooms.items()}
    return await backups.put(who.user_id, query.version, rooms)


async def put_room_keys(
    room_id: RoomId, query: OfVersion, body: RoomBackup, who: Requester, backups: KeyBackups
) -> Json:
    return await backups.put(who.user_id, query.version, {room_id: _keys(room_id, body.sessions)})


async def put_session_key(
    room_id: RoomId, session_id: str, query: OfVersion, body: BackedUp, who: Requester, backups: KeyBackups
) -> Json:
    return await backups.put(who.user_id, query.version, {room_id: _keys(room_id, {session_id: body})})


async def delete_keys(query: OfVersion, who: Requester, backups: KeyBackups) -> Json:
    return await backups.remove(who.user_id, query.version)


async def delete_room_keys(room_id: RoomId, query: OfVersion, who: Requester, backups: KeyBackups) -> Json:
    return await backups.remove(who.user_id, query.version, room_id)


async def delete_session_key(
    room_id: RoomId, session_id: str, query: OfVersion, who: Requester, backups: KeyBackups
) -> Json:
    return await backups.remove(who.user_id, query.version, room_id, session_id)


def _keys(room_id: str, sessions: dict[str, BackedUp]) -> dict[str, Key]:
    return {
        session_id: Key(
            room_id,
            session_id,
            key.first_message_index,
            key.forwarded_count,
            key.is_verified,
            msgspec.json.encode(key.session_data).decode(),
        )
        for session_id, key in sessions.items()
    }


_ROOM = "/room_keys/keys/{room_id}"
_SESSION = "/room_keys/keys/{room_id}/{session_id}"

ENDPOINTS = [
    Endpoint("POST", "/room_keys/version", create, auth=USER, limit=None, body=NewVersion),
    Endpoint("GET", "/room_keys/version", latest, auth=USER, limit=None, body=None),
    Endpoint("GET", "/room_keys/version/{version}", get, auth=USER, limit=None, body=None),
    Endpoint("PUT", "/room_keys/version/{version}", update, auth=USER, limit=None, body=ChangedVersion),
    Endpoint("DELETE", "/room_keys/version/{version}", delete, auth=USER, limit=None, body=None),
    Endpoint("GET", "/room_keys/keys", keys, auth=USER, limit=None, body=None),
    Endpoint("PUT", "/room_keys/keys", put_keys, auth=USER, limit=None, body=Backup),
    Endpoint("DELETE", "/room_keys/keys", delete_keys, auth=USER, limit=None, body=None),
    Endpoint("GET", _ROOM, room_keys, auth=USER, limit=None, body=None),
    Endpoint("PUT", _ROOM, put_room_keys, auth=USER, limit=None, body=RoomBackup),
    Endpoint("DELETE", _ROOM, delete_room_keys, auth=USER, limit=None, body=None),
    Endpoint("GET", _SESSION, session_key, auth=USER, limit=None, body=None),
    Endpoint("PUT", _SESSION, put_session_key, auth=USER, limit=None, body=BackedUp),
    Endpoint("DELETE", _SESSION, delete_session_key, auth=USER, limit=None, body=None),
]
