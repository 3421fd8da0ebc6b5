"""Rooms with members of many other servers, in the database of a server that is to run."""

import json
from dataclasses import dataclass
from pathlib import Path

from homeserver.app.container import Container, build
from homeserver.config.model import Config, Limits, Log, Passwords
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.matrix.events import Event, build_event
from homeserver.matrix.identifiers import RoomId
from homeserver.matrix.server_keys import publish
from homeserver.services.rooms.create import NewRoom
from homeserver.services.rooms.receipts import Outcome
from homeserver.services.users.accounts import NewDevice
from homeserver.storage import event_log, rooms, server_keys
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.server_keys import StoredDocument
from tests import room_graphs
from tests.room_graphs import key_of

_VERSION = "11"
_BATCH = 500
_DAY_MS = 24 * 60 * 60 * 1000
_CITED = (("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", ""))


@dataclass(frozen=True)
class LargeRooms:
    """The rooms, and the access token of the one who made them."""

    room_ids: list[RoomId]
    token: str


def absent(count: int) -> list[str]:
    """Names of servers of which it is found out at once that they are not there."""
    return [f"127.9.{number // 250}.{number % 250 + 1}:1" for number in range(count)]


def know(tx: WriteTx, names: list[str]) -> None:
    """Let a server know the keys of these, as if they had just told them."""
    now = Clock().now()
    until = now + _DAY_MS
    server_keys.put_many(tx, room_graphs.server_keys(names))
    told = [StoredDocument(name, now, until, publish(name, key_of(name), {}, valid_until_ts=until)) for name in names]
    server_keys.put_documents(tx, told)


async def make(name: str, folder: Path, database_url: str, names: list[str], members: int, *, count: int) -> LargeRooms:
    """Rooms of the server `name`, which does not run, each with so many members of other servers, truly signed."""
    config = Config(
        server_name=name,
        data_dir=str(folder),
        database_url=database_url,
        passwords=Passwords(time_cost=1, memory_kib=8, minimum_length=1),
        limits=Limits(rate_limits=False),
        log=Log(level="warning"),
    )
    async with build(config, clock=Clock(), randomness=Randomness(), metrics=Metrics(), is_server=False) as container:
        await container.database.write(know, names)
        _, session = await container.accounts.register("owner", "secret", NewDevice(None, None, refreshable=False))
        assert session is not None
        token = session.tokens.access_token
        owner = await container.sessions.requester(token)
        made = []
        for _ in range(count):
            new = NewRoom(preset="public_chat", name="Everybody", version=_VERSION)
            made.append(await container.room_creation.create(owner, new))
            await _let_in(container, made[-1], names, members)
    return LargeRooms(made, token)


async def _let_in(container: Container, room_id: RoomId, names: list[str], count: int) -> None:
    stored = await container.database.snapshot(_stored, room_id)
    state = {(event.type, event.state_key): event for event in stored}
    cited = [state[pair] for pair in _CITED]
    tip, now = stored[-1], Clock().now()
    for first in range(0, count, _BATCH):
        pdus = []
        for number in range(first, min(first + _BATCH, count)):
            server = names[number % len(names)]
            tip = _join(server, f"@member-{number}:{server}", room_id, tip, cited, now)
            pdus.append(tip.pdu)
        receipts = await container.inbox.receive(room_id, pdus)
        assert {one.outcome for one in receipts} == {Outcome.ACCEPTED}, receipts[0]


def _join(server: str, user_id: str, room_id: RoomId, tip: Event, cited: list[Event], now: int) -> Event:
    content = {"membership": "join", "displayname": user_id[1:20], "avatar_url": f"mxc://{server}/{'a' * 24}"}
    return build_event(
        _VERSION,
        server_name=server,
        key=key_of(server),
        room_id=room_id,
        type="m.room.member",
        sender=user_id,
        state_key=user_id,
        content=json.dumps(content).encode(),
        origin_server_ts=now,
        depth=tip.depth + 1,
        prev_events=[tip],
        auth_events=cited,
    )


def _stored(tx: ReadTx, room_id: RoomId) -> list[Event]:
    room = rooms.find(tx, room_id)
    assert room is not None
    return [Event.parse(row.pdu, room.version, row.event_id) for row in event_log.list_all(tx, room.room_nid)]
