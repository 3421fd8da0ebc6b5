"""The order of what lives in memory only."""

from homeserver.kit.clock import Clock


class LiveCounter:
    """Numbers changes, from the time of the start on, so that after a restart every number is higher than before."""

    def __init__(self, clock: Clock) -> None:
        self.value = clock.now()

    def advance(self) -> int:
        """The next number."""
        self.value += 1
        return self.value
