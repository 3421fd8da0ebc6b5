"""Places: where events stand in their rooms' timelines (docs/decisions/0012-places.md).

An event that comes as it happens gets the place of a position of the log. Before each such place there is room for
events of the past, which come when what follows them is known already.
"""

_BITS = 20

PAST = (1 << _BITS) - 1
"""The bits that are set in the place of an event of the past, and in no other."""

FIRST = -(1 << 62)
"""Below all places."""

LAST = 1 << 62
"""Above all places."""


def at(position: int) -> int:
    """The place of an event that comes at this position of the log; what has come by then and is not past is below."""
    return position << _BITS


def upto(position: int) -> int:
    """The last place before that of the next position: events of the past that stand before the next one are below."""
    return position << _BITS | PAST


def position_of(place: int) -> int:
    """The position at which the event came; for one of the past, the last before that of the event it stands before."""
    return place >> _BITS


def offset_of(place: int) -> int | None:
    """How far above the place of its position the place is; None for the last place before the next position."""
    offset = place & PAST
    return None if offset == PAST else offset


def is_past(place: int) -> bool:
    """Whether it is the place of an event of the past."""
    return bool(place & PAST)


def before(place: int) -> int:
    """The nearest place for an event of the past that is to stand before this one."""
    return place - 1 if is_past(place - 1) else place - 2


def start_of_gap(place: int) -> int:
    """The place of the position before: what stands above it and below this place is past."""
    return place - 1 >> _BITS << _BITS
