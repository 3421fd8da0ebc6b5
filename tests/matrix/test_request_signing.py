"""Headers of signed requests are read as the specification says, by comparison with a second reader."""

from collections.abc import Sequence
from random import Random

import pytest

from homeserver.matrix.request_signing import MalformedHeader, XMatrix, is_x_matrix
from tests.matrix.authorization_grammar import NotInGrammar, read

Told = tuple[str, str | None, str, str]

GOOD = 'X-Matrix origin="b.test",destination="a.test",key="ed25519:1",sig="c2ln"'
NAMES = ("origin", "destination", "key", "sig", "ORIGIN", "Sig", "signature", "x.y", "x!", "more", "")
USUAL = ("b.test", "a.test", "[::1]:8448", "b.test:8448", "ed25519:1", "ed25519:a_B", "c2ln+/AA", "c2ln=")
ODD = ("", "é", "\\", "b test", "b,test", '"')
BLANKS = ("", "", "", "", " ", "\t", " \t ")


class Writer:
    """Writes headers that are right, or nearly."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def pick(self, *choices: str) -> str:
        """One of them."""
        return self._random.choice(choices)

    def noise(self, most: int) -> str:
        """Any characters that a header may come with, and more."""
        return "".join(chr(self._random.randrange(256)) for _ in range(self._random.randrange(most)))

    def value(self) -> str:
        """A value, in quotes or not; in quotes some of it is behind backslashes."""
        kind = self._random.random()
        text = self.pick(*USUAL) if kind < 0.9 else self.pick(*ODD) if kind < 0.96 else self.noise(6)
        if self._random.random() < 0.4:
            return text
        escaped = (f"\\{one}" if one in '"\\' or self._random.random() < 0.05 else one for one in text)
        return f'"{"".join(escaped)}"'

    def parameter(self, name: str | None = None) -> str:
        """A name and a value, with blanks about where they may be."""
        equals = self.pick(*["="] * 30, "==", ":", "")
        written = self.pick(*NAMES) if name is None else self.pick(*[name] * 9, name.upper())
        return written + self.pick(*BLANKS) + equals + self.pick(*BLANKS) + self.value()

    def header(self) -> str:
        """A header: what it needs, in any order, perhaps something more, and perhaps something wrong."""
        parts = [self.parameter(name) for name in NAMES[:4] if self._random.random() < 0.97]
        parts += [self.parameter() for _ in range(self._random.choice((0, 0, 0, 1, 2)))]
        self._random.shuffle(parts)
        text = self.pick(*["X-Matrix"] * 20, "x-matrix", "X-MATRIX", "X-Matri", "Bearer", "X-Matrix,")
        text += self.pick(*[" "] * 15, "  ", "\t", " \t", "", " ,")
        for number, part in enumerate(parts):
            comma = self.pick(*[","] * 30, ",,", ", ,", ";", "") if number else ""
            text += self.pick(*BLANKS) + comma + self.pick(*BLANKS) + part if number else part
        return text + self.pick(*[""] * 15, " ", "\t", ",", " , ", '"', "\\", self.noise(5))


def ours(header: str) -> Told | None:
    """What we read, if it is a header."""
    try:
        found = XMatrix.parse(header)
    except MalformedHeader:
        return None
    return found.origin, found.destination, found.key_id, found.signature


def theirs(header: str) -> Told | None:
    """What the second reader reads."""
    try:
        return read(header)
    except NotInGrammar:
        return None


@pytest.mark.trust("C02")
@pytest.mark.behaviours("SS-AUTH-04")
@pytest.mark.parametrize("seed", range(10))
def test_headers_are_read_as_a_second_reader_reads_them(seed: int) -> None:
    writer = Writer(seed)
    good = 0
    for _ in range(1000):
        header = writer.header()
        assert ours(header) == theirs(header), repr(header)
        assert ours(header) is None or is_x_matrix(header), repr(header)
        good += ours(header) is not None
    # Neither reader just refuses.
    assert 100 < good < 900


@pytest.mark.trust("C02")
@pytest.mark.parametrize("seed", range(3))
def test_good_headers_with_something_changed_are_read_as_a_second_reader_reads_them(seed: int) -> None:
    random = Random(seed)
    for _ in range(1000):
        start, end = sorted(random.choices(range(len(GOOD) + 1), k=2))
        header = GOOD[:start] + chr(random.randrange(256)) * random.randrange(3) + GOOD[random.choice((start, end)) :]
        assert ours(header) == theirs(header), repr(header)


def longest(end: str) -> str:
    """A header that is as long as one may be."""
    return f"{GOOD},x={'y' * (4096 - len(GOOD) + len('X-Matrix') - 3 - len(end))}{end}"


@pytest.mark.trust("C02")
@pytest.mark.behaviours("SS-AUTH-04")
@pytest.mark.parametrize(
    ("good", "headers"),
    [
        (True, [GOOD, GOOD + "," * 100, "X-Matrix ,\t" + GOOD[9:], GOOD.replace('"', ""), GOOD.replace(",", " ,\t")]),
        (True, [GOOD + ',x=""', GOOD + ',x="\\""', GOOD + ",a.b!=1", GOOD + ',x="\xe9 = , y"', longest("")]),
        (False, ["", "X-Matrix", "X-Matrix ", "X-Matrix" + GOOD[9:], "X-Matrix \t" + GOOD[9:], "Bearer " + GOOD[9:]]),
        (
            False,
            [
                GOOD + ",x=",
                GOOD + ",=x",
                GOOD + ",x",
                GOOD + ',x="',
                GOOD + ',x="\\"',
                GOOD + ",x=\xe9",
                longest("z") + "y",
            ],
        ),
        (False, [GOOD + ",origin=b.test", GOOD + ',Origin="b.test"', GOOD + ",x=1,X=1", GOOD + ", " + GOOD]),
        (
            False,
            [GOOD.replace(",", " "), GOOD.replace(",", ";"), GOOD.replace("c2ln", ""), GOOD + "\n", GOOD + ',x="\0"'],
        ),
        (False, [GOOD + f',x="{"y" * 65_536}"', GOOD + "," * 65_536, "X-Matrix " + "origin " * 10_000]),
    ],
)
def test_spellings_at_the_edge(good: bool, headers: Sequence[str]) -> None:
    for header in headers:
        assert (ours(header) is not None) == good, repr(header[:200])
        assert ours(header) == theirs(header), repr(header[:200])


@pytest.mark.trust("C02")
def test_what_we_write_is_read_so() -> None:
    header = XMatrix("b.test:8448", "[::1]", "ed25519:a_B", "c2ln+/AA")
    assert theirs(str(header)) == ("b.test:8448", "[::1]", "ed25519:a_B", "c2ln+/AA")
    assert XMatrix.parse(str(header)) == header
