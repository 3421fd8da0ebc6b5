"""Deliveries of other servers (server-server API, Transactions)."""

from msgspec import Raw, field
from starlette.responses import Response

from homeserver.http.bodies import Body
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.identifiers import Origin
from homeserver.services.federation.transactions import Sent, Transactions

_LARGEST = 8 << 20
"""50 events of 64 KiB, and a good deal besides."""


class Transaction(Body, frozen=True):
    origin: str
    pdus: list[Raw]
    edus: list[Raw] = field(default_factory=list)


async def send(txn_id: str, body: Transaction, origin: Origin, transactions: Transactions) -> Response:
    sent = Sent(body.origin, [bytes(pdu) for pdu in body.pdus], [bytes(edu) for edu in body.edus])
    answer = await transactions.receive(origin, txn_id, sent)
    return Response(answer, media_type="application/json")


ENDPOINTS = [
    Endpoint("PUT", "/send/{txn_id}", send, auth=SERVER, limit="deliver", body=Transaction, largest=_LARGEST),
]
