"""Account data, tags and stored filters (client-server API, Client Config, Room Tagging, Filtering)."""

import hashlib
from base64 import urlsafe_b64encode
from typing import Any

import msgspec

from homeserver.errors import BadJson, Forbidden, InvalidParam, NotFound, Unsupported
from homeserver.kit.caching import Lru
from homeserver.matrix.filters import Filter, parse_filter
from homeserver.matrix.identifiers import RoomId, UserId
from homeserver.services.auth.sessions import Requester
from homeserver.storage import account_data, filters, stream_rows
from homeserver.storage.account_data import GLOBAL, AccountData
from homeserver.storage.engine import Database, ReadTx, WriteTx

FULLY_READ = "m.fully_read"
PUSH_RULES = "m.push_rules"
_TAGS = "m.tag"
INVITE_PERMISSION = "m.invite_permission_config"
_IGNORED = "m.ignored_user_list"
_LONGEST_TAG = 255
_LONGEST_TYPE = 255
_FILTERS = 10_000

Json = dict[str, Any]


class UserData:
    """What a client keeps for its user."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # A filter never changes, and a client names it in every sync.
        self._filters: Lru[tuple[UserId, str], Filter] = Lru(_FILTERS)

    async def get(self, who: Requester, user_id: UserId, type_: str, room_id: RoomId | None = None) -> msgspec.Raw:
        """The content of a piece of data. Raises `NotFound`."""
        _check_own(who, user_id)
        content = await self._database.read(account_data.find, user_id, room_id or GLOBAL, type_)
        if content is None:
            raise NotFound("There is no account data of this type.")
        return msgspec.Raw(content.encode())

    async def put(
        self, who: Requester, user_id: UserId, type_: str, content: bytes, room_id: RoomId | None = None
    ) -> None:
        """Keep a piece of data. Raises `M_BAD_JSON` (405) for a type that the server makes itself."""
        _check_own(who, user_id)
        if type_ in (FULLY_READ, PUSH_RULES):
            raise Unsupported("M_BAD_JSON", f"{type_} has endpoints of its own.", status=405)
        if not 1 <= len(type_.encode()) <= _LONGEST_TYPE:
            raise InvalidParam(f"A type of account data has 1 to {_LONGEST_TYPE} bytes.")
        await self._database.write(put, user_id, room_id or GLOBAL, type_, _text(content))

    async def tags(self, who: Requester, user_id: UserId, room_id: RoomId) -> Json:
        """The tags of a room."""
        _check_own(who, user_id)
        return _tags(await self._database.read(account_data.find, user_id, room_id, _TAGS))

    async def put_tag(self, who: Requester, user_id: UserId, room_id: RoomId, tag: str, content: Json) -> None:
        """Tag a room, or change the tag."""
        _check_own(who, user_id)
        if len(tag.encode()) > _LONGEST_TAG:
            raise InvalidParam(f"A tag has at most {_LONGEST_TAG} bytes.")
        order = content.get("order")
        if order is not None and (isinstance(order, bool) or not isinstance(order, int | float) or not 0 <= order <= 1):
            raise InvalidParam("The order of a tag is a number from 0 to 1.")
        await self._database.write(_change_tag, user_id, room_id, tag, content)

    async def remove_tag(self, who: Requester, user_id: UserId, room_id: RoomId, tag: str) -> None:
        """Take a tag from a room; it need not be there."""
        _check_own(who, user_id)
        await self._database.write(_change_tag, user_id, room_id, tag, None)

    async def store_filter(self, who: Requester, user_id: UserId, body: bytes) -> str:
        """Keep a filter; the same filter has the same id."""
        _check_own(who, user_id)
        text = _text(body)
        parse_filter(text)
        filter_id = urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:12]).decode()
        await self._database.write(filters.ensure, user_id, filter_id, text)
        return filter_id

    async def get_filter(self, who: Requester, user_id: UserId, filter_id: str) -> msgspec.Raw:
        """A filter as it was stored. Raises `NotFound`."""
        _check_own(who, user_id)
        return msgspec.Raw((await self._filter(user_id, filter_id)).encode())

    async def filter(self, user_id: UserId, text: str | None) -> Filter:
        """The filter that a request names: by its id, or as JSON, or none."""
        if not text:
            return Filter()
        if text.startswith("{"):
            return parse_filter(text)
        stored = self._filters.get((user_id, text))
        if stored is None:
            stored = parse_filter(await self._filter(user_id, text))
            self._filters.put((user_id, text), stored)
        return stored

    async def _filter(self, user_id: UserId, filter_id: str) -> str:
        body = await self._database.read(filters.find, user_id, filter_id) if "\0" not in filter_id else None
        if body is None:
            raise NotFound("There is no filter of this id.")
        return body


def ignored_users(tx: ReadTx, user_id: UserId) -> frozenset[UserId]:
    """The users whom this one does not want to hear (client-server API, Ignoring Users)."""
    content = account_data.find(tx, user_id, GLOBAL, _IGNORED)
    value = {} if content is None else msgspec.json.decode(content)
    users = value.get("ignored_users")
    return frozenset(UserId(user) for user in users if user != user_id) if isinstance(users, dict) else frozenset()


def blocks_invites(tx: ReadTx, user_id: UserId) -> bool:
    """Whether the user wants no invites at all (client-server API, Invite permission)."""
    content = account_data.find(tx, user_id, GLOBAL, INVITE_PERMISSION)
    return content is not None and msgspec.json.decode(content).get("default_action") == "block"


def put(tx: WriteTx, user_id: UserId, room_id: str, type_: str, content: str) -> None:
    """Keep a piece of data and tell the user's devices."""
    account_data.put(tx, AccountData(user_id, room_id, type_, content, stream_rows.advance(tx)))
    tx.wake([user_id])


def _change_tag(tx: WriteTx, user_id: UserId, room_id: RoomId, tag: str, content: Json | None) -> None:
    tags = _tags(account_data.find(tx, user_id, room_id, _TAGS))
    changed = {name: value for name, value in tags.items() if name != tag}
    if content is not None:
        changed[tag] = content
    put(tx, user_id, room_id, _TAGS, msgspec.json.encode({"tags": changed}).decode())


def _tags(content: str | None) -> Json:
    value = {} if content is None else msgspec.json.decode(content)
    tags = value.get("tags")
    return tags if isinstance(tags, dict) else {}


def _text(body: bytes) -> str:
    """The text of a JSON object."""
    value = msgspec.json.decode(body)
    if not isinstance(value, dict):
        raise BadJson("The content is a JSON object.")
    return body.decode()


def _check_own(who: Requester, user_id: UserId) -> None:
    if who.user_id != user_id:
        raise Forbidden("You may only see and change what is your own.")
