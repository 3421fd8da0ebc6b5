from typing import Any, final

from homeserver._rust.events import Event

__all__ = ["Outcome", "Ruleset", "evaluate"]

@final
class Outcome:
    @property
    def notify(self) -> bool: ...
    @property
    def highlight(self) -> bool: ...
    @property
    def actions(self) -> list[Any]: ...

@final
class Ruleset:
    def __new__(cls, rules: bytes) -> Ruleset: ...
    def __len__(self) -> int: ...

def evaluate(
    event: Event,
    readers: list[tuple[Ruleset, str, str | None]],
    *,
    member_count: int,
    power_levels: Event | None,
    create: Event,
) -> list[Outcome]: ...
