"""Running the scenarios in tests/e2e/js."""

import json
import subprocess
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "js"


def play(node: Path, scenario: str, url: str, *arguments: str | Path) -> Any:
    """Run one scenario to its end and return its result; what the library logged is printed."""
    command = [node, FOLDER / f"{scenario}.mjs", url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=80)
    print(done.stderr[-20_000:])
    lines = done.stdout.strip().splitlines()
    assert lines, f"{scenario} ended with {done.returncode} and said nothing"
    outcome = json.loads(lines[-1])
    assert outcome["ok"], outcome["error"]
    return outcome["result"]
