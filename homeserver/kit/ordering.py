"""Topological order."""

from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def in_topological_order(behind: Mapping[K, Collection[K]]) -> Iterator[K]:
    """The keys, each after those that it stands behind, which are keys as well; what is in circles is left out.

    Chains beside each other come one after the other, each in one piece.
    """
    followers: dict[K, list[K]] = {}
    for key, before in behind.items():
        for one in before:
            followers.setdefault(one, []).append(key)
    left = {key: len(before) for key, before in behind.items()}
    ready = [key for key, count in reversed(left.items()) if not count]
    while ready:
        key = ready.pop()
        yield key
        for follower in followers.get(key, ()):
            left[follower] -= 1
            if not left[follower]:
                ready.append(follower)
