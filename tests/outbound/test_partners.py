"""The operator's lists of servers."""

import pytest

from homeserver.config.model import Federation
from homeserver.outbound.partners import Partners


@pytest.mark.parametrize(
    ("allow", "deny", "name", "may"),
    [
        (None, (), "any.example", True),
        (None, ("evil.example",), "evil.example", False),
        (None, ("evil.example",), "EVIL.example:8448", False),
        (None, ("evil.example",), "evil.example.", False),
        (None, ("evil.example",), "sub.evil.example", True),
        (None, ("evil.example",), "evilXexample", True),
        (None, ("*.evil.example",), "sub.evil.example:1", False),
        (None, ("*.evil.example",), "evil.example", True),
        (None, ("host.example:1",), "host.example:1", False),
        (None, ("host.example:1",), "host.example", True),
        (None, ("[2001:db8::*",), "[2001:db8::1]:8448", False),
        ((), (), "any.example", False),
        (("good.example", "*.good.example"), (), "good.example", True),
        (("good.example", "*.good.example"), (), "a.good.example:5", True),
        (("good.example",), (), "other.example", False),
        (("*",), ("evil.example",), "evil.example", False),
    ],
)
def test_refusal_follows_the_lists(allow: tuple[str, ...] | None, deny: tuple[str, ...], name: str, may: bool) -> None:
    assert (Partners(Federation(allow=allow, deny=deny)).refusal(name) is None) is may


def test_refusal_without_federation_is_for_all() -> None:
    assert Partners(Federation(enabled=False)).refusal("any.example") is not None
