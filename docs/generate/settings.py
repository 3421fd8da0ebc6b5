"""Writes docs/operate/settings.md from homeserver/config/model.py; with --check only compares."""

import sys
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec

from homeserver.config.load import settings

PAGE = Path(__file__).parents[1] / "operate" / "settings.md"
HEAD = """# Settings

Generated from `homeserver/config/model.py` by `scripts/docs`.

Settings come from a TOML file, whose path is in `HOMESERVER_CONFIG`, and from the environment, which wins.
A key with a dot stands in a table: `log.level` is `level` under `[log]`. In the environment, values that are not
text are written as JSON (`true`, `8008`, `[{"host": "::1", "port": 8009}]`).
`homeserver check-config` reports all faults together; the server does not start with one.

| key | environment | default | meaning |
|---|---|---|---|
"""


def meaning(kind: Any) -> str:
    metas = [part for part in get_args(kind)[1:] if isinstance(part, msgspec.Meta)] if _annotated(kind) else []
    return next((meta.description for meta in metas if meta.description), "")


def _annotated(kind: Any) -> bool:
    return get_origin(kind) is Annotated


def page() -> str:
    rows = []
    for key, variable, kind, default in settings():
        shown = "–" if default is None else msgspec.json.encode(default).decode()
        rows.append(f"| `{key}` | `{variable}` | `{shown}` | {meaning(kind)} |")
    return HEAD + "\n".join(rows) + "\n"


def main() -> None:
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.exit(f"{PAGE.name} is out of date: run scripts/docs")


main()
