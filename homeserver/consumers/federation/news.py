"""What is new for other servers: events and data in the log, ephemeral data, and signs of life."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.consumers.federation.audiences import Audiences
from homeserver.consumers.federation.contents import Contents
from homeserver.consumers.federation.recipients import Recipients
from homeserver.consumers.federation.turns import Turns
from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.destinations import Destinations
from homeserver.outbound.ephemeral import Ephemeral
from homeserver.storage import events, outgoing, outgoing_edus, stream_rows
from homeserver.storage.destinations import MOST_EDUS
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.outgoing import FEDERATION, OutgoingEvent
from homeserver.streams.notifier import Notifier

_BATCH = 200
_LOOK_AGAIN_S = 60.0


@dataclass(frozen=True, slots=True)
class _New:
    """What is new in the log, up to a position."""

    upto: int
    events: Sequence[OutgoingEvent]
    audiences: Sequence[frozenset[ServerName]]
    pdus: dict[int, bytes]
    redacted: Sequence[int]
    """Events that were redacted meanwhile, by whomever."""
    edus_for: set[ServerName]


class News:
    """Finds out whom each thing concerns that is new, and wakes them."""

    def __init__(
        self, database: Database, notifier: Notifier, recipients: Recipients, turns: Turns, contents: Contents
    ) -> None:
        self._database = database
        self._notifier = notifier
        self._recipients = recipients
        self._turns = turns
        self._contents = contents
        self._audiences = Audiences()

    async def follow_log(self) -> None:
        """Go on from `recipients.tail`, until cancelled."""
        with self._notifier.waiting_for([FEDERATION]) as waiter:
            while True:
                new = await self._database.snapshot(self._read, self._recipients.tail)
                self._contents.forget(new.redacted)
                self._contents.keep(new.pdus)
                for event, audience in zip(new.events, new.audiences, strict=True):
                    self._hand_out(event.position, audience)
                    self._recipients.tail = event.position
                    await asyncio.sleep(0)
                for server in new.edus_for - {self._recipients.own}:
                    recipient = self._recipients.ensure(server)
                    recipient.pending.add_edus()
                    self._turns.wake(recipient)
                self._recipients.tail = new.upto
                if len(new.events) < _BATCH:
                    await waiter.wait(_LOOK_AGAIN_S)

    async def follow_ephemeral(self, ephemeral: Ephemeral) -> None:
        """Wake those for whom something was put, until cancelled."""
        while True:
            for server in await ephemeral.fresh():
                if server == self._recipients.own:
                    ephemeral.take(server, MOST_EDUS)
                else:
                    self._turns.wake(self._recipients.ensure(server))

    async def follow_signs(self, health: Destinations) -> None:
        """Try those that gave a sign of life, until cancelled."""
        while True:
            for server in await health.awake():
                if (recipient := self._recipients.find(server)) is not None:
                    self._turns.attempt(recipient)

    def _read(self, tx: ReadTx, after: int) -> _New:
        upto = stream_rows.current(tx)
        new = outgoing.list_new(tx, after=after, upto=upto, limit=_BATCH) if upto > after else []
        if len(new) == _BATCH:
            upto = new[-1].position
        audiences = self._audiences.find(tx, new, after=after, upto=upto) if new else []
        found = events.find_many(tx, [event.position for event in new]) if new else {}
        pdus = {position: event.pdu for position, event in found.items()}
        edus_for = outgoing_edus.list_new_destinations(tx, after=after, upto=upto) if upto > after else set()
        redacted = events.list_redacted_between(tx, after=after, upto=upto) if upto > after else []
        return _New(upto, new, audiences, pdus, redacted, edus_for)

    def _hand_out(self, position: int, audience: frozenset[ServerName]) -> None:
        for server in audience:
            if server != self._recipients.own:
                recipient = self._recipients.ensure(server)
                if recipient.pending.add_event(position):
                    self._turns.wake(recipient)
