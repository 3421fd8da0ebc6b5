"""The state of a room as a persistent tree: nodes never change, and two states share what they have in common.

A state maps the number of a (type, state_key) pair to the position of its event, and is named by the address of its
root. A change writes the nodes between the root and the leaves that it touches, as one *page* or a few, and any root
stays good for as long as its pages are kept. Nothing here knows of a database. (docs/decisions/0005-state-tree.md)

A :class:`Walk` is a question whose pages are elsewhere: as long as it has ``wanted()`` pages, ``give(pages, keep)``
them to it, all of them; then it has its ``result()``. With ``keep`` they go into the cache, too: only what is
committed may. Pages that are corrupt or not given raise StateTreeError.

``find(source, roots, pairs)``
    The values of those of the pairs that are in each state, by root.
``items(source, roots)``
    The whole of each state, by root.
``difference(source, roots)``
    The pairs whose values are not the same in all of the states, with the value in each; None is the empty state.
    What the states share is not read.
``unreachable(source, given_up, kept)``
    The pages that the states which are given up need, and none of those that are kept.

The source of a walk is a :class:`Cache` of pages that were used of late, up to a number of bytes, or a
:class:`Writer`, which also has what it has read and written in its transaction. Both may be used by several threads.

``Writer.change(root, changes, position)`` is the root of the state with the changes, whose pages are numbered by the
position; no other transaction may write under it. The pairs must have been looked up through the writer before.
``take()`` says which pages are to be stored, and after the commit ``keep()`` puts them into the cache.
"""

from homeserver._rust.errors import StateTreeError
from homeserver._rust.state_tree import Cache, Walk, Writer, difference, find, items, unreachable

__all__ = ["Cache", "StateTreeError", "Walk", "Writer", "difference", "find", "items", "unreachable"]
