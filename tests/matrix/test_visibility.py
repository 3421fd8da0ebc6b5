"""Who may see an event, held to the rules of the specification one by one (Room History Visibility)."""

from itertools import product

import pytest

from homeserver.matrix.visibility import Moment, history_visibility, may_see

MEMBERSHIPS = ("join", "invite", "knock", "leave", "ban")
# Which memberships at the event allow to see it, without a join later on and with one.
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "world_readable": (set(MEMBERSHIPS), set(MEMBERSHIPS)),
    "shared": ({"join"}, set(MEMBERSHIPS)),
    "invited": ({"join", "invite"}, {"join", "invite"}),
    "joined": ({"join"}, {"join"}),
}


@pytest.mark.behaviours("CS-HIST-01")
@pytest.mark.parametrize(("rule", "membership", "joined_later"), list(product(ALLOWED, MEMBERSHIPS, (False, True))))
def test_an_event_is_seen_by_whom_the_state_at_it_allows(rule: str, membership: str, joined_later: bool) -> None:
    expected = membership in ALLOWED[rule][joined_later]
    assert may_see(Moment(rule, membership), joined_later=joined_later) is expected


@pytest.mark.behaviours("CS-HIST-02")
@pytest.mark.parametrize("value", [None, "", "nonsense", 3, [], {}, True])
def test_what_is_not_understood_counts_as_shared(value: object) -> None:
    assert history_visibility(value) == "shared"
