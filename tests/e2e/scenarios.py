"""Running the scenarios in tests/e2e/js."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "js"


@dataclass(frozen=True)
class Homes:
    """The base URLs of the servers that people are on: of some, and of others, which may be the same."""

    url: str
    elsewhere: str


def play(node: Path, scenario: str, home: str | Homes, *arguments: str | Path) -> Any:
    """Run one scenario to its end and return its result; what the library logged is printed."""
    homes = home if isinstance(home, Homes) else Homes(home, home)
    command = [node, FOLDER / f"{scenario}.mjs", homes.url, *arguments]
    settings = os.environ | {"ELSEWHERE_URL": homes.elsewhere}
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, env=settings)
    print(done.stderr[-20_000:])
    lines = done.stdout.strip().splitlines()
    assert lines, f"{scenario} ended with {done.returncode} and said nothing"
    outcome = json.loads(lines[-1])
    assert outcome["ok"], outcome["error"]
    return outcome["result"]
