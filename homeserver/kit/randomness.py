"""Chance, as an argument: tests and simulations inject a seeded source."""

import secrets
import string
from collections.abc import Callable
from functools import cache

_LETTERS = string.ascii_letters.encode()
_TOKEN_ALPHABET = _LETTERS + string.digits.encode()
_DIGITS = string.digits.encode()


class Randomness:
    """Unpredictable bytes and names from the operating system."""

    def bytes(self, count: int) -> bytes:
        """That many random bytes."""
        return secrets.token_bytes(count)

    def letters(self, count: int) -> str:
        """A name of ASCII letters only (room and device identifiers)."""
        return _text(self.bytes, _LETTERS, count)

    def token(self, count: int = 43) -> str:
        """A secret of letters and digits; 43 of them hold 256 bits."""
        return _text(self.bytes, _TOKEN_ALPHABET, count)

    def digits(self, count: int) -> str:
        """A name of decimal digits only."""
        return _text(self.bytes, _DIGITS, count)


def _text(draw: Callable[[int], bytes], alphabet: bytes, count: int) -> str:
    """Characters of the alphabet, each as likely as any other; to choose them one by one costs a microsecond each."""
    table, dropped = _tables(alphabet)
    text = b""
    while len(text) < count:
        # Every byte stands for a character; those that are too many for all to be equally likely are left out.
        text += draw(count + 8).translate(table, dropped)
    return text[:count].decode()


@cache
def _tables(alphabet: bytes) -> tuple[bytes, bytes]:
    """Which character each byte stands for, and the bytes that stand for none."""
    fair = 256 - 256 % len(alphabet)
    return bytes(alphabet[byte % len(alphabet)] for byte in range(256)), bytes(range(fair, 256))
