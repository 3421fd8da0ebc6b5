"""The container is its parts, joined by name; handlers ask for what is in it by type."""

from collections import Counter
from dataclasses import fields, is_dataclass
from typing import get_type_hints

from homeserver.app.container import Container


def test_no_two_parts_provide_the_same() -> None:
    parts = [part for part in Container.__mro__[1:] if is_dataclass(part)]
    names = Counter(one for part in parts for one in part.__annotations__)
    assert [name for name, count in names.items() if count > 1] == []
    hints = get_type_hints(Container)
    types = Counter(hints[field.name] for field in fields(Container))
    assert [kind for kind, count in types.items() if count > 1] == []
