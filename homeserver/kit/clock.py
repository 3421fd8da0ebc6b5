"""Time, as an argument: nothing else in the tree may ask the operating system for it."""

import asyncio
import time


class Clock:
    """The real clock. Tests inject one that stands still until it is advanced."""

    def now(self) -> int:
        """Wall-clock time in milliseconds since the epoch; may jump either way."""
        return int(time.time() * 1000)

    def monotonic(self) -> float:
        """Seconds that never go backwards, for durations and time-outs."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for that long."""
        await asyncio.sleep(seconds)
