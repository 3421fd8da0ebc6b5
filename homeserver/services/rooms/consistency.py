"""Whether what is stored fits together (`homeserver fsck`). It only reads, room by room; the server may be running.

A room is judged in one snapshot of the database. What is held in memory is a few hundred of its events, its current
state and the pages of states that were read of late, whatever the size of its history.
"""

from collections.abc import AsyncIterator, Callable

from homeserver.errors import NotFound
from homeserver.matrix.identifiers import RoomId
from homeserver.services.rooms import findings
from homeserver.services.rooms.findings import Finding, Report
from homeserver.services.rooms.room_check import RoomCheck
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import consistency, events, purges, rooms
from homeserver.storage.engine import Database, ReadTx
from homeserver.storage.rooms import Room

_ROOMS = 100
_MOST = 20


async def count_events(database: Database) -> int:
    """How much there is to look at."""
    return await database.read(events.count)


async def check_room(database: Database, room_id: RoomId, tell: Callable[[int], None]) -> list[Finding]:
    """What is wrong with one room. Raises `NotFound`. `tell` is told how many more events were looked at."""
    room = await database.read(rooms.find, room_id)
    if room is None:
        raise NotFound("This server does not know the room.")
    return await database.snapshot(_check_room, StateTrees(), room, tell)


async def check_rooms(database: Database, tell: Callable[[int], None]) -> AsyncIterator[list[Finding]]:
    """What is wrong with each room."""
    trees = StateTrees()
    after = 0
    while page := await database.read(rooms.list_page, after=after, limit=_ROOMS):
        for room in page:
            yield await database.snapshot(_check_room, trees, room, tell)
        after = page[-1].room_nid


async def check_whole(database: Database) -> list[Finding]:
    """What is wrong beside the rooms: positions, transactions, rows of no room."""
    return await database.snapshot(_check_whole)


def _check_room(tx: ReadTx, trees: StateTrees, room: Room, tell: Callable[[int], None]) -> list[Finding]:
    now = rooms.find_many(tx, [room.room_nid]).get(room.room_nid)
    return [] if now is None else RoomCheck(tx, trees, now, tell).run()


def _check_whole(tx: ReadTx) -> list[Finding]:
    report = Report()
    going = {job.room_nid for job in purges.list_open(tx)}
    for table, room_nid in consistency.list_homeless(tx):
        if room_nid in going:
            continue  # The rest of a room that is being purged.
        report.add(findings.ROOMLESS, f"The table {table} has rows of the room number {room_nid}, which there is not.")
    for event_id, position in consistency.list_ahead(tx, limit=_MOST):
        report.add(findings.FALSE_POSITION, f"Event {event_id} is at position {position}, which was not given out yet.")
    for position in consistency.list_shared_positions(tx, limit=_MOST):
        report.add(findings.FALSE_POSITION, f"Position {position} is that of an event and of a resolved state.")
    for server, position in consistency.list_early(tx, limit=_MOST):
        report.add(
            findings.FALSE_CURSOR,
            f"{server} is said to have all up to position {position}, which was not given out yet.",
        )
    for txn_id, position in consistency.list_undone(tx, limit=_MOST):
        report.add(
            findings.FALSE_TRANSACTION,
            f"The transaction {txn_id!r} is said to have made the event at position {position}, which is not there.",
        )
    for event_id in consistency.list_doubled(tx, limit=_MOST):
        report.add(findings.FALSE_TRANSACTION, f"Event {event_id} is said to be made by more than one transaction.")
    return report.close()
