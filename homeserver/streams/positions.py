"""The text of positions that clients hold."""

from dataclasses import dataclass

from homeserver.errors import InvalidParam


@dataclass(frozen=True, slots=True)
class SyncToken:
    """A point in what a client has seen: of the log, and of what lives in memory only (typing, presence)."""

    position: int
    live: int

    def __str__(self) -> str:
        return f"s{self.position}_{self.live}"

    @classmethod
    def parse(cls, text: str) -> "SyncToken":
        """The token of this text. Raises `InvalidParam`."""
        kind, numbers = text[:1], text[1:].split("_")
        if kind != "s" or len(numbers) != 2 or not all(_is_number(number) for number in numbers):
            raise InvalidParam("This is no token of a sync.")
        return cls(int(numbers[0]), int(numbers[1]))


@dataclass(frozen=True, slots=True)
class RoomToken:
    """A point between two events of a room: behind the one at the position, before the next one."""

    position: int

    def __str__(self) -> str:
        return f"t{self.position}"

    @classmethod
    def parse(cls, text: str) -> "RoomToken":
        """The token of this text; that of a sync is as good. Raises `InvalidParam`."""
        if text.startswith("s"):
            return cls(SyncToken.parse(text).position)
        if text[:1] != "t" or not _is_number(text[1:]):
            raise InvalidParam("This is no token of a room's history.")
        return cls(int(text[1:]))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
