"""The map of `services/rooms`, which is in the docstring of the package, is true."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from homeserver.services import rooms

_FOLDER = Path(rooms.__file__).parent
_GROUPS = [re.findall(r"`(\w+)`", group) for group in (rooms.__doc__ or "").split("\n- ")[1:]]
_GROUP_OF = {name: number for number, names in enumerate(_GROUPS) for name in names}


def _imported(name: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((_FOLDER / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{rooms.__name__}."):
            yield (node.module or "").removeprefix(f"{rooms.__name__}.")


def test_every_module_is_in_one_group() -> None:
    """A new module: name it in `services/rooms/__init__.py`, in the first group that it fits and may stand in."""
    named = [name for names in _GROUPS for name in names]
    assert sorted(named) == sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem != "__init__")


def test_groups_use_those_above_them_only() -> None:
    below = {(name, used) for name in _GROUP_OF for used in _imported(name) if _GROUP_OF.get(used, 0) > _GROUP_OF[name]}
    assert below == set()
