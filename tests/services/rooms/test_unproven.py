"""Events that wait for keys: all are counted, few are held."""

from homeserver.matrix.identifiers import EventId
from homeserver.services.rooms.unproven import Unproven


def test_so_much_is_held_for_all_rooms_together() -> None:
    unproven = Unproven(most_bytes=10)
    unproven.add(1, EventId("$a"), b"aaaaaa")
    unproven.add(2, EventId("$b"), b"bbbbbb")
    unproven.add(2, EventId("$c"), b"cccc")
    assert [unproven.count(room) for room in (1, 2, 3)] == [1, 2, 0]
    assert (unproven.held(1), unproven.held(2), unproven.held(3)) == ({"$a": b"aaaaaa"}, {"$c": b"cccc"}, {})
    unproven.forget(1)
    unproven.add(2, EventId("$b"), b"bbbbbb")
    assert unproven.held(2) == {"$c": b"cccc", "$b": b"bbbbbb"}
    unproven.keep_only({1})
    assert (unproven.count(2), unproven.held(2)) == (0, {})
    unproven.add(1, EventId("$d"), b"dddddddddd")
    assert unproven.held(1) == {"$d": b"dddddddddd"}
