"""A bounded map that drops what was used longest ago."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """At most `capacity` entries, or as many as weigh that much. A service owns it and drops what its writes changed.

    What other servers say is weighed, as they decide how large it is.
    """

    def __init__(self, capacity: int, weigh: Callable[[V], int] | None = None) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._capacity = capacity
        self._weigh = weigh
        self._weights: dict[K, int] = {}
        self._weight = 0

    def get(self, key: K) -> V | None:
        """The value, or None if it is not held."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Hold the value, dropping the entries used longest ago when full."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if self._weigh is None:
            if len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
            return
        self._weight -= self._weights.get(key, 0)
        self._weights[key] = self._weigh(value)
        self._weight += self._weights[key]
        while self._weight > self._capacity:
            self.drop(next(iter(self._entries)))

    def drop(self, key: K) -> None:
        """Forget the key; nothing happens if it is not held."""
        self._entries.pop(key, None)
        self._weight -= self._weights.pop(key, 0)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._weights.clear()
        self._weight = 0

    def __len__(self) -> int:
        return len(self._entries)
