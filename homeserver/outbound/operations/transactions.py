"""Delivering events and data."""

from collections.abc import Sequence

import msgspec

from homeserver.matrix.identifiers import ServerName
from homeserver.outbound.operations.asking import V1, Asking, Json, part

Raw = msgspec.Raw


class Received(msgspec.Struct, frozen=True):
    """What became of the events of a transaction, by event id: an object with `error`, or an empty one."""

    pdus: dict[str, Json] = {}


class Transactions(Asking):
    """These operations."""

    async def send_transaction(
        self,
        destination: ServerName,
        txn_id: str,
        *,
        pdus: Sequence[bytes],
        edus: Sequence[bytes],
        origin_server_ts: int,
        timeout_s: float = 60.0,
    ) -> Received:
        """Deliver events and ephemeral data, however the server has fared of late."""
        body = {
            "origin": self._server_name,
            "origin_server_ts": origin_server_ts,
            "pdus": [Raw(pdu) for pdu in pdus],
            "edus": [Raw(edu) for edu in edus],
        }
        target = f"{V1}/send/{part(txn_id)}"
        answer = await self._call(
            "sendTransaction", destination, "PUT", target, Json, content=body, timeout_s=timeout_s, is_patient=True
        )
        # It has taken the whole; what it says of each event is for the log alone.
        results = answer.get("pdus")
        if not isinstance(results, dict):
            return Received()
        return Received({event_id: one for event_id, one in results.items() if isinstance(one, dict)})
