"""Every task of an operator."""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import typer
import uvicorn
from sqlalchemy.exc import DBAPIError

from homeserver.app import signing_key
from homeserver.app.application import Application
from homeserver.app.container import Container, build
from homeserver.app.listeners import BACKLOG, Listeners, Server
from homeserver.app.migrations import is_current
from homeserver.app.migrations import migrate as migrate_database
from homeserver.config.load import load
from homeserver.config.model import Config
from homeserver.errors import ConfigError, RequestError, Unavailable
from homeserver.kit import logs
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.matrix.identifiers import EventId, RoomId, ServerName
from homeserver.services.federation.check import FederationCheck
from homeserver.services.rooms import consistency, drawing, excerpt, partial
from homeserver.services.rooms.findings import Finding
from homeserver.services.rooms.purge import Point
from homeserver.storage.engine import Database
from homeserver.storage.purges import Job

T = TypeVar("T")

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="A Matrix homeserver.")
tokens = typer.Typer(no_args_is_help=True, help="Tokens with which people can register.")
cli.add_typer(tokens, name="registration-token")
room_commands = typer.Typer(no_args_is_help=True, help="Looking into rooms, and emptying them.")
cli.add_typer(room_commands, name="room")
federation_commands = typer.Typer(no_args_is_help=True, help="Speaking to other servers.")
cli.add_typer(federation_commands, name="federation")
_PICKED_UP_MS = 5_000
"""A running server begins with what it is told to do in less."""
_LOOK_S = 0.2
_STAGES = {
    "leave": "Letting users leave",
    "close": "Closing the room",
    "events": "Removing events",
    "rest": "Removing what else there was",
    "begin": "Looking at the history",
    "messages": "Removing messages",
    "past": "Removing what came late",
    "gaps": "Noting what is missing before what came late",
    "edges": "Noting what is missing",
    "state": "Removing state that is not needed",
    "redactions": "Removing redactions",
    "roots": "Finding states that are not needed",
    "pages": "Removing these states",
}


def _settings() -> Config:
    try:
        return load()
    except ConfigError as error:
        for key, fault in error.faults:
            print(f"{key}: {fault}", file=sys.stderr)
        print("Put these settings right, then start again. docs/operate/settings.md lists them all.", file=sys.stderr)
        raise typer.Exit(2) from None


@cli.command()
def serve() -> None:
    """Serve clients; the database is brought up to date first."""
    config = _settings()
    logs.configure(config.log.level, json=config.log.json)
    Path(config.data_dir).mkdir(parents=True, exist_ok=True)
    asyncio.run(migrate_database(config))
    print("Make the first administrator with: homeserver create-user NAME --admin", file=sys.stderr)
    application = Application(config)
    settings = uvicorn.Config(
        application,
        host=config.host,
        port=config.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
        server_header=False,
    )
    # uvicorn ends gracefully on SIGTERM and then raises the signal again: what was asked for is done, so exit with 0.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        listeners = Listeners(config)
    except ConfigError as error:
        print("\n".join(fault for _, fault in error.faults), file=sys.stderr)
        raise typer.Exit(1) from None
    # What is loaded stays; to look through it again and again, and so often, takes tens of milliseconds at a time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    Server(settings, application, listeners).run()


@cli.command()
def migrate() -> None:
    """Bring the database up to date."""
    config = _settings()
    logs.configure(config.log.level, json=config.log.json)
    asyncio.run(migrate_database(config))
    print("The database is up to date.")


@cli.command(name="create-user")
def create_user(
    name: Annotated[str, typer.Argument(help="The part before the colon of the user id.")],
    password: Annotated[str, typer.Option(prompt=True, hide_input=True, confirmation_prompt=True)],
    admin: Annotated[bool, typer.Option("--admin", help="The user may administrate the server.")] = False,
) -> None:
    """Make an account."""
    user_id, _ = _run(lambda container: container.accounts.register(name, password, None, is_admin=admin))
    print(f"The account {user_id} is made.")


async def _with_container(config: Config, work: Callable[[Container], Awaitable[T]]) -> T:
    await migrate_database(config)
    parts = build(config, clock=Clock(), randomness=Randomness(), metrics=Metrics(), is_server=False)
    async with parts as container:
        return await work(container)


def _run(work: Callable[[Container], Awaitable[T]]) -> T:
    """Do something with the server's parts; what the operator did wrong ends the program with a sentence."""
    config = _settings()
    logs.configure(config.log.level, json=config.log.json)
    try:
        return asyncio.run(_with_container(config, work))
    except RequestError as error:
        print(error.message, file=sys.stderr)
        raise typer.Exit(1) from None
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None


@tokens.command(name="create")
def create_token(
    token: Annotated[str | None, typer.Option(help="The token. Left out: a random one.")] = None,
    uses: Annotated[int | None, typer.Option(min=1, help="How many accounts it is good for. Left out: any.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="How long it is good. Left out: for ever.")] = None,
) -> None:
    """Make a token with which people can register."""
    lifetime_ms = None if days is None else int(days * 86_400_000)
    print(_run(lambda container: container.registration.add_token(token, uses=uses, lifetime_ms=lifetime_ms)))


@tokens.command(name="list")
def list_tokens() -> None:
    """Show all registration tokens."""
    for one in _run(lambda container: container.registration.list_tokens()):
        allowed = "any number" if one.uses_allowed is None else str(one.uses_allowed)
        print(f"{one.token}  used {one.uses} of {allowed}")


@tokens.command(name="revoke")
def revoke_token(token: Annotated[str, typer.Argument(help="The token.")]) -> None:
    """Nobody can register with the token any more."""
    if not _run(lambda container: container.registration.remove_token(token)):
        print("There is no such token.", file=sys.stderr)
        raise typer.Exit(1)
    print("The token is revoked.")


@room_commands.command(name="purge")
def purge_room(
    room_id: Annotated[str, typer.Argument(metavar="ROOM", help="The id of the room.")],
    before: Annotated[
        str | None,
        typer.Option(
            metavar="EVENT|TIME",
            help="Remove the history before this event, or before a time like 2026-01-31 or 2026-01-31T12:00+01:00 "
            "(UTC if not said otherwise). Left out: remove the whole room.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Remove the whole room even if users are in it, who then leave.")
    ] = False,
) -> None:
    """Remove a room, or its history, for good.

    A running server does it, and the command shows how far it has come. It goes on if the command is ended.
    """
    point = None if before is None else _point(before)
    job = _run(lambda container: _purge(container, RoomId(room_id), point, is_forced=force))
    if job.failure is not None:
        print(job.failure, file=sys.stderr)
        raise typer.Exit(1)
    print("The room is gone." if job.before is None else "The history is gone.")


def _point(text: str) -> Point:
    """The event of this id, or the time. Ends the program where it is neither."""
    if text.startswith("$"):
        return Point(event_id=EventId(text))
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        print(f"{text} is neither the id of an event nor a time like 2026-01-31T12:00.", file=sys.stderr)
        raise typer.Exit(2) from None
    return Point(ts=int(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1000))


async def _purge(container: Container, room_id: RoomId, point: Point | None, *, is_forced: bool) -> Job:
    """Begin a purge and see it to its end; where no server takes it up, do it here."""
    purge, clock = container.purge, container.clock
    job = await purge.find_open(room_id)
    if job is None:
        job = await purge.find(await purge.start(room_id, point, is_forced=is_forced))
    else:
        print("A purge of this room is under way already: this is how far it has come.")
    asked = clock.now()
    with _Progress() as progress:
        async with asyncio.TaskGroup() as tasks:
            working: asyncio.Task[None] | None = None
            while job.ended_ts is None:
                progress.show(job)
                is_idle = working is None or working.done()
                if is_idle and job.held_until < clock.now() and clock.now() > asked + _PICKED_UP_MS:
                    working = tasks.create_task(purge.work(is_server=False))
                await clock.sleep(_LOOK_S)
                job = await purge.find(job.purge_id)
    return job


class _Progress:
    """A bar for each stage of a purge."""

    def __init__(self) -> None:
        self._stage = ""
        self._bars = ExitStack()
        self._update: Callable[[int], None] = lambda steps: None
        self._shown = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.close()

    def show(self, job: Job) -> None:
        """Show how far the purge has come."""
        if job.stage != self._stage:
            self._bars.close()
            label = _STAGES[job.stage]
            bar = self._bars.enter_context(typer.progressbar(length=max(job.total, 1), label=label, file=sys.stderr))
            self._stage, self._shown, self._update = job.stage, 0, bar.update
        self._update(job.done - self._shown)
        self._shown = job.done


@cli.command(name="check-config")
def check_config() -> None:
    """Say whether the settings are good, and every fault if they are not."""
    config = _settings()
    print(f"The settings are good. The server's name is {config.server_name}.")


@cli.command(name="generate-signing-key")
def generate_signing_key(
    path: Annotated[Path, typer.Argument(help="File to write; it must not exist yet.")],
) -> None:
    """Make a new signing key file."""
    try:
        key = signing_key.create(path, Randomness())
    except OSError as error:
        print(f"{path} cannot be written: {error.strerror}.", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"The key {key.key_id} is in {path}.")


@cli.command()
def fsck(
    room: Annotated[str | None, typer.Option(help="Id of a room: only this one is looked at.")] = None,
) -> None:
    """Say whether the database is whole, and what to do where it is not; nothing is changed.

    It may run while the server does. Exits with 1 if something is wrong.
    """
    faults = _read_database(lambda database: _fsck(database, None if room is None else RoomId(room)))
    if faults:
        print(f"{faults} fault{'' if faults == 1 else 's'} found. Nothing was changed.", file=sys.stderr)
        raise typer.Exit(1)
    print("The database is whole.")


def _read_database(work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Do something that only reads the database, and starts nothing of the server."""
    config = _settings()
    logs.configure(config.log.level, json=config.log.json)

    async def read() -> T:
        url = config.effective_database_url
        if not await is_current(url):
            print("This is no database of this release. Run `homeserver migrate` before.", file=sys.stderr)
            raise typer.Exit(2)
        async with Database.open(url) as database:
            return await work(database)

    try:
        return asyncio.run(read())
    except RequestError as error:
        print(error.message, file=sys.stderr)
    except DBAPIError as error:
        print(f"The database cannot be read: {error.orig}", file=sys.stderr)
    except Unavailable as error:
        print(f"The database cannot be read: {error.__cause__}", file=sys.stderr)
    raise typer.Exit(1)


async def _fsck(database: Database, room_id: RoomId | None) -> int:
    """Print what is wrong, and say how much that is."""
    faults = 0

    def tell(found: list[Finding]) -> None:
        nonlocal faults
        faults += len(found)
        by_remedy: dict[str, list[Finding]] = {}
        for one in found:
            by_remedy.setdefault(one.kind.remedy, []).append(one)
        if found:
            print(found[0].room_id or "The whole database")
        for remedy, ones in by_remedy.items():
            print("".join(f"  {one.what} ({one.kind.invariant})\n" for one in ones) + f"    What to do: {remedy}")

    if room_id is not None:
        tell(await consistency.check_room(database, room_id, lambda count: None))
        return faults
    tell(await consistency.check_whole(database))
    count = await consistency.count_events(database)
    with typer.progressbar(length=count, label=f"Looking at {count} events", file=sys.stderr) as progress:
        async for found in consistency.check_rooms(database, progress.update):
            tell(found)
    return faults


_Room = Annotated[str, typer.Argument(help="The room's id, or a local alias of it.", metavar="ROOM")]


@room_commands.command(name="graph")
def draw_graph(
    room: _Room,
    newest: Annotated[str | None, typer.Option("--from", help="The newest event to show. Left out: the last.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=5000, help="How many events to show.")] = 100,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write. Left out: print it.")] = None,
    as_dot: Annotated[bool, typer.Option("--dot", help="Write DOT, for Graphviz, and not SVG.")] = False,
) -> None:
    """Draw the newest events of a room, with what they follow and what became of them."""
    shown = _read_database(lambda database: database.snapshot(excerpt.read_graph, room, newest=newest, limit=limit))
    text = drawing.dot(shown) if as_dot else drawing.svg(shown)
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"{output} cannot be written: {error.strerror}.", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{len(shown.events)} events of {shown.room_id} are in {output}.")


@room_commands.command(name="resolutions")
def show_resolutions(
    room: _Room, limit: Annotated[int, typer.Option(min=1, max=1000, help="How many to show.")] = 20
) -> None:
    """Say where branches of a room were brought together, what changed in its state, and which events lost."""
    found = _read_database(lambda database: database.snapshot(excerpt.read_resolutions, room, limit=limit))
    if not found:
        print("The room's state was never resolved: its branches never disagreed.")
    for one in found:
        print(f"Position {one.position}: {one.states} states were resolved {one.where}.")
        print("".join(f"  changed: {change}\n" for change in one.changes) or "  changed: nothing\n", end="")
        print("".join(f"  lost: {loser}\n" for loser in one.lost), end="")


@room_commands.command(name="joins")
def show_joins() -> None:
    """Say which rooms of other servers were joined and are not known whole yet, and how far each has come."""
    found = _read_database(lambda database: database.snapshot(partial.list_joins))
    if not found:
        print("All rooms are known whole.")
    for one in found:
        print(f"{one.room_id}, joined through {one.via} on {_when(one.since_ts)}")
        print(f"  {one.members} members are known; events go to {one.servers} other servers")
        if one.total:
            print(f"  {one.done} of {one.total} events of its state are stored")
        if one.failure is not None:
            print(f"  tried in vain {one.failures} times, again on {_when(one.retry_ts)}: {one.failure}")


def _when(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@federation_commands.command(name="check")
def check_federation(
    name: Annotated[str, typer.Argument(help="The name of a server, this one's own included.")],
) -> None:
    """Go the way to another server step by step, and say what is wrong where it ends.

    Exits with 1 if the server cannot be spoken to.
    """
    config = _settings()
    logs.configure(config.log.level, json=config.log.json)
    try:
        is_good = asyncio.run(_check_federation(config, ServerName(name)))
    except ConfigError as error:
        print("\n".join(f"{key}: {fault}" for key, fault in error.faults), file=sys.stderr)
        raise typer.Exit(2) from None
    if not is_good:
        raise typer.Exit(1)
    print(f"{name} can be spoken to.")


@federation_commands.command(name="destinations")
def show_destinations(
    name: Annotated[str | None, typer.Argument(help="The name of a server. Left out: all of them.")] = None,
) -> None:
    """Say how it goes with sending to other servers: since when one fails, why, what it lacks, when it is tried again.

    It reads the database; the server may be running.
    """
    now = Clock().now()
    if name is not None:
        one = _run(lambda container: container.destination_reports.find(ServerName(name)))
        print("\n".join(one.sentences(now)))
        return
    found = _run(lambda container: container.destination_reports.list())
    for one in found:
        print(f"{one.name}: {' '.join(one.sentences(now))}")
    failing = sum(1 for one in found if one.row.failures)
    print(f"{len(found)} servers, of which {failing} do not take what is sent to them.")


async def _check_federation(config: Config, name: ServerName) -> bool:
    """Print each step; whether none has failed."""
    randomness = Randomness()
    key = signing_key.ensure(config, randomness) if signing_key.path_of(config).exists() else None
    check = FederationCheck(config, key, Clock(), randomness)
    is_good = True
    try:
        async for step in check.steps(name):
            print(step)
            is_good = is_good and step.outcome != "FAILED"
    finally:
        await check.close()
    return is_good


def main() -> None:
    """The `homeserver` command."""
    cli()
