"""Backups of room keys (client-server API, Server-side key backups). What is backed up is encrypted by clients."""

from collections.abc import Mapping
from typing import Any

import msgspec

from homeserver.errors import InvalidParam, NotFound, Unsupported
from homeserver.matrix.identifiers import UserId
from homeserver.storage import key_backups, users
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.key_backups import Key, Version

Json = dict[str, Any]


class KeyBackups:
    """The key backups of users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, user_id: UserId, algorithm: str, auth_data: Json) -> str:
        """Begin a new backup; its version."""
        text = msgspec.json.encode(auth_data).decode()

        def write(tx: WriteTx) -> str:
            users.lock(tx, user_id)
            return str(key_backups.create_version(tx, user_id, algorithm, text))

        return await self._database.write(write)

    async def get(self, user_id: UserId, version: str | None) -> Json:
        """A backup, or the newest. Raises `NotFound`."""
        return await self._database.snapshot(_get, user_id, version)

    async def update(
        self, user_id: UserId, version: str, given_version: str | None, algorithm: str, data: Json
    ) -> None:
        """Replace the data by which clients trust the backup."""
        if given_version not in (None, version):
            raise InvalidParam("The version of the body is not that of the path.")

        def write(tx: WriteTx) -> None:
            found = _find(tx, user_id, version)
            if found.algorithm != algorithm:
                raise InvalidParam("The algorithm of a backup cannot be changed.")
            key_backups.set_auth_data(tx, user_id, found.version, msgspec.json.encode(data).decode())

        await self._database.write(write)

    async def delete(self, user_id: UserId, version: str) -> None:
        """Delete a backup; one that was deleted before stays so. Raises `NotFound` if it never was."""

        def write(tx: WriteTx) -> None:
            users.lock(tx, user_id)
            number = _number(version)
            if not key_backups.was_deleted(tx, user_id, number):
                key_backups.delete_version(tx, user_id, _find(tx, user_id, version).version)

        await self._database.write(write)

    async def keys(
        self, user_id: UserId, version: str, room_id: str | None = None, session_id: str | None = None
    ) -> dict[str, dict[str, Json]]:
        """Keys of a backup by room and session: all, or of one room, or one."""
        return await self._database.snapshot(_keys, user_id, version, room_id, session_id)

    async def put(self, user_id: UserId, version: str, rooms: Mapping[str, Mapping[str, Key]]) -> Json:
        """Back keys up where they are better than those that are there; the new count and etag.

        Raises `M_WRONG_ROOM_KEYS_VERSION` unless the version is the newest.
        """
        return await self._database.write(_put, user_id, version, rooms)

    async def remove(
        self, user_id: UserId, version: str, room_id: str | None = None, session_id: str | None = None
    ) -> Json:
        """Delete keys: all, or of one room, or one; the new count and etag."""

        def write(tx: WriteTx) -> Json:
            users.lock(tx, user_id)
            found = _find(tx, user_id, version)
            if key_backups.delete_keys(tx, user_id, found.version, room_id, session_id):
                key_backups.advance_etag(tx, user_id, found.version)
            return _summary(tx, user_id, found.version)

        return await self._database.write(write)


def _get(tx: ReadTx, user_id: UserId, version: str | None) -> Json:
    found = _find(tx, user_id, version)
    return {
        "algorithm": found.algorithm,
        "auth_data": msgspec.Raw(found.auth_data.encode()),
        "version": str(found.version),
        **_summary(tx, user_id, found.version),
    }


def _keys(
    tx: ReadTx, user_id: UserId, version: str, room_id: str | None, session_id: str | None
) -> dict[str, dict[str, Json]]:
    found = _find(tx, user_id, version)
    rooms: dict[str, dict[str, Json]] = {}
    for key in key_backups.list_keys(tx, user_id, found.version, room_id, session_id):
        rooms.setdefault(key.room_id, {})[key.session_id] = {
            "first_message_index": key.first_message_index,
            "forwarded_count": key.forwarded_count,
            "is_verified": key.is_verified,
            "session_data": msgspec.Raw(key.session_data.encode()),
        }
    return rooms


def _put(tx: WriteTx, user_id: UserId, version: str, rooms: Mapping[str, Mapping[str, Key]]) -> Json:
    users.lock(tx, user_id)
    newest = key_backups.find_version(tx, user_id, None)
    if newest is None:
        raise NotFound("There is no key backup.")
    if version != str(newest.version):
        raise Unsupported(
            "M_WRONG_ROOM_KEYS_VERSION",
            "Keys can be added to the newest backup only.",
            status=403,
            current_version=str(newest.version),
        )
    given = [key for of_room in rooms.values() for key in of_room.values()]
    sessions = [(key.room_id, key.session_id) for key in given]
    known = key_backups.find_keys(tx, user_id, newest.version, sessions)
    better = [
        key
        for key in given
        if (before := known.get((key.room_id, key.session_id))) is None or _rank(key) < _rank(before)
    ]
    if better:
        key_backups.put_keys(tx, user_id, newest.version, better)
        key_backups.advance_etag(tx, user_id, newest.version)
    return _summary(tx, user_id, newest.version)


def _rank(key: Key) -> tuple[bool, int, int]:
    """The lower, the better."""
    return (not key.is_verified, key.first_message_index, key.forwarded_count)


def _find(tx: ReadTx, user_id: UserId, version: str | None) -> Version:
    found = key_backups.find_version(tx, user_id, None if version is None else _number(version))
    if found is None:
        raise NotFound("There is no such key backup.")
    return found


def _number(version: str) -> int:
    if not (version.isascii() and version.isdigit() and len(version) <= 18):
        raise NotFound("There is no key backup of this version.")
    return int(version)


def _summary(tx: ReadTx, user_id: UserId, version: int) -> Json:
    found = key_backups.find_version(tx, user_id, version)
    assert found is not None
    return {"count": key_backups.count_keys(tx, user_id, version), "etag": str(found.etag)}
