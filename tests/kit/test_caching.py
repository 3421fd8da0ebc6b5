"""What is kept is bounded."""

import pytest

from homeserver.kit.caching import Lru


@pytest.mark.trust("R8")
def test_what_is_weighed_is_kept_up_to_a_weight() -> None:
    kept: Lru[str, str] = Lru(10, len)
    for key in "abc":
        kept.put(key, key * 3)
    assert kept.get("a") == "aaa"  # Used last: "b" goes first.
    kept.put("d", "dddd")
    assert [kept.get(key) for key in "abcd"] == ["aaa", None, "ccc", "dddd"]
    kept.put("a", "a")
    kept.put("e", "ee")
    assert len(kept) == 4
    kept.drop("d")
    kept.put("f", "ffff")
    assert len(kept) == 4
    kept.put("g", "g" * 11)  # Heavier than all that may be kept.
    assert kept.get("g") is None
    kept.clear()
    kept.put("a", "a" * 10)
    assert kept.get("a") == "a" * 10


def test_what_is_not_weighed_is_counted() -> None:
    kept: Lru[int, str] = Lru(2)
    for key in range(3):
        kept.put(key, "x" * 100)
    assert [kept.get(key) is None for key in range(3)] == [True, False, False]
