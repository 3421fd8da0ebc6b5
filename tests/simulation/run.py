"""`python -m tests.simulation.run [--seeds N] [--first N] [--seed N]`: simulations, each in a process of its own.

The order of sets of text depends on a seed of the interpreter, which is fixed for all: the same seed does the same.
"""

import argparse
import asyncio
import gc
import hashlib
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import structlog

from tests.processes import server
from tests.simulation import story
from tests.simulation.loop import SimulationLoop

_AT_ONCE = 2
_LONGEST_S = 300


def main() -> int:
    """Run them; the number of those that failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one alone, and tell what happens")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation.run", *sys.argv[1:]], _environment())
    quick = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=quick if os.access(quick, os.W_OK) else None))
    try:
        server.migrate(server.sqlite_url(folder / "template.db"), folder)
        seeds = range(options.first, options.first + options.seeds) if options.seed is None else [options.seed]
        return _run_all(seeds, folder, is_told=options.seed is not None)
    finally:
        shutil.rmtree(folder)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": "0"}


def _run_all(seeds: Sequence[int], folder: Path, *, is_told: bool) -> int:
    """Each in a process of its own, some at a time: one that hangs or dies takes nobody with it."""
    waiting, running, failed = list(seeds), dict[int, int](), 0
    while waiting or running:
        while waiting and len(running) < _AT_ONCE:
            seed = waiting.pop(0)
            child = os.fork()
            if child == 0:
                _be_child(seed, folder, is_told=is_told)
            running[child] = seed
        child, status = os.wait()
        seed = running.pop(child)
        if status != 0:
            failed += 1
            print(f"seed {seed} failed; repeat it by: python -m tests.simulation.run --seed {seed}", flush=True)
    print(f"{len(seeds) - failed} of {len(seeds)} simulations ended well", flush=True)
    return failed


def _be_child(seed: int, folder: Path, *, is_told: bool) -> NoReturn:
    """Never returns."""
    signal.alarm(_LONGEST_S)  # Which kills: a simulation that never ends has failed.
    gc.disable()  # It would throw away what the dead were waiting for, and they would be surprised.
    try:
        lines = _run(seed, folder)
    except BaseException:  # noqa: BLE001 - whatever it was, the process ends here
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)
    if is_told:
        print("\n".join(lines))
    print(f"seed {seed}: {len(lines)} {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}", flush=True)
    os._exit(0)  # What the dead were about to do is not cleaned up.


def _run(seed: int, folder: Path) -> list[str]:
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    own = folder / str(seed)
    own.mkdir()
    loop = SimulationLoop(random.Random(seed))
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(story.tell(seed, loop, folder / "template.db", own))
    finally:
        shutil.rmtree(own)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
