"""Letting users confirm with their password what they are about to do (client-server API, User-Interactive
Authentication API). An operation is named in words: the page on which it can be confirmed shows them.
"""

from dataclasses import dataclass

from homeserver.matrix.identifiers import UserId
from homeserver.services.auth.interactive import AuthData, InteractiveAuth
from homeserver.services.auth.sessions import Requester
from homeserver.services.users.accounts import Accounts

STAGE = "m.login.password"
_FLOWS = [(STAGE,)]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a session waits for: that this user confirms this operation."""

    user_id: UserId
    operation: str


class Confirmation:
    """Asks users for their password, in their client or on a page of this server."""

    def __init__(self, interactive: InteractiveAuth, accounts: Accounts) -> None:
        self._interactive = interactive
        self._accounts = accounts

    async def require(self, who: Requester, operation: str, auth: AuthData | None) -> str:
        """The session in which the operation was confirmed; give it to `end` after the operation.

        Raises `InteractiveAuthNeeded` until then.
        """
        checks = {STAGE: self._accounts.password_stage(who.user_id)}
        return await self._interactive.require(f"{who.user_id} {operation}", auth, _FLOWS, checks)

    async def end(self, session: str) -> None:
        """The operation has been carried out: the session confirms nothing else."""
        await self._interactive.end(session)

    async def find(self, session: str) -> Asked | None:
        """What is asked in a session; None if it is over, or no such session."""
        operation = await self._interactive.find_operation(session)
        if operation is None or not operation.startswith("@"):
            return None
        user_id, _, what = operation.partition(" ")
        return Asked(UserId(user_id), what)

    async def complete_stage(self, asked: Asked, auth: AuthData) -> str | None:
        """Confirm with a password on a page; the reason if it is not good, else None."""
        checks = {STAGE: self._accounts.password_stage(asked.user_id)}
        operation = f"{asked.user_id} {asked.operation}"
        return await self._interactive.complete_stage(operation, auth, _FLOWS, checks)
