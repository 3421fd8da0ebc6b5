"""User-interactive authentication: stages that a client goes through before an operation is carried out.

(client-server API, User-Interactive Authentication API.) What has been done is kept in the database, so any process
may answer the next step.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from homeserver.errors import InteractiveAuthNeeded
from homeserver.kit.clock import Clock
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import is_opaque
from homeserver.storage import interactive as stored
from homeserver.storage.engine import Database

LIFETIME_MS = 15 * 60 * 1000

# Checks what the client sent for a stage; the reason if it is not good, else None.
Check = Callable[["AuthData"], Awaitable[str | None]]
Flow = tuple[str, ...]


class AuthData(Struct, frozen=True):
    """The `auth` object of a request."""

    type: str | None = None
    session: str | None = None
    password: str | None = None
    identifier: Mapping[str, Any] | None = None
    user: str | None = None
    token: str | None = None


async def dummy(auth: AuthData) -> str | None:
    """`m.login.dummy`: always good."""
    return None


class InteractiveAuth:
    """Leads clients through the stages."""

    def __init__(self, database: Database, clock: Clock, randomness: Randomness) -> None:
        self._database = database
        self._clock = clock
        self._randomness = randomness

    async def require(
        self,
        operation: str,
        auth: AuthData | None,
        flows: Sequence[Flow],
        checks: Mapping[str, Check],
        params: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the session's id when one of the flows is done; call `end` with it after the operation.

        `operation` ties a session to what it was begun for. Raises `InteractiveAuthNeeded` with the answer that tells
        the client what is left.
        """
        params = params or {}
        now = self._clock.now()
        entries: list[str] | None = None
        if auth is not None and auth.session is not None:
            entries = await self._database.read(stored.find, auth.session, operation=operation, since=now - LIFETIME_MS)
        session = auth.session if auth is not None else None
        if session is None or entries is None:
            begun = self._randomness.token(24)
            await self._database.write(stored.begin, begun, operation=operation, now=now, expired=now - LIFETIME_MS)
            if auth is None or auth.type is None or session is not None:
                raise InteractiveAuthNeeded(_answer(begun, flows, params, []))
            # Many clients go through the first stage at once, without asking for a session before.
            session, entries = begun, []
        assert auth is not None
        done = _stages(entries)
        if auth.type is not None and auth.type not in done:
            reason = await self._try(auth, done, flows, checks)
            if reason is not None:
                failure = {"errcode": "M_FORBIDDEN", "error": reason}
                raise InteractiveAuthNeeded(_answer(session, flows, params, done) | failure)
            done = _stages(await self._complete(session, entries, auth))
        if tuple(done) in flows:
            return session
        raise InteractiveAuthNeeded(_answer(session, flows, params, done))

    async def complete_stage(
        self, operation: str, auth: AuthData, flows: Sequence[Flow], checks: Mapping[str, Check]
    ) -> str | None:
        """Do a stage of a session outside the client, on a page; the reason if it cannot be done, else None."""
        assert auth.type is not None
        since = self._clock.now() - LIFETIME_MS
        session = auth.session or ""
        found = None
        if "\0" not in session:
            found = await self._database.read(stored.find, session, operation=operation, since=since)
        if found is None:
            return "This page is out of date. Begin again in your app."
        done = _stages(found)
        if auth.type in done:
            return None
        reason = await self._try(auth, done, flows, checks)
        if reason is None:
            await self._complete(session, found, auth)
        return reason

    async def find_operation(self, session: str) -> str | None:
        """What the session was begun for; None if there is no such session, or it is over."""
        if "\0" in session:
            return None
        return await self._database.read(stored.find_operation, session, since=self._clock.now() - LIFETIME_MS)

    async def token_given(self, session: str, stage: str) -> str | None:
        """The token with which a stage of the session was done."""
        found = await self._database.read(stored.find_entries, session)
        return next((entry.partition(":")[2] for entry in found if entry.partition(":")[0] == stage), None)

    async def _complete(self, session: str, entries: list[str], auth: AuthData) -> list[str]:
        # A token is kept with its stage: the request that ends the flow need not carry it.
        keep = auth.token is not None and is_opaque(auth.token)
        entry = f"{auth.type}:{auth.token}" if keep else str(auth.type)
        await self._database.write(stored.complete, session, [*entries, entry])
        return [*entries, entry]

    async def end(self, session: str) -> None:
        """The operation has been carried out: the session lets nobody do it again."""
        await self._database.write(stored.end, session)

    async def _try(
        self, auth: AuthData, done: list[str], flows: Sequence[Flow], checks: Mapping[str, Check]
    ) -> str | None:
        assert auth.type is not None
        # Stages of a flow are done in order.
        reachable = {flow[len(done)] for flow in flows if len(flow) > len(done) and list(flow[: len(done)]) == done}
        if auth.type not in reachable:
            return "This stage is not the next one of any flow."
        return await checks[auth.type](auth)


def _stages(entries: Sequence[str]) -> list[str]:
    return [entry.partition(":")[0] for entry in entries]


def _answer(session: str, flows: Sequence[Flow], params: Mapping[str, Any], done: list[str]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "flows": [{"stages": list(flow)} for flow in flows],
        "params": dict(params),
        "session": session,
    }
    if done:
        answer["completed"] = done
    return answer
