"""Sends to other servers: joins the parts of this package."""

import asyncio
from functools import partial

from homeserver.consumers.federation import start
from homeserver.consumers.federation.backlog import Backlog
from homeserver.consumers.federation.bisection import Bisection
from homeserver.consumers.federation.contents import Contents
from homeserver.consumers.federation.deliveries import Deliveries
from homeserver.consumers.federation.gauges import Gauges
from homeserver.consumers.federation.ledger import Ledger
from homeserver.consumers.federation.news import News
from homeserver.consumers.federation.outcomes import Outcomes
from homeserver.consumers.federation.packing import Packing
from homeserver.consumers.federation.recipients import Recipients
from homeserver.consumers.federation.start import Start
from homeserver.consumers.federation.turns import Turns
from homeserver.consumers.federation.upkeep import Upkeep
from homeserver.consumers.loop import forever
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.destinations import Destinations
from homeserver.outbound.ephemeral import Ephemeral
from homeserver.outbound.federation import FederationClient
from homeserver.storage.engine import Database
from homeserver.streams.notifier import Notifier


class FederationSender:
    """Sends to other servers."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        notifier: Notifier,
        client: FederationClient,
        health: Destinations,
        ephemeral: Ephemeral,
        metrics: Metrics,
        server_name: str,
        connections: int,
    ) -> None:
        """So many requests may be under way to all servers together, of which the sender takes a part."""
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._notifier = notifier
        self._client = client
        self._health = health
        self._ephemeral = ephemeral
        self._metrics = metrics
        self._own = ServerName(server_name)
        self._connections = connections

    async def run(self) -> None:
        """Work until cancelled."""
        recipients = Recipients(self._own, self._ephemeral)
        turns = Turns(self._clock, recipients, self._health, self._connections)
        ledger = Ledger(self._database, self._clock)
        contents = Contents(self._database)
        news = News(self._database, self._notifier, recipients, turns, contents)
        deliveries = self._deliveries(recipients, turns, ledger, contents)
        backlog = Backlog(self._database, self._clock, self._metrics, self._health, recipients)
        upkeep = Upkeep(self._database, self._clock)
        Gauges(self._clock, self._health, recipients).show(self._metrics)
        found = await self._database.snapshot(start.read)
        Start(self._clock, recipients, turns, self._health, self._ephemeral).take_up(found)
        async with asyncio.TaskGroup() as group:
            group.create_task(ledger.run())
            group.create_task(forever(news.follow_log, self._clock))
            group.create_task(forever(partial(news.follow_ephemeral, self._ephemeral), self._clock))
            group.create_task(forever(partial(news.follow_signs, self._health), self._clock))
            group.create_task(turns.run(deliveries.serve))
            group.create_task(backlog.run())
            group.create_task(upkeep.run(recipients, turns, ledger))

    def _deliveries(self, recipients: Recipients, turns: Turns, ledger: Ledger, contents: Contents) -> Deliveries:
        packing = Packing(self._database, self._clock, self._randomness, self._ephemeral, recipients, ledger)
        outcomes = Outcomes(self._clock, self._metrics, self._health, self._ephemeral, ledger, turns)
        bisection = Bisection(self._clock, self._randomness, self._client, self._health, ledger, outcomes)
        return Deliveries(self._clock, self._client, packing, contents, outcomes, bisection)
