"""A trie over raw path segments.

Segments are split before they are unquoted, so an identifier may contain an escaped slash; the time does not grow
with the number of routes; and an unknown path (404) differs from a wrong method (405).
"""

from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import unquote

from homeserver.errors import InvalidParam, MethodNotAllowed, Unrecognized

T = TypeVar("T")


@dataclass
class _Node(Generic[T]):
    literal: dict[str, "_Node[T]"] = field(default_factory=dict)
    parameter: "_Node[T] | None" = None
    methods: dict[str, tuple[list[str], T]] = field(default_factory=dict)


class Router(Generic[T]):
    """Finds the target of a method and path."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        # The paths without parameters, which need not be taken apart.
        self._literal: dict[tuple[str, bytes], T] = {}

    def add(self, method: str, path: str, target: T) -> None:
        """Declare a route. Raises `ValueError` when it is declared already."""
        node = self._root
        names: list[str] = []
        for segment in path.split("/")[1:]:
            if segment.startswith("{"):
                names.append(segment[1:-1])
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literal.setdefault(segment, _Node())
        if method in node.methods:
            raise ValueError(f"{method} {path} is declared twice")
        node.methods[method] = (names, target)
        if not names:
            self._literal[method, path.encode("ascii")] = target

    def find(self, method: str, raw_path: bytes) -> tuple[T, dict[str, str]]:
        """The target and the path's parameters, unquoted.

        Raises `Unrecognized` for an unknown path, `MethodNotAllowed` for a known one with another method, and
        `InvalidParam` for a parameter that is not UTF-8.
        """
        literal = self._literal.get((method, raw_path))
        if literal is not None:
            return literal, {}
        segments = raw_path.decode("latin-1").split("/")[1:]
        values: list[str] = []
        node = self._descend(self._root, segments, 0, values)
        if node is None:
            raise Unrecognized("There is no such endpoint.")
        found = node.methods.get(method)
        if found is None:
            raise MethodNotAllowed("The endpoint does not take this method.")
        names, target = found
        return target, dict(zip(names, map(_unquote, values), strict=True))

    def _descend(self, node: _Node[T], segments: list[str], at: int, values: list[str]) -> _Node[T] | None:
        if at == len(segments):
            return node if node.methods else None
        segment = segments[at]
        literal = node.literal.get(segment)
        if literal is None and "%" in segment:
            literal = node.literal.get(unquote(segment))
        if literal is not None and (found := self._descend(literal, segments, at + 1, values)) is not None:
            return found
        if node.parameter is None or segment == "":
            return None
        values.append(segment)
        found = self._descend(node.parameter, segments, at + 1, values)
        if found is None:
            values.pop()
        return found


def _unquote(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise InvalidParam("The path is not UTF-8.") from None
