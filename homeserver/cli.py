"""Every task of an operator."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from homeserver.app import signing_key
from homeserver.app.application import Application
from homeserver.app.container import build
from homeserver.app.migrations import migrate as migrate_database
from homeserver.config.load import load
from homeserver.config.model import Config
from homeserver.errors import ConfigError, RequestError
from homeserver.kit import logs
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="A Matrix homeserver.")


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
    settings = uvicorn.Config(
        Application(config),
        host=config.host,
        port=config.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
        server_header=False,
    )
    # uvicorn ends gracefully on SIGTERM and then raises the signal again: what was asked for is done, so exit with 0.
    signal.signal(signal.SIGTERM, lambda *_: None)
    uvicorn.Server(settings).run()


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
    config = _settings()
    logs.configure(config.log.level, json=config.log.json)
    try:
        user_id = asyncio.run(_create_user(config, name, password, admin))
    except RequestError as error:
        print(error.message, file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"The account {user_id} is made.")


async def _create_user(config: Config, name: str, password: str, admin: bool) -> str:
    await migrate_database(config)
    async with build(config, clock=Clock(), randomness=Randomness(), metrics=Metrics()) as container:
        user_id, _ = await container.accounts.register(name, password, None, is_admin=admin)
    return user_id


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


def main() -> None:
    """The `homeserver` command."""
    cli()
