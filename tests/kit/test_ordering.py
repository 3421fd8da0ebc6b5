"""Topological order: nothing comes before what it stands behind, and chains come in one piece."""

from homeserver.kit.ordering import in_topological_order


def test_a_chain_that_is_given_backwards_comes_in_order() -> None:
    assert list(in_topological_order({"c": {"b"}, "b": {"a"}, "a": set()})) == ["a", "b", "c"]


def test_what_stands_behind_several_comes_after_all_of_them() -> None:
    order = list(in_topological_order({"merge": {"left", "right"}, "left": {"root"}, "right": {"root"}, "root": set()}))
    assert (order[0], set(order[1:3]), order[3]) == ("root", {"left", "right"}, "merge")


def test_chains_beside_each_other_come_one_after_the_other() -> None:
    chains = {"a1": set[str](), "b1": set[str](), "a2": {"a1"}, "b2": {"b1"}, "a3": {"a2"}, "b3": {"b2"}}
    assert list(in_topological_order(chains)) == ["a1", "a2", "a3", "b1", "b2", "b3"]


def test_circles_and_what_stands_behind_them_are_left_out() -> None:
    assert list(in_topological_order({"a": {"b"}, "b": {"a"}, "c": {"a"}, "d": {"d"}, "e": set()})) == ["e"]
