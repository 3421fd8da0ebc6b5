"""Waiting for what is not known yet of rooms that are known in part (docs/decisions/0016-rooms-known-in-part.md)."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from homeserver.errors import HomeserverError, NotFound, Unavailable
from homeserver.matrix.identifiers import RoomId
from homeserver.services.rooms.hot import HotRoom
from homeserver.storage import members, partial_rooms, room_servers, rooms
from homeserver.storage.engine import Database, ReadTx
from homeserver.streams.notifier import Notifier

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Join:
    """A join whose room is known in part, for people to look at."""

    room_id: RoomId
    via: str
    since_ts: int
    members: int
    """So many are known to be in the room."""
    servers: int
    done: int
    total: int
    failures: int
    failure: str | None
    retry_ts: int


COMPLETED = "completed rooms"
"""The notifier's key of rooms whose members have just become known."""

_PATIENCE_S = 30.0
_NOT_YET = "The members of the room are still being fetched from other servers. Try again in a while."


class InPart(HomeserverError):
    """What is asked for needs all members of a room that is known in part."""

    def __init__(self, room_nid: int) -> None:
        super().__init__()
        self.room_nid = room_nid


class PartialRooms:
    """Lets those wait who need to know all members, for a bounded time."""

    def __init__(self, database: Database, notifier: Notifier) -> None:
        self._database = database
        self._notifier = notifier

    async def read(self, unit: Callable[[ReadTx], T]) -> T:
        """What the unit finds, which raises `InPart` where it has to know all members.

        Raises `Unavailable` if they do not become known in time: who is told of some takes them for all.
        """
        while True:
            try:
                return await self._database.snapshot(unit)
            except InPart as room:
                await self.until_whole(room.room_nid)

    async def list(self) -> list[Join]:
        """The joins whose rooms are known in part, and how far each has come."""
        return await self._database.snapshot(list_joins)

    async def until_known(self, room: HotRoom, user_id: str) -> None:
        """Wait until it is known what the user is in the room. Raises `Unavailable` if that takes too long."""
        if room.partial is not None and room.room_nid is not None and not room.state.knows(user_id):
            await self.until_whole(room.room_nid)

    async def until_whole(self, room_nid: int) -> None:
        """Wait until the room is whole. Raises `Unavailable` if that takes too long."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE_S
        with self._notifier.waiting_for([COMPLETED]) as waiter:
            while await self._database.read(partial_rooms.find_many, [room_nid]):
                left = end - loop.time()
                if left <= 0 or self._notifier.is_stopping:
                    raise Unavailable(_NOT_YET)
                await waiter.wait(left)


def list_joins(tx: ReadTx) -> list[Join]:
    """The rooms that are known in part, the one that was joined first in front."""
    found = partial_rooms.list_all(tx)
    nids = [one.room_nid for one in found]
    known, joined = rooms.find_many(tx, nids), members.count_joined(tx, nids)
    return [
        Join(
            room_id=known[one.room_nid].room_id,
            via=one.via,
            since_ts=one.since_ts,
            members=joined.get(one.room_nid, 0),
            servers=len(room_servers.list_open(tx, one.room_nid)),
            done=one.done,
            total=one.total,
            failures=one.failures,
            failure=one.failure,
            retry_ts=one.retry_ts,
        )
        for one in found
        if one.room_nid in known
    ]


def need_all_members(tx: ReadTx, room_nid: int) -> None:
    """Raise `InPart` if the room is known in part."""
    if partial_rooms.find_many(tx, [room_nid]):
        raise InPart(room_nid)


def check_whole(room: HotRoom) -> None:
    """Raise `NotFound` if this server cannot speak for the room to others yet."""
    if room.partial is not None:
        raise NotFound("This server knows the room in part only. Ask another one.")
