"""Whether an event is allowed, by what is given: its auth events, and the state that decides it."""

from collections.abc import Collection, Iterable

from homeserver.matrix import event_auth
from homeserver.matrix.event_auth import AuthError
from homeserver.matrix.events import Event
from homeserver.storage.state import Pair


def auth_keys(event: Event) -> list[Pair]:
    """The pieces of state that decide whether the event is allowed."""
    return event_auth.auth_event_keys(
        event.room_version,
        type=event.type,
        sender=event.sender,
        state_key=event.state_key,
        content=event.content_json,
    )


def refusal(
    event: Event,
    cited: Iterable[Event],
    state: Iterable[Event] | None = None,
    create: Event | None = None,
    rejected: Collection[str] = (),
) -> str:
    """Why the event is not allowed by its auth events, or by the state before it; nothing if it is."""
    try:
        event_auth.check_auth(event, list(cited), create=create, rejected=set(rejected))
        if state is not None:
            event_auth.check_state_auth(event, list(state), create=create)
    except AuthError as error:
        return str(error)
    return ""


def state_refusal(event: Event, state: Iterable[Event], create: Event | None) -> str:
    """Why the event is not allowed by a state; nothing if it is. Its auth events are not asked."""
    try:
        event_auth.check_state_auth(event, list(state), create=create)
    except AuthError as error:
        return str(error)
    return ""
