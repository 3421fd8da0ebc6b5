"""What talking costs: sending, waking those who listen, making rooms, memory, starting.

    python -m benchmarks.talking [--synapse FOLDER] [--rounds 3] [--small]

Starts a throw-away PostgreSQL (durable, as an operator would run it) and one process of each server, and measures
them in turn, round by round, so that a noisy machine is noisy for both. CPU is that of the server's process; what
PostgreSQL uses comes on top for both and is not in the figures. Everything goes over 127.0.0.1 and ends by itself.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from benchmarks import subjects
from benchmarks.subjects import Subject
from tests.processes import postgres

Json = dict[str, Any]


@dataclass
class Person:
    """A logged in user."""

    http: aiohttp.ClientSession
    url: str
    user_id: str
    token: str
    sent: int = 0

    async def call(self, method: str, path: str, body: Json | None = None) -> Json:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.http.request(
            method, f"{self.url}/_matrix/client/v3{path}", json=body, headers=headers
        ) as answer:
            value: Json = await answer.json()
            if answer.status != 200:
                raise RuntimeError(f"{method} {path}: {answer.status} {value}")
            return value

    async def send(self, room_id: str) -> None:
        self.sent += 1
        path = f"/rooms/{quote(room_id)}/send/m.room.message/{time.time_ns()}.{self.sent}"
        await self.call("PUT", path, {"msgtype": "m.text", "body": f"Message {self.sent}, of the usual length of one."})

    async def sync(self, since: str | None, timeout_ms: int) -> Json:
        path = f"/sync?timeout={timeout_ms}" + (f"&since={quote(since)}" if since else "")
        return await self.call("GET", path)


async def person(http: aiohttp.ClientSession, url: str, name: str) -> Person:
    body = {"username": name, "password": "benchmark-password", "auth": {"type": "m.login.dummy"}}
    async with http.post(f"{url}/_matrix/client/v3/register", json=body) as answer:
        value = await answer.json()
        if answer.status != 200:
            raise RuntimeError(f"register: {answer.status} {value}")
        return Person(http, url, value["user_id"], value["access_token"])


async def room(people: list[Person]) -> str:
    answer = await people[0].call("POST", "/createRoom", {"preset": "public_chat"})
    room_id: str = answer["room_id"]
    for one in people[1:]:
        await one.call("POST", f"/rooms/{quote(room_id)}/join", {})
    return room_id


@dataclass
class Measured:
    """The figures of one round."""

    values: dict[str, float]


class Bench:
    """One server under measurement; people and rooms are made once."""

    def __init__(self, subject: Subject, *, small: bool) -> None:
        self.subject = subject
        self.factor = 4 if small else 1
        self._http: aiohttp.ClientSession | None = None
        self._people: list[Person] = []
        self._rooms: dict[int, str] = {}

    async def prepare(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        self._http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120))
        names = [f"person{number}" for number in range(51)]
        self._people = [await person(self._http, self.subject.url, name) for name in names]
        self._rooms = {size: await room(self._people[:size]) for size in (2, 16, 51)}

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def round(self) -> dict[str, float]:
        """Every measurement once."""
        found: dict[str, float] = {}
        found["CPU ms per created room"] = await self._cpu_per(self._create, 20 // self.factor)
        found["CPU ms per sent event, one sender"] = await self._cpu_per(
            lambda: self._people[0].send(self._rooms[2]), 200 // self.factor
        )
        found |= await self._sixteen(40 // self.factor)
        found |= await self._pollers(24 // self.factor)
        return found

    async def memory(self) -> dict[str, float]:
        """Resident memory with many open syncs."""
        count = 1000 // self.factor
        tokens = [(await one.sync(None, 0))["next_batch"] for one in self._people]
        # Once answered at once by what the first sync could not know, then they wait.
        tokens = [(await one.sync(token, 0))["next_batch"] for one, token in zip(self._people, tokens, strict=True)]
        waiting = [
            asyncio.ensure_future(self._people[number % len(self._people)].sync(tokens[number % len(tokens)], 20_000))
            for number in range(count)
        ]
        await asyncio.sleep(8)
        resident = self.subject.resident_mib()
        await asyncio.gather(*waiting)
        return {f"MiB resident with {count} open syncs": resident}

    async def _create(self) -> None:
        await self._people[0].call("POST", "/createRoom", {"preset": "private_chat", "name": "Benchmark"})

    async def _cpu_per(self, work: Callable[[], Any], times: int) -> float:
        await work()
        before = self.subject.cpu_ms()
        for _ in range(times):
            await work()
        return (self.subject.cpu_ms() - before) / times

    async def _sixteen(self, each: int) -> dict[str, float]:
        """Sixteen members of a room talk at once."""
        latencies: list[float] = []

        async def talk(one: Person) -> None:
            for _ in range(each):
                began = time.perf_counter()
                await one.send(self._rooms[16])
                latencies.append((time.perf_counter() - began) * 1000)

        cpu, began = self.subject.cpu_ms(), time.perf_counter()
        await asyncio.gather(*(talk(one) for one in self._people[:16]))
        seconds = time.perf_counter() - began
        cuts = statistics.quantiles(latencies, n=100)
        return {
            "CPU ms per sent event, 16 senders": (self.subject.cpu_ms() - cpu) / len(latencies),
            "sends per second, 16 senders": len(latencies) / seconds,
            "send latency ms p50, 16 senders": cuts[49],
            "send latency ms p95, 16 senders": cuts[94],
            "send latency ms p99, 16 senders": cuts[98],
        }

    async def _pollers(self, times: int) -> dict[str, float]:
        """Fifty members listen while one talks; all have heard a message before the next is sent."""
        speaker, listeners = self._people[0], self._people[1:]
        room_id = self._rooms[51]
        tokens: list[str] = []
        for one in listeners:
            token = (await one.sync(None, 0))["next_batch"]
            tokens.append((await one.sync(token, 0))["next_batch"])
        alone = await self._cpu_per(lambda: speaker.send(self._rooms[2]), times)

        async def hear(one: Person, since: str) -> str:
            while True:
                answer = await one.sync(since, 30_000)
                since = answer["next_batch"]
                if room_id in answer.get("rooms", {}).get("join", {}):
                    return since

        spent = 0.0
        woken: list[float] = []
        for _ in range(times):
            hearing = [asyncio.ensure_future(hear(one, token)) for one, token in zip(listeners, tokens, strict=True)]
            await asyncio.sleep(0.4)  # All wait, and what their asking cost is over.
            before, began = self.subject.cpu_ms(), time.perf_counter()
            await speaker.send(room_id)
            tokens = await asyncio.gather(*hearing)
            woken.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.1)
            spent += self.subject.cpu_ms() - before
        return {
            "CPU ms per woken poller": max(0.0, spent / times - alone) / len(listeners),
            "ms until all 50 pollers have heard": statistics.median(woken),
        }


async def measure(chosen: list[Subject], *, rounds: int, small: bool) -> dict[str, dict[str, list[float]]]:
    figures: dict[str, dict[str, list[float]]] = {subject.name: {} for subject in chosen}

    def note(subject: Subject, values: dict[str, float]) -> None:
        for what, value in values.items():
            figures[subject.name].setdefault(what, []).append(value)

    benches = [Bench(subject, small=small) for subject in chosen]
    for bench in benches:
        note(bench.subject, {"seconds from start to first answer": bench.subject.seconds_to_first_answer})
        note(bench.subject, {"MiB resident, idle": bench.subject.resident_mib()})
        await bench.prepare()
    for number in range(rounds):
        for bench in benches:
            note(bench.subject, await bench.round())
            print(f"round {number + 1} of {rounds}: {bench.subject.name} done", file=sys.stderr)
    for bench in benches:
        note(bench.subject, await bench.memory())
        await bench.close()
    return figures


def show(figures: dict[str, dict[str, list[float]]]) -> None:
    names = list(figures)
    ratio = len(names) == 2
    print(f"| medians | {' | '.join(names)} |{f' {names[1]} / {names[0]} |' if ratio else ''}")
    print("|---" * (len(names) + 1 + ratio) + "|")
    for what in figures[names[0]]:
        values = [statistics.median(figures[name][what]) for name in names]
        shown = " | ".join(f"{value:.2f}" for value in values)
        print(f"| {what} | {shown} |" + (f" {values[1] / values[0]:.1f} |" if ratio and values[0] else " – |" * ratio))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what talking costs.")
    parser.add_argument("--synapse", type=Path, help="environment in which Synapse is installed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a quarter of everything")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(postgres.started(durable=True))
        chosen = [subjects.ours(folder / "ours", stack.enter_context(database.database()))]
        # The first start prepares the database; what is measured is a start as after an update.
        with chosen[0]:
            pass
        if asked.synapse is not None:
            chosen.append(subjects.synapse(folder / "synapse", stack.enter_context(database.database()), asked.synapse))
            with chosen[1]:
                pass
        for subject in chosen:
            stack.enter_context(subject)
        show(asyncio.run(measure(chosen, rounds=asked.rounds, small=asked.small)))


if __name__ == "__main__":
    main()
