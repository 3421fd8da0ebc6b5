"""Public keys of servers, by which their events and requests are checked.

A key that is known and still good for its purpose costs one read of the database. Otherwise its server is asked, all
who want it at the same time waiting for one answer; and where it does not answer, the notaries are. Whoever was asked
is left alone for a while, longer each time that it did not answer: nobody can make this server ask without end.
"""

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from homeserver.errors import Refused, RemoteFailure
from homeserver.kit.caching import Lru
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import FairSemaphore, SingleFlight
from homeserver.matrix.identifiers import ServerName, is_server_name
from homeserver.matrix.server_keys import (
    KEY_ID,
    LONGEST_VALIDITY_MS,
    BadKeys,
    KeyDocument,
    PublishedKey,
    check_signature,
    server_named_in,
    signers_of,
)
from homeserver.matrix.signing import SigningKey
from homeserver.outbound.federation import FederationClient
from homeserver.outbound.operations.servers import Raw
from homeserver.storage import room_servers, server_keys
from homeserver.storage.engine import Database, WriteTx
from homeserver.storage.server_keys import KeyName, ServerKey, StoredDocument

_FOR_EVER = 2**53 - 1
_AT_ONCE = 64
"""So many servers are asked at a time for events, so many for notaries' sake, and so many of one caller's."""
_AT_ONCE_FOR_REQUESTS = 256
_MOST_LEFT = 2_000
"""So many servers at most wait for what the notaries know of them."""
_BUSY = 429
_TRIES = 3
_AGAIN_BUSY_MS = 1_000
_LONGEST_BUSY_MS = 10_000
_IN_A_QUERY = 100
"""So many servers a notary is asked about at once: it need not answer for more."""
_MOST_WANTED = 20
"""So many keys of a server a notary is asked for by their ids."""
_AGAIN_S = 60.0
_MOST_PATIENT_S = 60 * 60.0
_REMEMBERED = 20_000
_IN_MEMORY = 20_000


@dataclass(frozen=True, slots=True)
class _Asked:
    """When a server may be asked again, and how often it has failed in a row."""

    again_s: float
    """By the clock that never leaps: after a wrong date nobody waits until that has come."""
    failures: int = 0
    is_left_to_notaries: bool = False
    """Whether it failed, and the notaries have not been asked since."""


@dataclass(slots=True)
class _Query:
    """Servers that a notary is asked about together, and those that it has vouched for."""

    servers: list[str] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    is_begun: bool = False
    is_done: bool = False


@dataclass(slots=True)
class _Notary:
    """A notary, which is asked one thing at a time: the next ones gather meanwhile."""

    query: _Query = field(default_factory=_Query)
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class KeyRing:
    """Finds keys: this server's own, those that are kept, and those that have to be asked for."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        client: FederationClient,
        server_name: str,
        key: SigningKey,
        *,
        old: Mapping[str, PublishedKey],
        notaries: Collection[str] = (),
    ) -> None:
        """`old` are former keys of this server, by id: old events bear their signatures."""
        self._database = database
        self._clock = clock
        self._client = client
        self._server_name = server_name
        self._own = {
            key_id: ServerKey(server_name, key_id, one.public_key, one.valid_until_ts) for key_id, one in old.items()
        }
        self._own[key.key_id] = ServerKey(server_name, key.key_id, key.public_key, _FOR_EVER)
        self._notaries = {ServerName(one): _Notary() for one in notaries}
        self._known: Lru[KeyName, ServerKey] = Lru(_IN_MEMORY)
        self._asked: Lru[str, _Asked] = Lru(_REMEMBERED)
        # What a notary wants to know of us must not wait for what we want to know of it: so there are two.
        self._finding: SingleFlight[str, bool] = SingleFlight()
        self._asking: SingleFlight[str, bool] = SingleFlight()
        self._turns = FairSemaphore(_AT_ONCE)
        # Anybody can have this server ask for these, and is to keep it neither from checking events, nor from knowing
        # the servers that it shares rooms with.
        self._turns_for_strangers = FairSemaphore(_AT_ONCE_FOR_REQUESTS)
        self._turns_for_neighbours = FairSemaphore(_AT_ONCE_FOR_REQUESTS)
        self._turns_for_others = FairSemaphore(_AT_ONCE)
        self._wanted: dict[str, dict[str, int]] = {}
        """Of servers that are being asked about: the keys that are wanted of them, and until when they must be good."""

    async def find(
        self, wanted: Mapping[KeyName, int], *, patience_s: float | None = None, asker: str | None = None
    ) -> dict[KeyName, ServerKey]:
        """Those of the keys that can be had, by what they have to be good for: a time, 0 for any.

        A key whose validity ends earlier is looked for anew, and given all the same if nothing newer is known. With
        `patience_s`, servers that take longer to answer are not waited for: their answers are for those who ask later.
        With an `asker`, who is known by a network, it is for a request, which does not wait behind events.
        """
        ours = [name for name in wanted if name[0] == self._server_name]
        found = {name: own for name in ours if (own := self._own.get(name[1])) is not None}
        others = [name for name in wanted if name[0] != self._server_name]
        if not others:
            return found
        found |= {name: key for name in others if (key := self._recall(name, wanted[name])) is not None}
        others = [name for name in others if name not in found]
        if not others:
            return found
        found |= await self._read(others)
        lacking: dict[str, dict[str, int]] = {}
        for server, key_id in others:
            ts = wanted[server, key_id]
            if (key := found.get((server, key_id))) is None or key.valid_until_ts < ts:
                lacking.setdefault(server, {})[key_id] = ts
        if lacking:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self.refresh(lacking, asker=asker)
            # Whoever was asked, and by whom: others may have brought keys in the meantime.
            found |= await self._read(others)
        return found

    async def is_kept(self, wanted: Mapping[KeyName, int]) -> bool:
        """Whether all of the keys are kept and good for long enough, so that `find` asks nobody."""
        others = [name for name in wanted if name[0] != self._server_name and not self._recall(name, wanted[name])]
        found = await self._read(others) if others else {}
        return all(name in found and found[name].valid_until_ts >= wanted[name] for name in others)

    def recalls(self, wanted: Mapping[KeyName, int]) -> bool:
        """Whether all of the keys are in memory, so that `find` need not wait for anything."""
        return all(name[0] == self._server_name or self._recall(name, ts) for name, ts in wanted.items())

    def _recall(self, name: KeyName, ts: int) -> ServerKey | None:
        key = self._known.get(name)
        return None if key is None or key.valid_until_ts < ts else key

    async def _read(self, names: Collection[KeyName]) -> dict[KeyName, ServerKey]:
        found = await self._database.read(server_keys.find_many, names)
        for name, key in found.items():
            self._known.put(name, key)
        return found

    async def refresh(
        self, wanted: Mapping[str, Mapping[str, int]], *, asker: str | None = None, is_for_others: bool = False
    ) -> bool:
        """Ask for the keys of servers, unless that was done a short while ago; whether there was any answer.

        With each server are the ids of keys that are wanted above all, and the times at which they have to be good.
        Notaries are asked about servers that do not answer, unless it is for others, whose notary this server is. Who
        comes while it is being done waits for the end of it; who stops waiting leaves only what has begun, which is
        little at a time.
        """
        notaries = not is_for_others
        turns = self._turns_for_others if is_for_others else self._turns
        if asker is not None:
            known = await self._database.read(room_servers.find_known, map(ServerName, wanted))
            turns = self._turns_for_neighbours if len(known) == len(wanted) else self._turns_for_strangers
        left = iter([one for one in wanted if is_server_name(one)])

        async def go_on() -> bool:
            answers = [await self._refresh(one, wanted[one], notaries, turns, asker or "") for one in left]
            return any(answers)

        return any(await asyncio.gather(*(go_on() for _ in range(min(_AT_ONCE, len(wanted))))))

    async def close(self) -> None:
        """Ask nobody any more."""
        await self._finding.close()
        await self._asking.close()

    def may_ask(self, server: str) -> bool:
        """Whether the server was not asked a short while ago."""
        asked = self._asked.get(server)
        return asked is None or asked.again_s <= self._clock.monotonic()

    def _is_due(self, server: str, notaries: bool) -> bool:
        asked = self._asked.get(server)
        return self.may_ask(server) or (notaries and asked is not None and asked.is_left_to_notaries)

    async def _refresh(
        self, server: str, wanted: Mapping[str, int], notaries: bool, turns: FairSemaphore, asker: str
    ) -> bool:
        """Ask about a server when it is its turn, or wait with those who have asked."""
        flights = self._finding if notaries else self._asking
        begin = partial(self._find_out if notaries else self._ask_in_turn, server, turns)
        if not flights.is_under_way(server) and self._is_due(server, notaries):
            await turns.acquire(asker)  # Who is cancelled here has left no work behind.
            if not flights.is_under_way(server) and self._is_due(server, notaries):
                self._note_wanted(server, wanted, notaries)
                return await flights.run(server, begin)  # It gives the turn back.
            turns.release()  # Somebody else was faster.
        if not flights.is_under_way(server):
            return False
        self._note_wanted(server, wanted, notaries)
        return await flights.run(server, begin)

    def _note_wanted(self, server: str, wanted: Mapping[str, int], notaries: bool) -> None:
        """What notaries are to be asked for, should it come to that before the asking has ended."""
        if not notaries:
            return
        noted = self._wanted.setdefault(server, {})
        latest = self._clock.now() + LONGEST_VALIDITY_MS
        for key_id, ts in wanted.items():
            if key_id in noted or len(noted) < _MOST_WANTED:
                noted[key_id] = max(noted.get(key_id, 0), min(ts, latest))

    async def _find_out(self, server: str, turns: FairSemaphore) -> bool:
        """Ask a server for its keys, or else the notaries; whether anybody gave any."""
        try:
            return await self._ask_it_or_notaries(server, turns)
        finally:
            self._wanted.pop(server, None)

    async def _ask_it_or_notaries(self, server: str, turns: FairSemaphore) -> bool:
        """The same; the server itself is asked for as long as the turn lasts."""
        try:
            if (self.may_ask(server) or self._asking.is_under_way(server)) and await self._asking.run(
                server, partial(self._ask, server)
            ):
                return True
        finally:
            turns.release()
        asked = self._asked.get(server)
        if asked is None or not asked.is_left_to_notaries or self._finding.count > _MOST_LEFT:
            return False
        self._asked.put(server, replace(asked, is_left_to_notaries=False))
        return await self._ask_notaries(server)

    async def _ask_in_turn(self, server: str, turns: FairSemaphore) -> bool:
        """Ask a server for its keys, and nobody else; whether it gave any."""
        try:
            return await self._ask(server)
        finally:
            turns.release()

    async def _ask(self, server: str) -> bool:
        """Ask a server for its keys; whether it gave any."""
        now = self._clock.now()
        try:
            raw = await self._client.keys(ServerName(server))
            document = KeyDocument.parse(raw, server, now=now)
        except (RemoteFailure, BadKeys):
            asked = self._asked.get(server) or _Asked(0)
            pause = min(_AGAIN_S * 2**asked.failures, _MOST_PATIENT_S)
            # A notary speaks for itself: its own key is needed in the middle of asking the notaries.
            is_left = bool(self._notaries) and server not in self._notaries
            self._asked.put(server, _Asked(self._clock.monotonic() + pause, min(asked.failures + 1, 10), is_left))
            return False
        # First this: whatever becomes of the answer, it is not to be asked for again and again.
        self._asked.put(server, _Asked(self._clock.monotonic() + _AGAIN_S))
        await self._keep([document], now, is_first_hand=True)
        return True

    async def _ask_notaries(self, server: str) -> bool:
        """Ask the notaries about a server that does not answer itself, in turn; those that are free come first."""
        for name, notary in sorted(self._notaries.items(), key=lambda one: one[1].asking.locked()):
            if await self._ask_with_others(name, notary, server):
                return True
        return False

    async def _ask_with_others(self, name: ServerName, notary: _Notary, server: str) -> bool:
        """Ask a notary about a server, and with it about others that wait for that."""
        query = notary.query
        if query.is_begun or len(query.servers) >= _IN_A_QUERY:
            query = notary.query = _Query()
        query.servers.append(server)
        async with notary.asking:
            if not query.is_done:
                query.is_begun = True
                query.answered = await self._ask_notary(name, query.servers)
                query.is_done = True
        return server in query.answered

    async def _ask_notary(self, notary: ServerName, servers: Sequence[str]) -> set[str]:
        """Keep what a notary says of servers; of which it has something to say."""
        now = self._clock.now()
        answers = await self._query_notary(notary, servers)
        vouched = [await self._vouched_for(bytes(raw), notary, servers, now) for raw in answers]
        documents = [document for document in vouched if document is not None]
        # Of several, what a server said last.
        latest = {one.server_name: one for one in sorted(documents, key=lambda one: one.valid_until_ts)}
        if latest:
            await self._keep(latest.values(), now, is_first_hand=False)
        return set(latest)

    async def _query_notary(self, notary: ServerName, servers: Sequence[str]) -> Sequence[Raw]:
        """What a notary answers; one that is busy is asked again when it says, or soon."""
        tries = _TRIES
        while True:
            tries -= 1
            try:
                answer = await self._client.query_server_keys(
                    notary, {server: self._wanted.get(server, {}) for server in servers}
                )
            except Refused as refused:
                if refused.status != _BUSY or not tries:
                    return []
                pause_ms = _AGAIN_BUSY_MS if refused.patience_ms is None else refused.patience_ms
                await self._clock.sleep(min(max(pause_ms, 0), _LONGEST_BUSY_MS) / 1000)
            except RemoteFailure:
                return []
            else:
                return answer.server_keys

    async def _keep(self, documents: Collection[KeyDocument], now: int, *, is_first_hand: bool) -> None:
        keys = [(document.server_name, key_id) for document in documents for key_id in document.keys]
        await self._database.write(_keep, documents, now, is_first_hand=is_first_hand)
        for name in keys:
            self._known.drop(name)

    async def _vouched_for(
        self, raw: bytes, notary: ServerName, servers: Collection[str], now: int
    ) -> KeyDocument | None:
        """The document, if it is signed by its server and by the notary."""
        server = server_named_in(raw)
        if server is None or server not in servers:
            return None
        try:
            document = KeyDocument.parse(raw, server, now=now)
            for name, key in (await self._keys_of(notary, raw)).items():
                check_signature(raw, notary, name[1], key.public_key)
                return document
        except BadKeys:
            return None
        return None

    async def _keys_of(self, signer: ServerName, raw: bytes) -> dict[KeyName, ServerKey]:
        """The keys by which the signer says it has signed, as far as they are known and good now."""
        now = self._clock.now()
        wanted = {(str(signer), key_id): now for key_id in signers_of(raw).get(signer, {}) if KEY_ID.fullmatch(key_id)}
        return {name: key for name, key in (await self.find(wanted)).items() if key.valid_until_ts >= now}


def _keep(tx: WriteTx, documents: Collection[KeyDocument], now: int, *, is_first_hand: bool) -> None:
    """Keep what servers say of their keys. A notary takes nothing back, as what it tells may be older than that."""
    heads = {} if is_first_hand else server_keys.find_heads(tx, [one.server_name for one in documents])
    newer = [
        one
        for one in documents
        if (head := heads.get(one.server_name)) is None or head.valid_until_ts < one.valid_until_ts
    ]
    server_keys.put_many(tx, _keys_in(newer))
    server_keys.add_many(tx, _keys_in([one for one in documents if one not in newer]))
    stored = [StoredDocument(one.server_name, now, one.valid_until_ts, one.raw) for one in newer]
    server_keys.put_documents(tx, stored)


def _keys_in(documents: Collection[KeyDocument]) -> list[ServerKey]:
    return [
        ServerKey(document.server_name, key_id, key.public_key, key.valid_until_ts)
        for document in documents
        for key_id, key in document.keys.items()
    ]
