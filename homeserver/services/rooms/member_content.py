"""What a member event says (client-server API, m.room.member)."""

from collections.abc import Mapping
from typing import Any

FROM_PROFILE = ("displayname", "avatar_url")

Json = dict[str, Any]


def member_content(membership: str, profile: Mapping[str, Any], reason: str | None = None) -> Json:
    """The content of a member event of somebody who has this profile."""
    content: Json = {"membership": membership}
    content.update((name, profile[name]) for name in FROM_PROFILE if profile.get(name) is not None)
    if reason is not None:
        content["reason"] = reason
    return content
