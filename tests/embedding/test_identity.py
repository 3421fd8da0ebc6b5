"""Whose a database is: a server under another name, or without the key by which it has signed, does not start."""

from pathlib import Path
from typing import Any

import pytest

from homeserver.app import signing_key
from homeserver.config.model import Config, Federation, OldKey
from homeserver.errors import ConfigError
from tests.world import running, settings

pytestmark = pytest.mark.anyio


async def faults(config: Config) -> list[tuple[str, str]]:
    """Why a server with these settings does not start; nothing if it does."""
    try:
        async with running(config):
            return []
    except ConfigError as error:
        return error.faults


async def begin(url: str, folder: Path) -> Any:
    """A server with somebody on it has run; what it published of its key."""
    async with running(settings(url, str(folder))) as world:
        await world.user("alice")
        answer = await world.client.send("GET", "/_matrix/key/v2/server")
        [(key_id, key)] = answer.json()["verify_keys"].items()
        return OldKey(key_id=key_id, public_key=key["key"], expired_ts=world.clock.now())


async def test_a_database_is_not_used_under_another_name(database_url: str, tmp_path: Path) -> None:
    await begin(database_url, tmp_path)
    [(key, fault)] = await faults(settings(database_url, str(tmp_path), server_name="z.test"))
    assert key == "server_name"
    assert "is that of localhost, which cannot become z.test" in fault
    assert await faults(settings(database_url, str(tmp_path))) == []


async def test_a_key_that_is_lost_is_not_replaced_without_a_word(database_url: str, tmp_path: Path) -> None:
    old = await begin(database_url, tmp_path)
    config = settings(database_url, str(tmp_path))
    kept = signing_key.path_of(config).rename(tmp_path / "kept.key")
    [(key, fault)] = await faults(config)
    assert key == "signing_key_path"
    assert old.key_id in fault
    assert old.public_key in fault
    assert not signing_key.path_of(config).exists()
    kept.rename(signing_key.path_of(config))
    assert await faults(config) == []


async def test_a_key_is_changed_by_naming_the_old_one(database_url: str, tmp_path: Path) -> None:
    old = await begin(database_url, tmp_path)
    config = settings(database_url, str(tmp_path), federation=Federation(old_keys=(old,)))
    signing_key.path_of(config).unlink()
    assert await faults(config) == []
    assert [key for key, _ in await faults(settings(database_url, str(tmp_path)))] == ["signing_key_path"]
    # The same id does not stand for another key.
    signing_key.path_of(config).unlink()
    other = OldKey(key_id=old.key_id, public_key="A" * 43, expired_ts=1)
    wrong = settings(database_url, str(tmp_path), federation=Federation(old_keys=(other,)))
    assert {key for key, _ in await faults(wrong)} == {"signing_key_path"}
