from collections.abc import Iterable, Mapping, Sequence
from typing import final

from homeserver._rust.events import Event

__all__ = ["Resolution", "needed_pairs", "resolve", "resolve_states"]

@final
class Resolution:
    @property
    def state(self) -> dict[tuple[str, str], str]: ...
    @property
    def lost(self) -> list[tuple[str, str]]: ...
    @property
    def applied(self) -> list[str]: ...
    @property
    def missing(self) -> list[str]: ...

def needed_pairs(events: Sequence[Event]) -> list[tuple[str, str]]: ...
def resolve(
    version: str,
    *,
    create: Event,
    unconflicted: Sequence[Event],
    conflicted: Sequence[Event],
    auth_difference: Sequence[Event],
    subgraph: Sequence[Event],
    known: Sequence[Event],
    rejected: Iterable[str],
) -> Resolution: ...
def resolve_states(
    version: str,
    states: Sequence[Mapping[tuple[str, str], str]],
    events: Sequence[Event],
    rejected: Iterable[str] | None = None,
) -> Resolution: ...
