"""Events as deep as they can be: what follows them is no deeper."""

import json
from urllib.parse import quote

import pytest

from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import sign_pdu
from tests.federation.foreign import ForeignRoom, bring_in, complete, hand_over, make
from tests.federation.network import Network
from tests.federation.test_invites import invites
from tests.federation.test_joins import members_of
from tests.room_graphs import key_of

pytestmark = pytest.mark.anyio

VERSIONS = ["1", "5", "6", "12"]


@pytest.mark.trust("R8")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.by_turns
async def test_room_goes_on_behind_an_event_of_the_greatest_depth(network: Network, version: str) -> None:
    a, p = await network.server("a.test"), network.peer("p.test")
    ann, ben = await a.user("ann"), await a.user("ben")
    room_id = await ann.create_room(preset="public_chat", room_version=version)
    await bring_in(p, "a.test", room_id, "@x:p.test", depth=ROOM_VERSIONS[version].max_depth)
    await ann.send(room_id, "and on")
    await ann.set_state(room_id, "m.room.topic", {"topic": "deep"})
    await ben.join(room_id)
    await ben.leave(room_id)
    made = await make(p, "a.test", "leave", room_id, "@x:p.test")
    assert made.status_code == 200, made.text
    assert made.json()["event"]["depth"] == ROOM_VERSIONS[version].max_depth
    gone = await hand_over(p, "a.test", "leave", room_id, complete(p, made.json()))
    assert gone.status_code == 200, gone.text
    assert await members_of(ann, room_id) == {ann.user_id: "join", ben.user_id: "leave", "@x:p.test": "leave"}
    await network.fsck()


@pytest.mark.trust("R8")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.by_turns
async def test_invite_of_the_greatest_depth_can_be_rejected(network: Network, version: str) -> None:
    b = await network.server("b.test")
    bob = await b.user("bob")
    room = ForeignRoom.begin(network.peer("p.test"), version)
    invite = json.loads(room.invite(bob.user_id).pdu) | {"depth": ROOM_VERSIONS[version].max_depth}
    signed = sign_pdu(json.dumps(invite).encode(), version, "p.test", key_of("p.test"))
    assert (await room.send_invite("b.test", signed)).status_code == 200
    assert list(await invites(bob)) == [room.room_id]
    # The server of whoever sent it does not help.
    answer = await bob.post(f"/rooms/{quote(room.room_id)}/leave")
    assert answer.status_code == 200, answer.text
    assert await invites(bob) == {}
