"""What a server is still to have.

For one that keeps up, the positions of the events that come next are in memory, a few hundred at most. Any other is
behind: nothing is kept for it, and what it lacks is looked up when it is its turn.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

_MOST_QUEUED = 200
"""So many positions of a server are in memory."""


@dataclass(slots=True, eq=False)
class Pending:
    """Events and data that wait for a server; what is ephemeral does so elsewhere."""

    queue: deque[int] = field(default_factory=deque)
    """Positions of events, the oldest first: all that it is to have, unless it is behind."""
    is_behind: bool = False
    """What it is to have has to be looked up."""
    has_edus: bool = False
    """There is data for it, behind `edus_after`."""
    edus_after: int = 0
    has_grown: bool = False
    """More data has come for it than what waits was last bounded with."""
    is_greeted: bool = True
    """It need not be told that this server is there again."""

    @property
    def is_any(self) -> bool:
        """Whether something waits, or may."""
        return bool(self.queue) or self.is_behind or self.has_edus

    def add_event(self, position: int) -> bool:
        """The event at this position is for the server; whether that was news."""
        if self.is_behind:
            return False
        if len(self.queue) >= _MOST_QUEUED:
            self.fall_behind()
            return False
        self.queue.append(position)
        return True

    def take_events(self, at_most: int) -> list[int]:
        """The next events of one that keeps up."""
        return [self.queue.popleft() for _ in range(min(at_most, len(self.queue)))]

    def fall_behind(self) -> None:
        """Keep nothing for it: what it lacks is looked up when it is its turn."""
        self.is_behind = True
        self.queue.clear()

    def look_again(self) -> None:
        """What it lacks could not be read: nothing is known but that there may be something."""
        self.fall_behind()
        self.has_edus = True

    def begin_look_up(self) -> None:
        """What it lacks is being looked up: what is new from here on comes to the queue."""
        self.is_behind = False
        self.queue.clear()

    def end_look_up(self, rest: Sequence[int], *, is_all: bool) -> bool:
        """Before what has come meanwhile, this is what it lacks; whether it keeps up now, as that is all."""
        if not is_all or self.is_behind:
            self.fall_behind()
            return False
        self.queue.extendleft(reversed(rest))
        return True

    def add_edus(self) -> None:
        """New data has come for it."""
        self.has_edus = self.has_grown = True

    def begin_edus(self) -> int:
        """Its data is being read; behind which position. What comes meanwhile is noted again."""
        self.has_edus = False
        return self.edus_after

    def leave_edus(self) -> None:
        """Some of its data goes with a later transaction."""
        self.has_edus = True

    def end_edus(self, upto: int) -> None:
        """It has its data up to this position."""
        self.edus_after = upto

    def begin_bounding(self) -> None:
        """What waits is being bounded; what comes from here on is not."""
        self.has_grown = False

    def leave_unbounded(self) -> None:
        """What waits could not be bounded."""
        self.has_grown = True

    def owe_greeting(self) -> None:
        """It is to be told that this server is there again, by an empty transaction if there is nothing else."""
        self.is_greeted = False

    def greet(self) -> None:
        """It is told by what is being sent."""
        self.is_greeted = True
