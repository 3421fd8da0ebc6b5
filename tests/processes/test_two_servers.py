"""Two servers as processes, which federate over TLS as servers of different people do."""

from pathlib import Path
from urllib.parse import quote

import pytest

from tests.processes.federating import new_federation
from tests.processes.people import OPEN, hear, say, user
from tests.processes.server import HOST

pytestmark = pytest.mark.timeout(120)  # Each test starts processes, and waits for them.


@pytest.mark.trust("F24")
def test_users_of_two_servers_talk_and_miss_nothing_while_one_is_away(tmp_path: Path) -> None:
    federation = new_federation(tmp_path, "a.test", "b.test")
    with (
        federation.running("a.test", "b.test", **OPEN) as (a, b),
        user(HOST, a.port, "alice") as alice,
        user(HOST, b.port, "bob") as bob,
    ):
        creation = {"preset": "public_chat", "room_alias_name": "hall"}
        room_id = alice.call("POST", "/createRoom", creation)["room_id"]
        assert bob.call("POST", f"/join/{quote('#hall:a.test')}", {})["room_id"] == room_id
        hear(alice, room_id, say(bob, room_id, "one"))
        hear(bob, room_id, say(alice, room_id, "two"))
        b.stop()
        bob.close()
        missed = [say(alice, room_id, f"missed-{number}") for number in range(5)]
        b.start()
        # A sign of life is enough: nobody has to wait until the next try is due.
        hear(alice, room_id, say(bob, room_id, "back"))
        hear(bob, room_id, *missed)
