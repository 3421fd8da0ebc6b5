"""Sessions of user-interactive authentication: what has been done so far."""

from sqlalchemy import BigInteger, Column, Table, bindparam, delete, insert, select, update

from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.tables import Text, metadata

interactive_sessions = Table(
    "interactive_sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("operation", Text, nullable=False),
    Column("completed", Text, nullable=False),  # Stages, separated by blanks, each with its token behind a colon.
    Column("created_ts", BigInteger, nullable=False, index=True),
)

_ENTRIES = select(interactive_sessions.c.completed).where(interactive_sessions.c.session_id == bindparam("session_id"))
_FIND = select(interactive_sessions.c.completed).where(
    interactive_sessions.c.session_id == bindparam("session_id"),
    interactive_sessions.c.operation == bindparam("operation"),
    interactive_sessions.c.created_ts > bindparam("since"),
)
_OPERATION = select(interactive_sessions.c.operation).where(
    interactive_sessions.c.session_id == bindparam("session_id"),
    interactive_sessions.c.created_ts > bindparam("since"),
)
_TAKE = delete(interactive_sessions).where(
    interactive_sessions.c.session_id == bindparam("id"),
    interactive_sessions.c.operation == bindparam("operation"),
    interactive_sessions.c.created_ts > bindparam("since"),
)


def find(tx: ReadTx, session_id: str, *, operation: str, since: int) -> list[str] | None:
    """The stages done in the session, or None if this operation has no such session that began after `since`."""
    values = {"session_id": session_id, "operation": operation, "since": since}
    completed = tx.connection.execute(_FIND, values).scalar_one_or_none()
    return None if completed is None else completed.split()


def find_operation(tx: ReadTx, session_id: str, *, since: int) -> str | None:
    """What the session was begun for, or None if there is no such session that began after `since`."""
    values = {"session_id": session_id, "since": since}
    return tx.connection.execute(_OPERATION, values).scalar_one_or_none()


def find_entries(tx: ReadTx, session_id: str) -> list[str]:
    """The stages done in a session, with their tokens."""
    completed = tx.connection.execute(_ENTRIES, {"session_id": session_id}).scalar_one_or_none()
    return [] if completed is None else completed.split()


def begin(tx: WriteTx, session_id: str, *, operation: str, now: int, expired: int) -> None:
    """Make a session, and clear away those that began before `expired`."""
    tx.connection.execute(delete(interactive_sessions).where(interactive_sessions.c.created_ts < expired))
    values = {"session_id": session_id, "operation": operation, "completed": "", "created_ts": now}
    tx.connection.execute(insert(interactive_sessions), values)


def complete(tx: WriteTx, session_id: str, stages: list[str]) -> None:
    """Note the stages that have been done."""
    tx.connection.execute(
        update(interactive_sessions)
        .where(interactive_sessions.c.session_id == session_id)
        .values(completed=" ".join(stages))
    )


def take(tx: WriteTx, session_id: str, *, operation: str, since: int) -> bool:
    """End the session; False if this operation has no such session that began after `since`."""
    values = {"id": session_id, "operation": operation, "since": since}
    return tx.connection.execute(_TAKE, values).rowcount == 1


def end(tx: WriteTx, session_id: str) -> None:
    """The operation has been carried out."""
    tx.connection.execute(delete(interactive_sessions).where(interactive_sessions.c.session_id == session_id))
