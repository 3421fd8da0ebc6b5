"""The events of states that were resolved and may be stored nowhere: those of a root, with changes."""

from collections.abc import Iterable

from homeserver.matrix.events import Event
from homeserver.services.rooms.hot import HotRoom, parse
from homeserver.services.rooms.placement import State
from homeserver.services.rooms.state import StateTrees
from homeserver.storage import events
from homeserver.storage.engine import ReadTx
from homeserver.storage.state import Pair


def find_in_state(
    tx: ReadTx, trees: StateTrees, room: HotRoom, state: State, pairs: Iterable[Pair]
) -> dict[Pair, Event]:
    """The events of these pairs in a state of the room."""
    ids = trees.pair_ids(tx, pairs)
    found: dict[int, int | None] = {}
    if state.root is not None:
        found.update(trees.find_ids(tx, [state.root], ids.values())[state.root])
    found.update((pair_id, state.changes[pair_id]) for pair_id in ids.values() if pair_id in state.changes)
    positions = {pair: at for pair, pair_id in ids.items() if (at := found.get(pair_id)) is not None}
    stored = events.find_many(tx, positions.values())
    return {pair: parse(stored[at], room.version.identifier) for pair, at in positions.items()}
