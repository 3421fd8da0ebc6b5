"""State resolution of all room versions (server-server API, "Room State Resolution", and room versions 1, 2 and 12).

``resolve(version, *, create, unconflicted, conflicted, auth_difference, subgraph, known, rejected) -> Resolution``
    Decide a conflict without the rest of the state. ``create`` is the room's create event. ``conflicted`` are all
    events of the pairs of type and state key that are not the same in all states. ``auth_difference`` are the events
    in the full auth chains of some, but not all states, where the events of a state are part of its chain
    (version 1 does not look at it), ``subgraph`` those of the conflicted state subgraph (only version 12 does).
    ``unconflicted`` are events of the state that all have in common: at least those of the pairs that
    ``needed_pairs(events)`` names, for the events of these three lists. ``known`` are any other events, and
    ``rejected`` the ids of those of all these that were rejected.

    Where :attr:`Resolution.missing` is not empty, nothing is decided: load these events, append them to ``known``
    and call again. At first these are the auth events of the conflicted ones, all at once, and then links of chains
    of power levels, one of each chain at a time; whoever knows these chains gives them at once.

``resolve_states(version, states, events, rejected=()) -> Resolution``
    The whole thing in memory, for tests and small uses: ``events`` are those of the states, and of their auth chains.

:class:`Resolution` has

- ``state``: the event id of each conflicted pair that has one now; conflicted pairs that are not in it have no event
  any more. (A pair that is in no state at all may come on top, out of the auth difference; it is new state then.)
- ``lost``: the events that were tried and not allowed, each with the reason in words.
- ``applied``: the events that were allowed, in order; a later one replaces an earlier one of the same pair.
- ``missing``: what to load before another try.

Neither the order of the events nor that of the states matters. The interpreter lock is released meanwhile.
"""

from homeserver._rust.state_res import Resolution, needed_pairs, resolve, resolve_states

__all__ = ["Resolution", "needed_pairs", "resolve", "resolve_states"]
