"""What a user has the power to do, where no event is built that would be refused by itself."""

from typing import Literal

from homeserver.matrix import event_auth
from homeserver.matrix.event_auth import AuthError
from homeserver.matrix.events import Event


def may_act(
    user_id: str, action: Literal["invite", "kick", "ban", "redact"], power_levels: Event | None, create: Event
) -> bool:
    """Whether the user's level is enough; never where an old room's levels are not numbers."""
    try:
        have = event_auth.power_level_of(user_id, power_levels, create)
        return have is None or have >= event_auth.level_for_action(action, power_levels)
    except AuthError:
        return False


def may_set(user_id: str, type_: str, power_levels: Event | None, create: Event) -> bool:
    """Whether the user's level is enough to send state of this type."""
    try:
        have = event_auth.power_level_of(user_id, power_levels, create)
        return have is None or have >= event_auth.level_for_event(type_, True, power_levels)
    except AuthError:
        return False
