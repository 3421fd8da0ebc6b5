"""The graph that `auth_events` make among the state events of a room (rooms v2, "State resolution").

Events are known by the positions at which they were stored; what an event cites always lies below it.
:class:`AuthGraph` is the part of the graph that was loaded for a question. A question is answered by a pair: what is
needed first, and positions.

``("rows", positions)``: `add` these events as (position, pair id, packed auth events), and ask again.
``("above", [position])``: `add` all state events of the room above it, then `set_complete_above(position)`.
``("unknown", positions)``: `tell` for each whether it is in the unconflicted state (`pair_of` names its pair).
``("done", positions)``: the answer, ascending.

``difference(sets)``
    The auth difference of several states, without the conflicted events themselves; each state is given by its
    events of the conflicted pairs. A state's own events count as part of its auth chain.

``subgraph(conflicted)``
    The conflicted state subgraph of room version 12, the conflicted events included.

``pack(position, auth) -> bytes`` and ``unpack(position, packed) -> list[int]`` are the stored form of an event's auth
events; ``add_unstored`` adds an event that is not stored yet.
"""

from homeserver._rust.auth_graph import AuthGraph, pack, unpack

__all__ = ["AuthGraph", "Step", "pack", "unpack"]

Step = tuple[str, list[int]]
