"""Which servers this one speaks to at all, by the operator's lists."""

import re
from collections.abc import Iterable

from homeserver.config.model import Federation

Globs = re.Pattern[str]


class Partners:
    """Knows the lists `federation.allow` and `federation.deny`."""

    def __init__(self, settings: Federation) -> None:
        self._is_enabled = settings.enabled
        self._allow = None if settings.allow is None else globs(settings.allow)
        self._deny = globs(settings.deny)

    def refusal(self, server_name: str) -> str | None:
        """Why there is no speaking to the server, in a sentence; None if there is.

        A list may name a host, for whatever port, or a server name with its port.
        """
        if not self._is_enabled:
            return "Federation is switched off (federation.enabled)."
        if _fits(self._deny, server_name):
            return "The settings forbid to speak to it (federation.deny)."
        if self._allow is not None and not _fits(self._allow, server_name):
            return "The settings do not allow to speak to it (federation.allow)."
        return None


def globs(patterns: Iterable[str]) -> Globs:
    """One expression for names in which `*` stands for any characters; letter case does not matter."""
    wholes = ("".join(".*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", one)) for one in patterns)
    return re.compile("|".join(f"(?:{whole})" for whole in wholes) or r"(?!)", re.IGNORECASE)


def _fits(patterns: Globs, server_name: str) -> bool:
    host = re.sub(r":[0-9]+$", "", server_name)
    return any(patterns.fullmatch(name.rstrip(".")) for name in (server_name, host))
