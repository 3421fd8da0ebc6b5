"""The text of positions that clients hold."""

from dataclasses import dataclass

from homeserver.errors import InvalidParam
from homeserver.storage import places

_HIGHEST = 10**12
"""Positions are lower: places are numbers of 64 bits."""


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
    """A point between two events of a room: behind the place, before the next one.

    One that names a position alone is between two events that came as they happened. Events of the past that may be
    there lie on both sides of it: whoever reads from it on, or up to it, reads them too. Position 0 is before all.
    """

    position: int
    offset: int | None = None

    @classmethod
    def at(cls, place: int) -> "RoomToken":
        """The point right behind the place."""
        return cls(0) if place == places.FIRST else cls(places.position_of(place), places.offset_of(place))

    @property
    def after(self) -> int:
        """What is read from here on is above this place."""
        if self == RoomToken(0):
            return places.FIRST
        return places.at(self.position) + (self.offset or 0)

    @property
    def upto(self) -> int:
        """What is read from here back is not above this place."""
        return places.upto(self.position) if self.offset is None else places.at(self.position) + self.offset

    def __str__(self) -> str:
        return f"t{self.position}" if self.offset is None else f"t{self.position}_{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "RoomToken":
        """The token of this text; that of a sync is as good. Raises `InvalidParam`."""
        if text.startswith("s"):
            return cls(_bounded(SyncToken.parse(text).position))
        is_negative = text.startswith("t-")
        position, separator, offset = text[2 if is_negative else 1 :].partition("_")
        if text[:1] != "t" or not _is_number(position) or (separator and not _is_number(offset)):
            raise InvalidParam("This is no token of a room's history.")
        at = _bounded(int(position))
        return cls(-at if is_negative else at, min(int(offset), places.PAST) if separator else None)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _bounded(position: int) -> int:
    """The position; what is far beyond all that there can be, is the last that there can be."""
    return min(position, _HIGHEST)
