"""Names by chance."""

import string
from collections import Counter
from collections.abc import Callable

import pytest

from homeserver.kit.randomness import Randomness


class Counting(Randomness):
    """Every byte in turn, so that what is made of them is known to be fair."""

    def __init__(self) -> None:
        self.next = 0

    def bytes(self, count: int) -> bytes:
        self.next += count
        return bytes(number % 256 for number in range(self.next - count, self.next))


NAMES: list[tuple[Callable[[Randomness, int], str], str]] = [
    (Randomness.letters, string.ascii_letters),
    (Randomness.token, string.ascii_letters + string.digits),
    (Randomness.digits, string.digits),
]


@pytest.mark.parametrize(("make", "alphabet"), NAMES)
def test_every_character_of_a_name_is_as_likely_as_any_other(
    make: Callable[[Randomness, int], str], alphabet: str
) -> None:
    fair = 256 - 256 % len(alphabet)
    # One name of what 256 bytes give: whoever used all bytes would favour the first characters.
    counts = Counter(make(Counting(), fair))
    assert counts == dict.fromkeys(alphabet, fair // len(alphabet))


@pytest.mark.parametrize(("make", "alphabet"), NAMES)
@pytest.mark.parametrize("length", [1, 12, 300])
def test_a_name_has_its_length_and_nothing_but_its_alphabet(
    make: Callable[[Randomness, int], str], alphabet: str, length: int
) -> None:
    name = make(Randomness(), length)
    assert len(name) == length
    assert set(name) <= set(alphabet)
