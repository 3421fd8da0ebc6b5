"""Chance, as an argument: tests and simulations inject a seeded source."""

import secrets
import string

_LETTERS = string.ascii_letters
_TOKEN_ALPHABET = string.ascii_letters + string.digits


class Randomness:
    """Unpredictable bytes and names from the operating system."""

    def bytes(self, count: int) -> bytes:
        """That many random bytes."""
        return secrets.token_bytes(count)

    def letters(self, count: int) -> str:
        """A name of ASCII letters only (room and device identifiers)."""
        return "".join(secrets.choice(_LETTERS) for _ in range(count))

    def token(self, count: int = 43) -> str:
        """A secret of letters and digits; 43 of them hold 256 bits."""
        return "".join(secrets.choice(_TOKEN_ALPHABET) for _ in range(count))

    def digits(self, count: int) -> str:
        """A name of decimal digits only."""
        return "".join(secrets.choice(string.digits) for _ in range(count))
