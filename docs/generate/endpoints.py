"""Writes docs/endpoints.md from the declared endpoints and the specification's data; with --check only compares."""

import csv
import sys
from pathlib import Path

from homeserver.api.tables import ENDPOINTS

PAGE = Path(__file__).parents[1] / "endpoints.md"
DATA = Path(__file__).parents[3] / "shared" / "spec" / "endpoints.csv"
APIS = {"client-server": "Client-server API", "server-server": "Server-server API"}


def page() -> str:
    served = {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    shapes = {(method, shape(path)) for method, path in served}
    lines = ["# Endpoints", "", "Generated from the declarations in `homeserver/api` by `scripts/docs`.", ""]
    with DATA.open(newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if row["api"] in APIS and row["homeserver_role"].startswith("serves")
        ]
    for api, title in APIS.items():
        own = [row for row in rows if row["api"] == api]
        have = [row for row in own if (row["method"], shape(row["path"])) in shapes]
        lines += [f"## {title}", "", f"{len(have)} of {len(own)} operations are served.", ""]
        lines += ["| operation | served |", "|---|---|"]
        lines += [f"| `{row['method']} {row['path'].strip()}` | {'yes' if row in have else 'not yet'} |" for row in own]
        lines.append("")
    known = {(row["method"], shape(row["path"])) for row in rows}
    lines += ["## Beyond the specification", ""]
    lines += [f"- `{method} {path}`" for method, path in sorted(served) if (method, shape(path)) not in known]
    return "\n".join(lines) + "\n"


def shape(path: str) -> str:
    return "/".join("{}" if part.startswith("{") else part for part in path.strip().split("/"))


def main() -> None:
    if not DATA.exists():
        print("endpoints.md is not checked: the specification's data (../shared/spec) is absent.")
    elif "--check" not in sys.argv:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.exit(f"{PAGE.name} is out of date: run scripts/docs")


main()
