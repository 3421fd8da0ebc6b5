"""What the notifier remembers of changes."""

import pytest

from homeserver.streams.notifier import Notifier


@pytest.mark.trust("R8")
def test_what_is_forgotten_may_have_changed() -> None:
    notifier = Notifier(remembered=3)
    notifier.begin(10)
    for position in range(11, 21):
        notifier.changed(position, [f"@u{position}:a.test"])
    assert not notifier.may_have_changed("@u20:a.test", 20)
    assert notifier.may_have_changed("@u20:a.test", 19)
    assert notifier.may_have_changed("@u11:a.test", 10)
    # Nobody knows of whom that was, so it may have been anybody.
    assert notifier.may_have_changed("@other:a.test", 16)
    assert not notifier.may_have_changed("@other:a.test", 17)
    notifier.changed(21, ["@u18:a.test", "@new:a.test"])
    assert notifier.may_have_changed("@u18:a.test", 20)
