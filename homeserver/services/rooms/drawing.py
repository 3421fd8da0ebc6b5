"""Pictures of a room's event graph: SVG with a layout of its own, and DOT for Graphviz.

What an event is, is told by words and by the form of its box, never by color alone. Time runs downwards, and an arrow
leads from an event to one that it follows.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from homeserver.services.rooms.excerpt import Drawn, Graph
from homeserver.storage import events

_WIDTH, _HEIGHT = 310, 92
_GAP_X, _GAP_Y = 40, 54
_MARGIN, _TOP = 30, 150
_LINE = 17
_LETTERS = 36

_STATUSES = {events.REJECTED: "rejected", events.SOFT_FAILED: "soft-failed", events.OUTLIER: "outlier"}
_MISSING = "missing"
_UNFIT = re.compile("[\x00-\x1f\ud800-\udfff\ufffe\uffff]")
_LEGEND = (
    "Rectangle: message; with a second border: state event; round ends: outlier (the state before it is not known);",
    "cut corners: rejected; dashed: soft-failed; hexagon: missing, a backward extremity; struck through: redacted;",
    "“newest” marks forward extremities. Arrows lead to the events before; a dotted end leads to an event not shown.",
)


@dataclass(frozen=True, slots=True)
class _Box:
    """An event on the paper, or one that is missing."""

    name: str
    kind: str
    lines: Sequence[str]
    details: str
    before: Sequence[str]
    depth: int = 0
    is_state: bool = False
    is_redacted: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    """Column and row."""

    x: int
    y: int

    @property
    def left(self) -> int:
        return _MARGIN + self.x * (_WIDTH + _GAP_X)

    @property
    def top(self) -> int:
        return _TOP + self.y * (_HEIGHT + _GAP_Y)

    @property
    def middle(self) -> int:
        return self.left + _WIDTH // 2


def svg(graph: Graph) -> str:
    """The graph as an SVG document."""
    boxes = _boxes(graph)
    places = _lay_out(boxes)
    width = max([place.left + _WIDTH for place in places.values()], default=0) + _MARGIN
    width = max(width, 3 * _WIDTH)
    height = max([place.top + _HEIGHT for place in places.values()], default=_TOP) + _MARGIN
    title = f"Event graph of {graph.room_id}, room version {graph.version}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'role="graphics-document" aria-labelledby="title desc" font-family="sans-serif" font-size="13">',
        f'<title id="title">{_text(title)}</title>',
        f'<desc id="desc">{_text(_summary(graph))}</desc>',
        '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="#444"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{_MARGIN}" y="34" font-size="18" font-weight="bold">{_text(_short(title, 100))}</text>',
        f'<text x="{_MARGIN}" y="56">{_text(_summary(graph))}</text>',
        *(f'<text x="{_MARGIN}" y="{80 + index * _LINE}" fill="#444">{_text(line)}</text>' for index, line in _LINES),
    ]
    for box in boxes:
        parts += [_edge(box, before, places) for before in box.before]
    parts += [_node(box, places[box.name]) for box in boxes]
    return "\n".join([*parts, "</svg>", ""])


def dot(graph: Graph) -> str:
    """The graph in the language of Graphviz."""
    boxes = _boxes(graph)
    shown = {box.name for box in boxes}
    parts = [
        "digraph {",
        "  rankdir=BT;",
        f"  label={_quoted(f'Event graph of {graph.room_id}, room version {graph.version}. {_summary(graph)}')};",
        '  node [shape=box, fontname="sans-serif"];',
    ]
    for box in boxes:
        label = "\n".join(box.lines)
        form = _DOT.get(box.kind, "")
        double = ", peripheries=2" if box.is_state else ""
        parts.append(f"  {_quoted(box.name)} [label={_quoted(label)}, tooltip={_quoted(box.details)}{form}{double}];")
    for box in boxes:
        for before in box.before:
            style = "" if before in shown else " [style=dotted]"
            parts.append(f"  {_quoted(box.name)} -> {_quoted(before)}{style};")
    return "\n".join([*parts, "}", ""])


_LINES = tuple(enumerate(_LEGEND))
_DOT = {
    "rejected": ", shape=octagon",
    "soft-failed": ", style=dashed",
    "outlier": ", shape=ellipse, style=dotted",
    _MISSING: ", shape=hexagon, style=dashed",
}


def _summary(graph: Graph) -> str:
    counts = {
        "forward extremities": sum(one.is_newest for one in graph.events),
        "backward extremities": len(_missing(graph)),
        "rejected": sum(one.status == events.REJECTED for one in graph.events),
        "soft-failed": sum(one.status == events.SOFT_FAILED for one in graph.events),
        "outliers": sum(one.status == events.OUTLIER for one in graph.events),
        "redacted": sum(one.is_redacted for one in graph.events),
        "resolutions of state": len({done.position for one in graph.events for done in one.resolved}),
    }
    told = ", ".join(f"{what}: {count}" for what, count in counts.items())
    return f"{len(graph.events)} events; {told}."


def _missing(graph: Graph) -> list[str]:
    """The missing events that a shown one follows."""
    return list(dict.fromkeys(one for event in graph.events for one in event.before if one in graph.missing))


def _boxes(graph: Graph) -> list[_Box]:
    missing = [
        _Box(event_id, _MISSING, [_short(event_id), "missing: backward extremity"], f"{event_id}: missing", ())
        for event_id in _missing(graph)
    ]
    return [*missing, *(_box(one) for one in graph.events)]


def _box(event: Drawn) -> _Box:
    kind = _STATUSES.get(event.status, "accepted")
    marks = [] if kind == "accepted" else [kind]
    marks += ["redacted"] if event.is_redacted else []
    marks += ["newest"] if event.is_newest else []
    name = event.type if event.state_key is None else f"{event.type} {event.state_key!r}"
    changes = sum(len(one.changes) for one in event.resolved)
    lost = sum(len(one.lost) for one in event.resolved)
    lines = [name, event.sender, f"{event.event_id[:14]}… · depth {event.depth}", ", ".join(marks)]
    if event.resolved:
        lines.append(f"state resolved: {changes} changed, {lost} lost")
    details = [
        name,
        f"{event.event_id} by {event.sender}",
        f"position {event.position}, depth {event.depth}",
        ", ".join([kind, *marks[kind != "accepted" :]]),
    ]
    for one in event.resolved:
        details.append(f"{one.states} states resolved {one.where}")
        details += [f"changed: {change}" for change in one.changes]
        details += [f"lost: {loser}" for loser in one.lost]
    return _Box(
        event.event_id,
        kind,
        [_short(line) for line in lines if line],
        "\n".join(details),
        event.before,
        depth=event.depth,
        is_state=event.state_key is not None,
        is_redacted=event.is_redacted,
    )


def _lay_out(boxes: Sequence[_Box]) -> dict[str, _Place]:
    """A row for each step from the oldest event on; a column as near as can be to that of an event before."""
    by_name = {box.name: box for box in boxes}
    rows = _rows(by_name)
    places: dict[str, _Place] = {}
    taken: dict[int, set[int]] = {}
    for name in sorted(by_name, key=lambda one: rows[one]):
        columns = [places[one].x for one in by_name[name].before if one in places]
        wanted = min(columns, default=0)
        used = taken.setdefault(rows[name], set())
        column = next(x for x in range(wanted, wanted + len(used) + 1) if x not in used)
        used.add(column)
        places[name] = _Place(column, rows[name])
    return places


def _rows(by_name: Mapping[str, _Box]) -> dict[str, int]:
    """By depth, but below all that an event follows; what is missing is right above what follows it."""
    followers: dict[str, list[str]] = {name: [] for name in by_name}
    open_ends = dict.fromkeys(by_name, 0)
    for name, box in by_name.items():
        for before in set(box.before) & by_name.keys():
            followers[before].append(name)
            open_ends[name] += 1
    depths = sorted({box.depth for box in by_name.values() if box.kind != _MISSING})
    ranks = {depth: rank for rank, depth in enumerate(depths)}
    rows = {name: ranks.get(box.depth, 0) for name, box in by_name.items()}
    ready = [name for name, count in open_ends.items() if count == 0]
    while ready:
        name = ready.pop()
        for follower in followers[name]:
            rows[follower] = max(rows[follower], rows[name] + 1)
            open_ends[follower] -= 1
            if open_ends[follower] == 0:
                ready.append(follower)
    for name, box in by_name.items():
        if box.kind == _MISSING and followers[name]:
            rows[name] = max(0, min(rows[one] for one in followers[name]) - 1)
    return rows


def _edge(box: _Box, before: str, places: Mapping[str, _Place]) -> str:
    here = places[box.name]
    there = places.get(before)
    if there is None:
        return (
            f'<path d="M{here.middle} {here.top} v{-_GAP_Y // 2}" fill="none" stroke="#444" stroke-dasharray="2 4">'
            f"<title>{_text(f'follows {before}, which is not shown')}</title></path>"
        )
    start, end = here.top, there.top + _HEIGHT
    if there.y >= here.y:  # Damaged data: it leads upwards all the same.
        end = there.top
    bend = (start - end) // 2
    return (
        f'<path d="M{here.middle} {start} C{here.middle} {start - bend} {there.middle} {end + bend} {there.middle} '
        f'{end}" fill="none" stroke="#444" stroke-width="1.5" marker-end="url(#arrow)"/>'
    )


_FILLS = {
    "accepted": "#eef5ff",
    "rejected": "#ffe3e0",
    "soft-failed": "#fff3d6",
    "outlier": "#f0f0f0",
    _MISSING: "#fff",
}


def _node(box: _Box, place: _Place) -> str:
    dashes = ' stroke-dasharray="7 4"' if box.kind in ("soft-failed", _MISSING) else ""
    dashes = ' stroke-dasharray="2 3"' if box.kind == "outlier" else dashes
    paint = f'fill="{_FILLS[box.kind]}" stroke="#222" stroke-width="1.5"{dashes}'
    parts = [f'<g id={quoteattr(_clean(box.name))} class="{box.kind}" role="graphics-symbol">']
    parts.append(f"<title>{_text(box.details)}</title>")
    parts.append(f'<path d="{_form(box.kind, place.left, place.top, _WIDTH, _HEIGHT)}" {paint}/>')
    if box.is_state:
        inner = _form(box.kind, place.left + 4, place.top + 4, _WIDTH - 8, _HEIGHT - 8)
        parts.append(f'<path d="{inner}" fill="none" stroke="#222" stroke-width="1"/>')
    for index, line in enumerate(box.lines):
        style = ' font-weight="bold"' if index == 0 else ""
        if index == 0 and box.is_redacted:
            style += ' text-decoration="line-through"'
        top = place.top + 20 + index * 16
        parts.append(f'<text x="{place.middle}" y="{top}" text-anchor="middle"{style}>{_text(line)}</text>')
    return "".join([*parts, "</g>"])


def _form(kind: str, x: int, y: int, width: int, height: int) -> str:
    """The outline of a box of this kind."""
    right, bottom = x + width, y + height
    if kind == "rejected":
        cut = 16
        return (
            f"M{x + cut} {y} H{right - cut} L{right} {y + cut} V{bottom - cut} L{right - cut} {bottom} "
            f"H{x + cut} L{x} {bottom - cut} V{y + cut} Z"
        )
    if kind == _MISSING:
        cut, middle = 24, y + height // 2
        return f"M{x + cut} {y} H{right - cut} L{right} {middle} L{right - cut} {bottom} H{x + cut} L{x} {middle} Z"
    if kind == "outlier":
        bow = height // 2
        return f"M{x + bow} {y} H{right - bow} A{bow} {bow} 0 0 1 {right - bow} {bottom} H{x + bow} " + (
            f"A{bow} {bow} 0 0 1 {x + bow} {y} Z"
        )
    return f"M{x} {y} H{right} V{bottom} H{x} Z"


def _short(text: str, most: int = _LETTERS) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _clean(text: str) -> str:
    """The text without what XML cannot hold."""
    return _UNFIT.sub("\ufffd", text)


def _text(text: str) -> str:
    return escape("\n".join(_clean(line) for line in text.split("\n")))


def _quoted(text: str) -> str:
    """A string of the DOT language."""
    inner = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", " ")
    return f'"{inner}"'
