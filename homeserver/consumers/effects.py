"""Changes to a user that must reach the user's rooms."""

from homeserver.services.live.presence import Presence
from homeserver.services.rooms.members import Members
from homeserver.services.users.profiles import CHANGES
from homeserver.storage import profiles
from homeserver.storage.engine import Database
from homeserver.streams.notifier import Notifier

_BATCH = 100
_LOOK_AGAIN_S = 60.0


class RoomEffects:
    """Tells rooms of new names and pictures, and leaves them for accounts that were deactivated.

    A change is forgotten after the rooms were told, so it may be told twice; that makes no second event, as a member
    event is only sent where it says something new.
    """

    def __init__(self, database: Database, notifier: Notifier, members: Members, presence: Presence) -> None:
        self._database = database
        self._notifier = notifier
        self._members = members
        self._presence = presence

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            with self._notifier.waiting_for([CHANGES]) as waiter:
                while await self._tell():
                    pass
                await waiter.wait(_LOOK_AGAIN_S)

    async def _tell(self) -> bool:
        changes = await self._database.read(profiles.list_changes, limit=_BATCH)
        for user_id in dict.fromkeys(change.user_id for change in changes):
            await self._members.follow_account(user_id)
            await self._presence.note_profile(user_id)
        if changes:
            await self._database.write(profiles.forget_changes, changes)
        return bool(changes)
