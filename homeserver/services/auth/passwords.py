"""Passwords are hashed with argon2id, off the event loop."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from homeserver.config.model import Passwords as Settings

_THREADS = 2


class Passwords:
    """Hashes and checks; at most two at once, so that a storm of logins leaves the other cores alone."""

    def __init__(self, settings: Settings) -> None:
        self._hasher = PasswordHasher(time_cost=settings.time_cost, memory_cost=settings.memory_kib, parallelism=1)
        self._threads = ThreadPoolExecutor(_THREADS, "passwords")
        self._nobody = self._hasher.hash("")

    async def hash(self, password: str) -> str:
        """What to store for this password."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._hasher.hash, password)

    async def matches(self, password: str, hashed: str | None) -> bool:
        """Whether the password is the one. Without a hash it takes as long, so that time tells nothing (C06)."""
        good = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._verify, hashed or self._nobody, password
        )
        return good and hashed is not None

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _verify(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False
