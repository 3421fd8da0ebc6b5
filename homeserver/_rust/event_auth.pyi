# ruff: noqa: A002 - arguments are named as the fields of events.
from collections.abc import Set
from typing import Literal

from homeserver._rust.events import Event

__all__ = [
    "auth_event_keys",
    "check_auth",
    "check_state_auth",
    "level_for_action",
    "level_for_event",
    "notification_level",
    "power_level_of",
]

def auth_event_keys(
    version: str, *, type: str, sender: str, state_key: str | None, content: bytes
) -> list[tuple[str, str]]: ...
def check_auth(
    event: Event, auth_events: list[Event], *, create: Event | None = None, rejected: Set[str] | None = None
) -> None: ...
def check_state_auth(
    event: Event, state: list[Event], *, create: Event | None = None, rejected: Set[str] | None = None
) -> None: ...
def level_for_action(action: Literal["invite", "kick", "ban", "redact"], power_levels: Event | None) -> int: ...
def level_for_event(type: str, is_state: bool, power_levels: Event | None) -> int: ...
def notification_level(key: str, power_levels: Event | None) -> int: ...
def power_level_of(user_id: str, power_levels: Event | None, create: Event) -> int | None: ...
