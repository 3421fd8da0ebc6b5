"""Who may see an event (client-server API, Room History Visibility)."""

from dataclasses import dataclass

SHARED = "shared"
WORLD_READABLE = "world_readable"
MEMBERS_ONLY = frozenset({"invited", "joined"})
"""Who may see depends on who was there, and on nothing that came later."""
_KNOWN = {WORLD_READABLE, SHARED, *MEMBERS_ONLY}


def history_visibility(value: object) -> str:
    """The visibility that the content of a state event stands for; nonsense counts as `shared`, like absence."""
    return value if isinstance(value, str) and value in _KNOWN else SHARED


@dataclass(frozen=True, slots=True)
class Moment:
    """The room and the user at an event: before it, or after it."""

    visibility: str
    membership: str


def may_see(moment: Moment, *, joined_later: bool) -> bool:
    """Whether the user may see an event that was sent at this moment.

    `joined_later` says whether the user joined at any point after the event. An event that changes the visibility, or
    the user's own membership, may be seen if the moment before it or the one after it allows.
    """
    match moment:
        case Moment("world_readable", _) | Moment(_, "join"):
            return True
        case Moment("shared", _):
            return joined_later
        case Moment("invited", "invite"):
            return True
        case _:
            return False
