"""Tokens of points in the log and in timelines."""

import pytest

from homeserver.errors import InvalidParam
from homeserver.storage import places
from homeserver.streams.positions import RoomToken


@pytest.mark.parametrize("place", [places.at(5), places.at(5) - 1, places.at(5) - 17, places.at(0) - 3, places.at(-2)])
def test_token_of_a_place_is_read_as_that_place(place: int) -> None:
    token = RoomToken.parse(str(RoomToken.at(place)))
    assert token.upto == place
    assert token.after == (place if place & places.PAST != places.PAST else place - places.PAST)


def test_token_of_a_position_has_what_is_past_on_both_sides() -> None:
    for text in ("t5", "s5_17"):
        token = RoomToken.parse(text)
        assert (token.after, token.upto) == (places.at(5), places.at(6) - 1)
    assert str(RoomToken.at(places.at(6) - 1)) == "t5"
    assert RoomToken.parse("t0").after == places.FIRST


@pytest.mark.parametrize(
    "text", ["", "t", "t_", "t5_", "t_5", "t--5", "t5_5_5", "t5_-5", "x5", "s5", "t٥", "t" + "9" * 19]
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidParam):
        RoomToken.parse(text)


def test_token_beyond_all_positions_is_one_of_the_end() -> None:
    token = RoomToken.parse("t" + "9" * 18 + "_" + "9" * 18)
    assert places.at(1 << 30) < token.upto < places.LAST
