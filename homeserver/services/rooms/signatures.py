"""Whether events are signed by those who must sign them (server-server API, Validating hashes and signatures)."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.matrix import signing
from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import domain_of
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.server_keys import KEY_ID
from homeserver.outbound.keyring import KeyRing
from homeserver.storage.server_keys import KeyName, ServerKey

_MANY = 10
"""From so many signatures on, they are checked in a thread."""
_MOST_KEYS = 10
"""A server that signs has a key or two; all that an event names are looked for."""

Check = tuple[Event, str, str, str]
"""An event, a signer, the id of its key, and the key."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why the signatures of an event prove nothing."""

    reason: str
    is_wrong: bool
    """Whether one of them is wrong; else a key is not known that may become known later."""


class Signatures:
    """Checks signatures of events."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    async def check(self, events: Sequence[Event], *, patience_s: float | None = None) -> list[Doubt | None]:
        """What is wrong with the signatures of each event; None where nothing is.

        Signatures by keys that are not known, or had expired, count for nothing; one that is known must be good. With
        `patience_s`, keys that take longer to be had count as not known.
        """
        return await self._check([(event, signers_of(event)) for event in events], patience_s)

    async def check_one(self, event: Event, signers: Collection[str]) -> str | None:
        """What is wrong with the signatures of these servers on an event; None if all are there and good."""
        [doubt] = await self._check([(event, signers)], None)
        return None if doubt is None else doubt.reason

    async def _check(
        self, events: Sequence[tuple[Event, Collection[str]]], patience_s: float | None
    ) -> list[Doubt | None]:
        signed = [_signed(event, signers) for event, signers in events]
        wanted = _wanted([event for event, _ in events], signed)
        keys = await self._keys.find(wanted, patience_s=patience_s) if wanted else {}
        doubts: list[Doubt | None] = [None] * len(events)
        checks: list[tuple[int, Check]] = []
        for index, ((event, _), by_signer) in enumerate(zip(events, signed, strict=True)):
            for signer, key_ids in by_signer.items():
                good = [key for key_id in key_ids if (key := _usable(keys, (signer, key_id), event)) is not None]
                if not good and not _is_wrong(doubts[index]):
                    reason = f"There is no signature of {signer} by a key that is known."
                    doubts[index] = Doubt(reason, is_wrong=not key_ids)
                checks.extend((index, (event, signer, key.key_id, key.public_key)) for key in good)
        for (index, (_, signer, _, _)), wrong in zip(checks, await _verify(checks), strict=True):
            if wrong is not None:
                doubts[index] = Doubt(f"A signature of {signer} is wrong: {wrong}", is_wrong=True)
        return doubts

    def is_quick(self, events: Sequence[Event]) -> bool:
        """Whether all keys are in memory by which the events say they are signed, so that nobody has to be asked."""
        return self._keys.recalls(_wanted_by(events))

    async def keys_lacking(self, events: Sequence[Event]) -> Mapping[KeyName, int]:
        """The keys by which the events say they are signed, if not all of them are at hand."""
        wanted = _wanted_by(events)
        return {} if await self._keys.is_kept(wanted) else wanted

    async def ask_for_keys(self, keys: Mapping[KeyName, int]) -> None:
        """Ask for keys, and wait until they are there or cannot be had."""
        await self._keys.find(keys)


def _is_wrong(doubt: Doubt | None) -> bool:
    return doubt is not None and doubt.is_wrong


def _wanted_by(events: Sequence[Event]) -> dict[KeyName, int]:
    return _wanted(events, [_signed(event, signers_of(event)) for event in events])


def _wanted(events: Sequence[Event], signed: Sequence[dict[str, list[str]]]) -> dict[KeyName, int]:
    """The keys by which events say they are signed, with the time at which each must have been good."""
    wanted: dict[KeyName, int] = {}
    for event, signers in zip(events, signed, strict=True):
        ts = _must_be_good_at(event)
        for signer, key_ids in signers.items():
            wanted.update({(signer, one): max(ts, wanted.get((signer, one), 0)) for one in key_ids})
    return wanted


async def _verify(checks: Sequence[tuple[int, Check]]) -> list[str | None]:
    items = [check for _, check in checks]
    if len(items) < _MANY:
        return signing.verify_events(items)
    return await asyncio.to_thread(signing.verify_events, items)


def _signed(event: Event, signers: Collection[str]) -> dict[str, list[str]]:
    """Servers that must have signed the event, each with the keys by which it says it has, unless they are too many."""
    signatures = event.signatures
    by_signer = {signer: sorted(filter(KEY_ID.fullmatch, _object(signatures.get(signer)))) for signer in signers}
    return {signer: key_ids if len(key_ids) <= _MOST_KEYS else [] for signer, key_ids in by_signer.items()}


def signers_of(event: Event) -> set[str]:
    """The servers that must have signed the event."""
    version = ROOM_VERSIONS[event.room_version]
    signers: set[str] = set()
    content: dict[str, Any] = event.content if event.type == "m.room.member" else {}
    if not (event.membership == "invite" and "third_party_invite" in content):
        signers.add(domain_of(event.sender))
    if version.event_id_domain_signs:
        signers.add(domain_of(event.event_id))
    authoriser = content.get("join_authorised_via_users_server")
    if version.restricted and event.membership == "join" and isinstance(authoriser, str):
        signers.add(domain_of(authoriser))
    return signers


def _usable(keys: dict[KeyName, ServerKey], name: KeyName, event: Event) -> ServerKey | None:
    """The key, if it was good when the event says it was made (since room version 5)."""
    key = keys.get(name)
    return None if key is None or key.valid_until_ts < _must_be_good_at(event) else key


def _must_be_good_at(event: Event) -> int:
    """The time at which a key must be good to sign the event; 0 where that does not matter (before room version 5)."""
    return event.origin_server_ts if ROOM_VERSIONS[event.room_version].signing_key_validity_enforced else 0


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
