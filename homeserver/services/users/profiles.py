"""Profiles (client-server API, Profiles)."""

import re
from typing import Any

import msgspec

from homeserver.errors import Forbidden, InvalidParam, NotFound, Unsupported
from homeserver.matrix.identifiers import UserId, domain_of
from homeserver.services.auth.sessions import Requester
from homeserver.services.users.profiles_elsewhere import LARGEST, ProfilesElsewhere
from homeserver.storage import profiles, stream_rows, users
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.profiles import Change

CHANGES = "profile changes"
"""The notifier's key of changes that rooms must be told of."""

_LONGEST_KEY = 255
_TEXTS = ("displayname", "avatar_url", "m.tz")
_NAMESPACED = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+")
_IN_ROOMS = ("displayname", "avatar_url")

Json = dict[str, Any]


class Profiles:
    """The profiles of this server's users; those of others are asked for."""

    def __init__(self, database: Database, elsewhere: ProfilesElsewhere, server_name: str) -> None:
        self._database = database
        self._elsewhere = elsewhere
        self._server_name = server_name

    async def get(self, user_id: UserId) -> Json:
        """The whole profile, of whomever. Raises `NotFound`, or `RemoteFailure` where it must be asked for."""
        if domain_of(user_id) != self._server_name:
            return await self._elsewhere.get(user_id)
        return await self.get_own(user_id)

    async def get_own(self, user_id: UserId) -> Json:
        """The whole profile of a user of this server. Raises `NotFound`."""
        return await self._database.read(_get, user_id)

    async def get_field(self, user_id: UserId, name: str) -> Any:
        """One field. Raises `NotFound` if it is not set."""
        return _field(await self.get(user_id), name)

    async def get_own_field(self, user_id: UserId, name: str) -> Any:
        """One field of a user of this server. Raises `NotFound` if it is not set."""
        return _field(await self.get_own(user_id), name)

    async def set_field(self, who: Requester, user_id: UserId, name: str, value: Any) -> None:
        """Set a field of one's own profile; those that rooms show are taken there soon."""
        self._check_own(who, user_id, name)
        if len(name.encode()) > _LONGEST_KEY:
            raise Unsupported("M_KEY_TOO_LARGE", f"The name of a field has at most {_LONGEST_KEY} bytes.")
        if name not in _TEXTS and not _NAMESPACED.fullmatch(name):
            raise InvalidParam("A field of your own has a name like com.example.field, in lower case.")
        if name in _TEXTS and not (isinstance(value, str) or value is None):
            raise InvalidParam(f"The field {name} is text.")
        await self._database.write(set_in, user_id, name, value)

    async def remove_field(self, who: Requester, user_id: UserId, name: str) -> None:
        """Remove a field of one's own profile; it need not be there."""
        self._check_own(who, user_id, name)
        await self._database.write(_remove, user_id, name)

    @staticmethod
    def _check_own(who: Requester, user_id: UserId, name: str) -> None:
        if who.user_id != user_id:
            raise Forbidden("You may only change your own profile.")
        if who.is_guest and name != "displayname":
            raise Forbidden("Guests may only change their display name.")


def set_in(tx: WriteTx, user_id: UserId, name: str, value: Any) -> None:
    """Set a field in a transaction; one that rooms show is removed by an empty value. Raises `M_PROFILE_TOO_LARGE`."""
    fields = _get(tx, user_id)
    if name in _IN_ROOMS and not value:
        # Older clients take a name away by setting it to nothing.
        _remove(tx, user_id, name)
        return
    changed = {**fields, name: value}
    if len(msgspec.json.encode(changed)) > LARGEST:
        raise Unsupported("M_PROFILE_TOO_LARGE", f"A profile has at most {LARGEST} bytes.")
    if changed != fields:
        _put(tx, user_id, name, changed)


def _field(fields: Json, name: str) -> Any:
    if name not in fields:
        raise NotFound("The profile has no such field.")
    return fields[name]


def _get(tx: ReadTx, user_id: UserId) -> Json:
    fields = profiles.find_many(tx, [user_id]).get(user_id)
    if fields is None:
        if users.find(tx, user_id) is None:
            raise NotFound("There is no such user.")
        return {}
    return fields


def _remove(tx: WriteTx, user_id: UserId, name: str) -> None:
    fields = _get(tx, user_id)
    if name in fields:
        _put(tx, user_id, name, {key: value for key, value in fields.items() if key != name})


def _put(tx: WriteTx, user_id: UserId, name: str, fields: Json) -> None:
    profiles.put(tx, user_id, fields)
    if name in _IN_ROOMS:
        profiles.note_change(tx, Change(stream_rows.advance(tx), user_id))
        tx.wake([CHANGES])
