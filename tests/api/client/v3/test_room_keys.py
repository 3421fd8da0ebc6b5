"""Key backups: all operations; on both databases."""

import asyncio
from typing import Any

import pytest

from tests.world import User, World

Json = dict[str, Any]
ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"
ROOM = "!room:localhost"


def key(index: int = 0, count: int = 0, *, verified: bool = False, data: str = "secret") -> Json:
    return {
        "first_message_index": index,
        "forwarded_count": count,
        "is_verified": verified,
        "session_data": {"ciphertext": data},
    }


async def create(user: User, **auth: Any) -> str:
    answer = await user.post("/room_keys/version", {"algorithm": ALGORITHM, "auth_data": auth})
    version: str = answer.json()["version"]
    return version


@pytest.mark.behaviours("CS-BKUP-04", "CS-BKUP-05")
async def test_versions_are_made_read_changed_and_deleted(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    none = await alice.get("/room_keys/version")
    assert (none.status_code, none.json()["errcode"]) == (404, "M_NOT_FOUND")
    one, two = await create(alice, public_key="one"), await create(alice, public_key="two")
    assert one != two
    latest = (await alice.get("/room_keys/version")).json()
    assert latest == {
        "algorithm": ALGORITHM,
        "auth_data": {"public_key": "two"},
        "count": 0,
        "etag": latest["etag"],
        "version": two,
    }
    body = {"algorithm": ALGORITHM, "auth_data": {"public_key": "three"}}
    assert (await alice.put(f"/room_keys/version/{one}", body)).status_code == 200
    assert (await alice.get(f"/room_keys/version/{one}")).json()["auth_data"] == {"public_key": "three"}
    for wrong in ({**body, "algorithm": "other"}, {**body, "version": "77"}):
        assert (await alice.put(f"/room_keys/version/{one}", wrong)).status_code == 400
    assert (await bob.get(f"/room_keys/version/{one}")).status_code == 404
    assert (await alice.call("DELETE", f"/room_keys/version/{two}")).status_code == 200
    assert (await alice.get("/room_keys/version")).json()["version"] == one
    assert (await alice.call("DELETE", f"/room_keys/version/{two}")).status_code == 200
    assert (await alice.call("DELETE", "/room_keys/version/77")).status_code == 404
    assert (await alice.get(f"/room_keys/version/{two}")).status_code == 404
    assert await create(alice) not in (one, two)


@pytest.mark.behaviours("CS-BKUP-03", "CS-BKUP-05")
async def test_keys_are_put_read_and_deleted_at_three_levels(world: World) -> None:
    alice = await world.user("alice")
    version = await create(alice)
    query = f"?version={version}"
    answer = await alice.put(f"/room_keys/keys{query}", {"rooms": {ROOM: {"sessions": {"a": key(), "b": key()}}}})
    etag = answer.json()["etag"]
    assert answer.json() == {"count": 2, "etag": etag}
    answer = await alice.put(f"/room_keys/keys/{ROOM}{query}", {"sessions": {"c": key(3)}})
    assert (answer.json()["count"], answer.json()["etag"] != etag) == (3, True)
    answer = await alice.put(f"/room_keys/keys/!other:localhost/d%2Fd{query}", key(4))
    assert answer.json()["count"] == 4
    assert (await alice.get(f"/room_keys/keys/!other:localhost/d%2Fd{query}")).json() == key(4)
    assert (await alice.get(f"/room_keys/keys/{ROOM}{query}")).json()["sessions"].keys() == {"a", "b", "c"}
    everything = (await alice.get(f"/room_keys/keys{query}")).json()["rooms"]
    assert everything["!other:localhost"]["sessions"] == {"d/d": key(4)}
    missing = await alice.get(f"/room_keys/keys/{ROOM}/none{query}")
    assert (missing.status_code, missing.json()["errcode"]) == (404, "M_NOT_FOUND")
    assert (await alice.call("DELETE", f"/room_keys/keys/{ROOM}/a{query}")).json()["count"] == 3
    assert (await alice.call("DELETE", f"/room_keys/keys/{ROOM}{query}")).json()["count"] == 1
    assert (await alice.call("DELETE", f"/room_keys/keys{query}")).json()["count"] == 0


@pytest.mark.behaviours("CS-BKUP-02")
@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (key(5, verified=True), key(1), "before"),
        (key(1), key(5, verified=True), "after"),
        (key(5), key(1), "after"),
        (key(1), key(5), "before"),
        (key(1, 3), key(1, 2), "after"),
        (key(1, 2), key(1, 3), "before"),
        (key(1, 2, data="x"), key(1, 2, data="y"), "before"),
    ],
)
async def test_of_two_keys_the_better_is_kept(world: World, before: Json, after: Json, kept: str) -> None:
    alice = await world.user("alice")
    path = f"/room_keys/keys/{ROOM}/a?version={await create(alice)}"
    await alice.put(path, before)
    await alice.put(path, after)
    assert (await alice.get(path)).json() == (before if kept == "before" else after)


@pytest.mark.behaviours("CS-BKUP-01")
async def test_only_the_newest_backup_takes_keys(world: World) -> None:
    alice = await world.user("alice")
    old, new = await create(alice), await create(alice)
    answer = await alice.put(f"/room_keys/keys/{ROOM}/a?version={old}", key())
    assert (answer.status_code, answer.json()["errcode"]) == (403, "M_WRONG_ROOM_KEYS_VERSION")
    assert answer.json()["current_version"] == new


@pytest.mark.parametrize("version", ["", "x", "-1", "9" * 30, "١"])
async def test_strange_versions_are_not_found(world: World, version: str) -> None:
    alice = await world.user("alice")
    await create(alice)
    assert (await alice.get(f"/room_keys/keys?version={version}")).status_code in (400, 404)


@pytest.mark.parametrize(
    "body",
    [{}, {**key(), "first_message_index": -1}, {**key(), "is_verified": 1}, {**key(), "session_data": "x"}],
)
@pytest.mark.by_turns
async def test_bad_keys_are_refused(world: World, body: Json) -> None:
    alice = await world.user("alice")
    assert (await alice.put(f"/room_keys/keys/{ROOM}/a?version={await create(alice)}", body)).status_code == 400


@pytest.mark.behaviours("CS-BKUP-02", "CS-BKUP-03")
async def test_backups_made_and_filled_at_once_are_all_there_and_keep_the_best(world: World) -> None:
    alice = await world.user("alice")
    versions = await asyncio.gather(*(create(alice) for _ in range(6)))
    assert len(set(versions)) == 6
    path = f"/room_keys/keys/{ROOM}/a?version={max(versions, key=int)}"
    answers = await asyncio.gather(*(alice.put(path, key(index)) for index in (5, 2, 4, 1, 3)))
    assert {answer.status_code for answer in answers} == {200}
    assert (await alice.get(path)).json() == key(1)


@pytest.mark.behaviours("CS-BKUP-01")
async def test_a_backup_of_very_many_rooms_is_taken(world: World) -> None:
    alice = await world.user("alice")
    version = await create(alice)
    rooms: Json = {f"!{number}:h": {"sessions": {}} for number in range(30_000)}
    rooms["!0:h"] = {"sessions": {str(number): key() for number in range(2_000)}}
    answer = await alice.put(f"/room_keys/keys?version={version}", {"rooms": rooms})
    assert answer.status_code == 200, answer.text
    assert answer.json()["count"] == 2_000
