"""Sends transactions to a server, one after the other."""

import asyncio

from homeserver.consumers.federation.bisection import Bisection
from homeserver.consumers.federation.contents import Contents
from homeserver.consumers.federation.outcomes import Outcomes
from homeserver.consumers.federation.packing import Packing
from homeserver.consumers.federation.recipients import Recipient
from homeserver.errors import RemoteFailure, Unavailable
from homeserver.kit import crash
from homeserver.kit.clock import Clock
from homeserver.kit.logs import report
from homeserver.outbound.federation import FederationClient

_IN_A_ROW = 20
_PAUSE_S = 2.0


class Deliveries:
    """Sends what there is for a server whose turn it is."""

    def __init__(
        self,
        clock: Clock,
        client: FederationClient,
        packing: Packing,
        contents: Contents,
        outcomes: Outcomes,
        bisection: Bisection,
    ) -> None:
        self._clock = clock
        self._client = client
        self._packing = packing
        self._contents = contents
        self._outcomes = outcomes
        self._bisection = bisection

    async def serve(self, recipient: Recipient) -> None:
        """Send some transactions, as long as they are taken."""
        [outcome] = await asyncio.gather(self._deliver_some(recipient), return_exceptions=True)
        if isinstance(outcome, Unavailable):
            # The database is away: that is nothing to hold against a server.
            recipient.pending.look_again()
            await self._clock.sleep(_PAUSE_S)
        elif isinstance(outcome, BaseException):
            # Whatever it is, it concerns this server alone.
            report(outcome)
            recipient.pending.look_again()
            kind = type(outcome).__name__
            self._outcomes.failed(recipient, f"Nothing could be sent to it, which is a fault of this server: {kind}")

    async def _deliver_some(self, recipient: Recipient) -> None:
        for _ in range(_IN_A_ROW):
            if not await self._deliver(recipient):
                return

    async def _deliver(self, recipient: Recipient) -> bool:
        """Send one transaction; whether there may be another to send at once."""
        parcel = await self._packing.pack(recipient)
        if parcel is None:
            return False
        assert recipient.progress.row.txn_id is not None
        pdus = await self._contents.pdus(parcel)
        edus = await self._contents.edus(recipient, parcel)
        if parcel.is_durable and not pdus and not edus:
            # All of it was purged in the meantime.
            self._outcomes.conclude(recipient, parcel)
            return True
        try:
            answer = await self._client.send_transaction(
                recipient.name, recipient.progress.row.txn_id, pdus=pdus, edus=edus, origin_server_ts=self._clock.now()
            )
        except RemoteFailure as failure:
            return await self._bisection.cope(recipient, parcel, failure)
        crash.point("K8")
        self._outcomes.delivered(recipient, parcel, answer)
        return True
