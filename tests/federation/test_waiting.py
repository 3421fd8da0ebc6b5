"""Events that wait for others: however many there are, they cost little, and push out none of other servers."""

from collections import Counter
from typing import Any

import pytest

from homeserver.matrix.events import Event
from homeserver.matrix.identifiers import EventId, RoomId, ServerName, domain_of
from homeserver.services.rooms.receipts import Outcome
from homeserver.storage import event_graph, rooms
from homeserver.storage.engine import ReadTx, WriteTx
from homeserver.storage.event_graph import Waiting
from tests.federation.network import Network
from tests.room_graphs import Graph
from tests.services.rooms.test_branches import BOB, DAN, Scene
from tests.statements import counted
from tests.world import World

pytestmark = pytest.mark.anyio

EVE = "@eve:e.example"
MOST, MOST_OF_STRANGERS, MOST_BYTES = 10_000, 100, 32 << 20


@pytest.fixture
async def world(network: Network) -> World:
    for name in ("b.example", "c.example", "e.example"):
        network.peer(name)
    return await network.server("a.test")


@pytest.fixture
async def scene(world: World) -> Scene:
    alice = await world.user("alice")
    return Scene(world, alice, await alice.create_room(preset="public_chat"))


def say(graph: Graph, sender: str, number: int, *prev: Event) -> Event:
    return graph.say(sender, "m.room.message", {"body": f"{number}"}, prev or [graph.events[-1]])


async def waiting(scene: Scene) -> Counter[str]:
    """How many events of the room wait, by the server that made them."""

    def look(tx: ReadTx) -> Counter[str]:
        room = rooms.find(tx, RoomId(scene.room_id))
        assert room is not None
        return Counter(
            {str(server): count for server, (count, _) in event_graph.measure_waiting(tx, room.room_nid).items()}
        )

    return await scene.world.container.database.read(look)


async def fill(scene: Scene, server: str, count: int, *, size: int = 10, missing: int = 1) -> None:
    """Have so many events of a server wait for what is nowhere."""

    def write(tx: WriteTx) -> None:
        room = rooms.find(tx, RoomId(scene.room_id))
        assert room is not None
        event_graph.let_wait(
            tx,
            [
                Waiting(
                    EventId(f"${server}{number}"),
                    room.room_nid,
                    number,
                    b" " * size,
                    frozenset(EventId(f"$nowhere{number}{server}{edge}") for edge in range(missing)),
                    ServerName(server),
                )
                for number in range(count)
            ],
        )

    await scene.world.container.database.write(write)


async def hidden(scene: Scene, *senders: str) -> dict[str, Event]:
    """An event of each that follows one which nobody has."""
    graph = await scene.graph()
    return {sender: say(graph, sender, 1, say(graph, sender, 0)) for sender in senders}


@pytest.mark.trust("C23", "R5", "R6")
@pytest.mark.timeout(120)
async def test_who_has_many_events_waiting_pushes_out_the_own_ones(scene: Scene) -> None:
    await scene.join(BOB)
    await scene.join(EVE)
    new = await hidden(scene, BOB, EVE)
    await fill(scene, "e.example", MOST - 1)
    assert await scene.outcomes(new[BOB]) == [Outcome.WAITING]
    assert await waiting(scene) == {"b.example": 1, "e.example": MOST - 1}
    assert await scene.outcomes(new[EVE]) == [Outcome.WAITING]
    assert await waiting(scene) == {"b.example": 1, "e.example": MOST - 1}


@pytest.mark.trust("C23", "R5", "R6")
@pytest.mark.timeout(120)
async def test_events_that_wait_have_so_many_bytes_at_most(scene: Scene) -> None:
    await scene.join(BOB)
    await scene.join(EVE)
    await fill(scene, "e.example", 600, size=60_000)
    await fill(scene, "b.example", 100, size=1000)
    new = await hidden(scene, BOB)
    assert await scene.outcomes(new[BOB]) == [Outcome.WAITING]
    found = await waiting(scene)
    assert found["b.example"] == 101
    assert MOST_BYTES - 200_000 - 60_000 <= found["e.example"] * 60_000 <= MOST_BYTES - 100_000


@pytest.mark.trust("C23", "R5", "R6")
async def test_few_events_of_those_who_are_not_in_the_room_wait(scene: Scene) -> None:
    await scene.join(BOB)
    await scene.join(EVE)
    new = await hidden(scene, BOB, EVE, DAN)
    await fill(scene, "e.example", 150)
    await fill(scene, "f.example", 80, size=11)
    await fill(scene, "g.example", 20)
    assert await scene.outcomes(new[BOB]) == [Outcome.WAITING]
    assert await waiting(scene) == {"b.example": 1, "e.example": 150, "f.example": 80, "g.example": 20}
    # Nobody there is of c.example.
    assert domain_of(DAN) == "c.example"
    assert await scene.outcomes(new[DAN]) == [Outcome.WAITING]
    found = await waiting(scene)
    assert (found["b.example"], found["e.example"]) == (1, 150)
    assert found["c.example"] + found["f.example"] + found["g.example"] == MOST_OF_STRANGERS
    assert found["f.example"] < 80


@pytest.mark.trust("C23", "R6")
async def test_a_delivery_asks_for_what_concerns_it_alone(scene: Scene) -> None:
    await scene.join(BOB)
    await fill(scene, "b.example", 400, missing=30)
    graph = await scene.graph()
    with counted() as sent:
        assert await scene.outcomes(say(graph, BOB, 1)) == [Outcome.ACCEPTED]
    of_waiting = [statement for statement in sent if "waiting_for" in statement]
    assert of_waiting
    assert all("missing_id IN" in statement or "missing_id =" in statement for statement in of_waiting), of_waiting


def _star(graph: Graph, first: Event) -> list[Event]:
    return [say(graph, BOB, number, first) for number in range(250)]


def _chain(graph: Graph, first: Event) -> list[Event]:
    found = [first]
    for number in range(250):
        found.append(say(graph, BOB, number, found[-1]))
    return found[1:]


def _comb(graph: Graph, first: Event) -> list[Event]:
    """Each event of a chain is followed by another one beside it."""
    found = [first]
    for number in range(0, 250, 2):
        found.append(say(graph, BOB, number, found[-1] if number == 0 else found[-2]))
        found.append(say(graph, BOB, number + 1, found[-1]))
    return found[1:]


@pytest.mark.trust("C23", "F47", "R4")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("shape", [_star, _chain, _comb])
async def test_all_that_waited_comes_once_what_it_waited_for_has_come(scene: Scene, shape: Any) -> None:
    await scene.join(BOB)
    graph = await scene.graph()
    first = say(graph, BOB, -1)
    nowhere = say(graph, BOB, -2, first)
    behind_nowhere = say(graph, BOB, -3, first, nowhere)
    behind = shape(graph, first)
    for start in range(0, len(behind), 50):
        assert set(await scene.outcomes(*behind[start : start + 50])) == {Outcome.WAITING}
    assert await scene.outcomes(behind_nowhere) == [Outcome.WAITING]
    assert await scene.outcomes(first) == [Outcome.ACCEPTED]
    assert await waiting(scene) == {"b.example": 1}
    assert (await scene.graph()).by_id.keys() >= {event.event_id for event in behind}
    assert await scene.outcomes(nowhere) == [Outcome.ACCEPTED]
    assert await waiting(scene) == {}


@pytest.mark.trust("C23", "R6")
@pytest.mark.timeout(120)
async def test_many_events_that_wait_for_several_wait_for_what_is_left(scene: Scene) -> None:
    await scene.join(BOB)
    graph = await scene.graph()
    first, second = say(graph, BOB, 1), say(graph, BOB, 2, graph.events[-1])
    second = say(graph, BOB, 2, first)
    behind = [say(graph, BOB, number, first, second) for number in range(120)]
    last = say(graph, BOB, 3, behind[0], behind[119])
    assert set(await scene.outcomes(*behind[:60])) == {Outcome.WAITING}
    assert set(await scene.outcomes(*behind[60:], last)) == {Outcome.WAITING}
    assert await scene.outcomes(first) == [Outcome.ACCEPTED]
    assert await waiting(scene) == {"b.example": 121}
    assert await scene.outcomes(second) == [Outcome.ACCEPTED]
    assert await waiting(scene) == {}
