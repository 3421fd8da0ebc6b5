"""Deliveries of other servers (server-server API, Transactions)."""

from msgspec import Raw
from starlette.responses import Response

from homeserver.errors import BadJson, TooLarge
from homeserver.http.bodies import Body
from homeserver.http.endpoint import SERVER, Endpoint
from homeserver.matrix.canonical import CanonicalJsonError, items
from homeserver.matrix.identifiers import Origin
from homeserver.services.federation.transactions import MOST_EDUS, MOST_PDUS, Sent, Transactions

_LARGEST = (10 << 20) - 1
"""50 events of 64 KiB, and 100 pieces of data of the same size, as messages to devices are; and something besides."""


class Transaction(Body, frozen=True):
    origin: str
    pdus: Raw
    edus: Raw = Raw(b"[]")


async def send(txn_id: str, body: Transaction, origin: Origin, transactions: Transactions) -> Response:
    # Nobody makes a list of what is far too many: it would take seconds.
    sent = Sent(body.origin, _items(body.pdus, "PDUs", MOST_PDUS), _items(body.edus, "EDUs", MOST_EDUS))
    answer = await transactions.receive(origin, txn_id, sent)
    return Response(answer, media_type="application/json")


def _items(raw: Raw, what: str, most: int) -> list[bytes]:
    try:
        found = items(bytes(raw), most)
    except CanonicalJsonError:
        raise BadJson(f"The {what} are no array.") from None
    if found is None:
        raise TooLarge(f"A transaction has at most {most} {what}.")
    return found


ENDPOINTS = [
    Endpoint("PUT", "/send/{txn_id}", send, auth=SERVER, limit="deliver", body=Transaction, largest=_LARGEST),
]
