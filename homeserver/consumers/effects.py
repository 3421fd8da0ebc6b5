"""Changes to a user that must reach the user's rooms."""

import asyncio
from dataclasses import dataclass

import structlog

from homeserver.kit.clock import Clock
from homeserver.kit.logs import report
from homeserver.matrix.identifiers import UserId
from homeserver.services.live.presence import Presence
from homeserver.services.rooms.members import Members
from homeserver.services.users.profiles import CHANGES
from homeserver.storage import profiles
from homeserver.storage.engine import Database
from homeserver.storage.profiles import Change
from homeserver.streams.notifier import Notifier

_BATCH = 100
_AT_ONCE = 10
_LOOK_AGAIN_S = 60.0
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 3600.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Pause:
    """Rooms of a user could not be told of a change: until when none of them is, unless there is a newer one."""

    change: int
    due: float
    length_s: float


class RoomEffects:
    """Tells rooms of new names and pictures, and leaves them for accounts that were deactivated.

    A change is forgotten after the rooms were told, so it may be told twice; that makes no second event, as a member
    event is only sent where it says something new. A user with a room that cannot be told now is tried again, at longer
    and longer intervals, and keeps nobody else waiting.
    """

    def __init__(
        self, database: Database, clock: Clock, notifier: Notifier, members: Members, presence: Presence
    ) -> None:
        self._database = database
        self._clock = clock
        self._notifier = notifier
        self._members = members
        self._presence = presence
        self._pauses: dict[UserId, _Pause] = {}

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            with self._notifier.waiting_for([CHANGES]) as waiter:
                await self._tell_all()
                now = self._clock.monotonic()
                soonest = min((pause.due for pause in self._pauses.values()), default=now + _LOOK_AGAIN_S)
                await waiter.wait(min(max(soonest - now, 0), _LOOK_AGAIN_S))

    async def _tell_all(self) -> None:
        """Tell rooms of all changes, but those of users who are to be tried again later."""
        changes: list[Change] = []
        is_end = False
        while not is_end:
            after = changes[-1].position if changes else 0
            changes = await self._database.read(profiles.list_changes, after=after, limit=_BATCH)
            is_end = len(changes) < _BATCH  # What is newer wakes anew: those before it may have their turn again.
            by_user: dict[UserId, list[Change]] = {}
            for change in changes:
                by_user.setdefault(change.user_id, []).append(change)
            turns = asyncio.Semaphore(_AT_ONCE)
            told = await asyncio.gather(*(self._tell(some[-1], turns) for some in by_user.values()))
            # Of those who are to be tried again, one change is kept.
            done = [
                change
                for some, is_told in zip(by_user.values(), told, strict=True)
                for change in (some if is_told else some[:-1])
            ]
            if done:
                await self._database.write(profiles.forget_changes, done)

    async def _tell(self, change: Change, turns: asyncio.Semaphore) -> bool:
        """Tell the user's rooms, unless that is to be tried later; whether all have heard."""
        user_id, pause = change.user_id, self._pauses.get(change.user_id)
        if pause is not None and pause.change == change.position and pause.due > self._clock.monotonic():
            return False
        async with turns:
            [have_all_heard] = await asyncio.gather(self._follow(user_id), return_exceptions=True)
        if have_all_heard is True:
            self._pauses.pop(user_id, None)
            return True
        if isinstance(have_all_heard, BaseException):
            report(have_all_heard)
        length_s = _FIRST_PAUSE_S if pause is None else min(2 * pause.length_s, _LONGEST_PAUSE_S)
        self._pauses[user_id] = _Pause(change.position, self._clock.monotonic() + length_s, length_s)
        log.info("rooms of a user could not be told of a change; they are later", user_id=user_id, in_s=length_s)
        return False

    async def _follow(self, user_id: UserId) -> bool:
        have_all_heard = await self._members.follow_account(user_id)
        await self._presence.note_profile(user_id)
        return have_all_heard
