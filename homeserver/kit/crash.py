"""Points in the code at which a test lets the process die, as if the power had failed.

A point that is not armed costs a comparison of two short strings. At most one is armed in a process, once, by the
setting `crash_point`: `K3:5` is the fifth passing of K3. It is the process that dies, so the process has it.

K1: a request is parsed, nothing is done yet. K2: its events are built and signed. K3: they are in the transaction,
before its commit. K4: right after the commit. K5: what was committed is taken over, nobody was told. K6: those who
wait are woken, the request is not answered. K7: it is answered. K8: another server has taken a transaction, that is
not written down. K9: events of another server were acknowledged and are staged, and are about to be taken in. K10: what
another server told besides events is stored, and it was not answered.
"""

import os
import signal

_armed = ""
_left = 0


def arm(where: str | None) -> None:
    """Let the process die at this point and passing; None: nowhere."""
    global _armed, _left
    _armed, _, passing = (where or "").partition(":")
    _left = int(passing or 1)


def is_armed(name: str) -> bool:
    """Whether the process is going to die at this point."""
    return name == _armed


def point(name: str) -> None:
    """Die, if the point is armed and its time has come."""
    global _left
    if name == _armed:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
