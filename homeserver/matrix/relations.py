"""How an event says what it relates to (client-server API, Forming relationships between events)."""

from dataclasses import dataclass
from typing import Any

from homeserver.matrix.events import Event

ANNOTATION, EDIT, REFERENCE, THREAD = "m.annotation", "m.replace", "m.reference", "m.thread"


@dataclass(frozen=True, slots=True)
class RelatesTo:
    """What an event relates to, and how."""

    rel_type: str
    event_id: str
    key: str | None


def relates_to(event: Event) -> RelatesTo | None:
    """The event's relation; None where it has none, or a malformed one."""
    # Most events relate to nothing: that is seen without decoding them.
    if b'"m.relates_to"' not in event.content_json:
        return None
    return relation_in(event.content)


def relation_in(content: Any) -> RelatesTo | None:
    """The relation that a content has."""
    value = content.get("m.relates_to") if isinstance(content, dict) else None
    if not isinstance(value, dict):
        return None
    rel_type, event_id, key = (value.get(name) for name in ("rel_type", "event_id", "key"))
    if not isinstance(rel_type, str) or not isinstance(event_id, str):
        return None
    return RelatesTo(rel_type, event_id, key if isinstance(key, str) else None)


def can_be_edited(event: Event) -> bool:
    """Whether edits of the event may count: state and edits are not edited (event replacements, Validity)."""
    related = relates_to(event)
    return not event.is_state and (related is None or related.rel_type != EDIT)


def is_edit_of(edit: Event, original: Event) -> bool:
    """Whether the edit of an event that can be edited counts (event replacements, Validity)."""
    return (
        edit.sender == original.sender
        and edit.type == original.type
        and not edit.is_state
        # Of an encrypted edit the new content is inside, where nobody here can look.
        and (edit.type == "m.room.encrypted" or isinstance(edit.content.get("m.new_content"), dict))
    )
