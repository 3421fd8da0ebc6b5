"""The authorisation rules of all room versions (server-server API, "Authorisation rules").

``auth_event_keys(version, *, type, sender, state_key, content) -> list[tuple[str, str]]``
    The state whose current events belong into ``auth_events`` of a new event. The create event is among them up
    to version 11.

``check_auth(event, auth_events, *, create=None, rejected=None) -> None``
    Raises :class:`AuthError`, whose text is the reason, unless the event is allowed by its own ``auth_events``. The
    caller gives exactly the events that the event cites; ``rejected`` holds ids of events that were rejected. In
    version 12 ``create`` is needed, since it is not cited.

``check_state_auth(event, state, *, create=None, rejected=None) -> None``
    The same against a state of the room, given as those of its events that matter (``auth_event_keys`` names
    them): without the rules on the list of ``auth_events``.

Signatures of events are for the caller to check before. Two rules are about signatures: that of a third-party invite
is checked here in full; of ``join_authorised_via_users_server`` only that a signature of that user's server is
there, so the caller must have verified it.

Levels: ``power_level_of(user_id, power_levels, create) -> int | None`` (None: a creator of version 12, above every
number), ``level_for_event(type, is_state, power_levels)``, ``level_for_action(action, power_levels)`` with ``invite``,
``kick``, ``ban`` or ``redact``, and ``notification_level(key, power_levels)``. Without a power levels event the
defaults hold. They raise AuthError where an old room's power levels are not numbers.
"""

from homeserver._rust.errors import AuthError
from homeserver._rust.event_auth import (
    auth_event_keys,
    check_auth,
    check_state_auth,
    level_for_action,
    level_for_event,
    notification_level,
    power_level_of,
)

__all__ = [
    "AuthError",
    "auth_event_keys",
    "check_auth",
    "check_state_auth",
    "level_for_action",
    "level_for_event",
    "notification_level",
    "power_level_of",
]
