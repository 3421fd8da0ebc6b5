from typing import Any, final

from homeserver._rust.events import Event

__all__ = ["Outcome", "Ruleset", "ServerAcl", "evaluate"]

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

@final
class ServerAcl:
    def __new__(cls, content: bytes) -> ServerAcl: ...
    def allows(self, server_name: str) -> bool: ...

def evaluate(
    event: Event,
    readers: list[tuple[Ruleset, str, str | None]],
    *,
    member_count: int,
    power_levels: Event | None,
    create: Event,
) -> list[Outcome]: ...
