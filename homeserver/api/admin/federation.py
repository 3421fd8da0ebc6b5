"""How it goes with other servers."""

from typing import Any

from homeserver.http.bodies import Empty, Query
from homeserver.http.endpoint import ADMIN, Endpoint
from homeserver.kit.clock import Clock
from homeserver.matrix.identifiers import ServerName
from homeserver.services.federation.destinations import DestinationReports, Report
from homeserver.services.rooms.partial import PartialRooms

_PAGE = 100
_MOST = 1000


class Page(Query, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Which of them, and those whose name has this in it."""

    from_: int = 0
    limit: int = _PAGE
    destination: str = ""


async def list_destinations(query: Page, reports: DestinationReports, clock: Clock) -> dict[str, Any]:
    found = [one for one in await reports.list() if query.destination.lower() in one.name.lower()]
    start = max(0, query.from_)
    end = start + min(max(1, query.limit), _MOST)
    answer: dict[str, Any] = {
        "destinations": [_json(one, clock.now()) for one in found[start:end]],
        "total": len(found),
    }
    if end < len(found):
        answer["next_token"] = str(end)
    return answer


async def destination(destination: ServerName, reports: DestinationReports, clock: Clock) -> dict[str, Any]:
    return _json(await reports.find(destination), clock.now())


async def reset_connection(destination: ServerName, reports: DestinationReports) -> Empty:
    await reports.retry(destination)
    return Empty()


async def list_joins(rooms: PartialRooms) -> dict[str, Any]:
    return {
        "joins": [
            {
                "room_id": one.room_id,
                "via": one.via,
                "since_ts": one.since_ts,
                "members_known": one.members,
                "servers": one.servers,
                "state_events_stored": one.done,
                "state_events": one.total or None,
                "failures": one.failures,
                "error": one.failure,
                "next_retry_ts": None if one.failure is None else one.retry_ts,
            }
            for one in await rooms.list()
        ]
    }


def _json(report: Report, now: int) -> dict[str, Any]:
    row, lack = report.row, report.backlog
    waits = 0 if row.next_retry_ts is None or row.last_attempt_ts is None else row.next_retry_ts - row.last_attempt_ts
    return {
        "destination": report.name,
        "retry_last_ts": row.last_attempt_ts or 0 if row.failures else 0,
        "retry_interval": max(0, waits),
        "failure_ts": row.failing_since_ts,
        "last_successful_stream_ordering": row.delivered or None,
        "failures": row.failures,
        "error": row.error,
        "last_success_ts": row.last_success_ts,
        "next_retry_ts": row.next_retry_ts,
        "backlog": {"events": lack.events, "rooms": lack.rooms, "others": lack.others},
        "skipped": [
            {"position": one.position, "skipped_ts": one.skipped_ts, "error": one.error} for one in report.skipped
        ],
        "words": report.sentences(now),
    }


ENDPOINTS = [
    Endpoint("GET", "/federation/destinations", list_destinations, auth=ADMIN, limit=None, body=None),
    Endpoint("GET", "/federation/joins", list_joins, auth=ADMIN, limit=None, body=None),
    Endpoint("GET", "/federation/destinations/{destination}", destination, auth=ADMIN, limit=None, body=None),
    Endpoint(
        "POST",
        "/federation/destinations/{destination}/reset_connection",
        reset_connection,
        auth=ADMIN,
        limit=None,
        body=None,
    ),
]
