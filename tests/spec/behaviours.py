"""Which behaviours of the specification map have a test: ``scripts/behaviours [--all-kinds] [GROUP …]``.

A test says what it proves by ``@pytest.mark.behaviours("CS-SYNC-01", …)``; the marks are read from the source, so that
nothing has to run or even import.
"""

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.spec.openapi import FOLDER

TESTS = Path(__file__).parents[1]
_LINE = re.compile(r"^- \*\*(?P<id>(?P<group>[A-Z0-9]+(?:-[A-Z0-9]+)*?)-\d+[a-z]?)\*\* (?P<kind>[MSOX]) (?P<text>.*)$")


@dataclass(frozen=True)
class Behaviour:
    """One line of the map. ``kind`` is M (must), S (should), O (optional) or X (ours)."""

    id: str
    group: str
    kind: str
    text: str


def parse(text: str) -> list[Behaviour]:
    """The behaviours of a specification map, in its order."""
    return [Behaviour(**match.groupdict()) for match in map(_LINE.match, text.splitlines()) if match]


def cited(folder: Path) -> dict[str, list[str]]:
    """Ids in `behaviours` marks of the Python files in a folder, each with the places that cite it."""
    places: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        if "node_modules" in path.parts:
            continue
        source = path.read_text()
        if "behaviours(" not in source:
            continue
        for identifier, line in _marks(ast.parse(source, str(path))):
            places.setdefault(identifier, []).append(f"{path.relative_to(folder.parent)}:{line}")
    return places


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/behaviours", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="for example CS-SYNC; all groups if none is given")
    parser.add_argument("--all-kinds", action="store_true", help="count S, O and X as well as M")
    parser.add_argument("--where", action="store_true", help="list the tests of each behaviour, too")
    options = parser.parse_args(arguments)
    if not (FOLDER / "spec-map.md").exists():
        print(f"scripts/behaviours: missing: {FOLDER}/spec-map.md", file=sys.stderr)
        return 2
    known = parse((FOLDER / "spec-map.md").read_text())
    places = cited(TESTS)
    groups = list(dict.fromkeys(behaviour.group for behaviour in known))
    unknown_groups = [group for group in options.groups if group not in groups]
    if unknown_groups:
        print(
            f"scripts/behaviours: no group {', '.join(unknown_groups)}; there are {' '.join(groups)}", file=sys.stderr
        )
        return 2
    kinds = "MSOX" if options.all_kinds else "M"
    total = Counter[str]()
    for group in options.groups or groups:
        members = [b for b in known if b.group == group and b.kind in kinds]
        without = [b for b in members if b.id not in places]
        total["all"] += len(members)
        total["without"] += len(without)
        if members:
            print(f"{group}: {len(without)} of {len(members)} have no test")
        for behaviour in members:
            if behaviour.id not in places:
                print(f"  {behaviour.id} {behaviour.kind} {behaviour.text}")
            elif options.where:
                print(f"  {behaviour.id} {behaviour.kind} ✓ {' '.join(places[behaviour.id])}")
    print(f"in all: {total['without']} of {total['all']} have no test")
    unknown = sorted(places.keys() - {behaviour.id for behaviour in known})
    for identifier in unknown:
        print(f"unknown id {identifier}, cited at {' '.join(places[identifier])}")
    return 1 if unknown else 0


def _marks(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "behaviours":
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value, node.lineno


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
