"""What somebody sees of a room's past, for all rules and memberships; on both databases.

A history is a list of steps. While it is played, what should be seen of each of its events is worked out by the rules
of the specification, from the state before the event and after it, and compared with what the server shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.world import User, World

RULES = ("world_readable", "shared", "invited", "joined")


@dataclass
class Played:
    """An event of the history, and what held before it and after it."""

    event_id: str
    before: tuple[str, str]
    after: tuple[str, str]
    is_turning: bool
    """Whether it is the reader's own member event, or changes the rule."""


@dataclass
class Play:
    """A room in which a history is played: its owner, and the one who reads."""

    owner: User
    reader: User
    room_id: str
    rule: str
    membership: str = "leave"
    events: list[Played] = field(default_factory=list)

    async def step(self, step: str) -> None:
        """Carry out a step: `say`, a rule, or something that happens to the reader."""
        before = (self.rule, self.membership)
        event_id = ""
        match step:
            case "say":
                event_id = await self.owner.send(self.room_id, "…")
            case "invite":
                await self.owner.invite(self.room_id, self.reader)
                self.membership = "invite"
            case "join":
                await self.reader.join(self.room_id)
                self.membership = "join"
            case "leave":
                await self.reader.leave(self.room_id)
                self.membership = "leave"
            case "kick" | "ban" | "unban":
                body = {"user_id": self.reader.user_id}
                answer = await self.owner.post(f"/rooms/{self.room_id}/{step}", body)
                assert answer.status_code == 200, answer.text
                self.membership = "ban" if step == "ban" else "leave"
            case "rename":
                content = {"membership": "join", "displayname": "Bobby"}
                await self.reader.set_state(self.room_id, "m.room.member", content, self.reader.user_id)
            case rule:
                content = {"history_visibility": rule}
                event_id = await self.owner.set_state(self.room_id, "m.room.history_visibility", content)
                self.rule = rule if rule in RULES else "shared"
        if not event_id:
            pair = f"m.room.member/{self.reader.user_id}"
            answer = await self.owner.get(f"/rooms/{self.room_id}/state/{pair}", format="event")
            event_id = answer.json()["event_id"]
        is_turning = step != "say"
        self.events.append(Played(event_id, before, (self.rule, self.membership), is_turning))

    def visible(self) -> list[Played]:
        """The events that the reader may see by the rules."""
        shown = []
        for index, one in enumerate(self.events):
            joined_later = any(later.after[1] == "join" for later in self.events[index + 1 :])
            considered = [one.after, one.before] if one.is_turning else [one.after]
            if any(_allows(*moment, joined_later=joined_later) for moment in considered):
                shown.append(one)
        return shown

    def listed(self) -> list[Played]:
        """Those of them that belong to the history that the reader may go through."""
        if self.membership == "join" or self.rule == "world_readable":
            return self.visible()
        ends = [index for index, one in enumerate(self.events) if (one.before[1], one.after[1]) in ENDS]
        last = ends[-1] if ends else -1
        return [one for one in self.visible() if one in self.events[: last + 1]]


ENDS = {("join", "leave"), ("join", "ban")}


def _allows(rule: str, membership: str, *, joined_later: bool) -> bool:
    """The five rules, in their order."""
    if rule == "world_readable" or membership == "join":
        return True
    if rule == "shared" and joined_later:
        return True
    return rule == "invited" and membership == "invite"


HISTORIES = {
    "invited, joined, left": ["say", "invite", "say", "join", "say", "leave", "say"],
    "renamed in between": ["invite", "join", "say", "rename", "say", "leave", "say"],
    "kicked, then invited again": ["invite", "join", "say", "kick", "say", "invite", "say"],
    "banned and forgiven": ["invite", "join", "say", "ban", "say", "unban", "say"],
    "came back": ["say", "invite", "say", "join", "say", "leave", "say", "invite", "say", "join", "say"],
    "never came": ["say", "invite", "say", "leave", "say"],
    "only invited": ["say", "invite", "say"],
}


async def play(world: World, rule: str, steps: Sequence[str]) -> Play:
    alice, bob = await world.user("alice"), await world.user("bob")
    room_id = await alice.create_room(
        initial_state=[{"type": "m.room.history_visibility", "content": {"history_visibility": rule}}]
    )
    played = Play(alice, bob, room_id, rule if rule in RULES else "shared")
    for step in steps:
        await played.step(step)
    return played


async def chunk(user: User, room_id: str, **params: Any) -> list[dict[str, Any]]:
    """The whole history, in as many pages as it takes."""
    found: list[dict[str, Any]] = []
    for _ in range(50):
        answer = await user.get(f"/rooms/{room_id}/messages", **params)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        found += body["chunk"]
        if "end" not in body:
            return found
        params["from"] = body["end"]
    raise AssertionError("The history has no end.")


async def check(play: Play) -> None:
    """Compare what is shown, in every way of reading, with what should be."""
    known = {one.event_id: one for one in play.events}
    visible = {one.event_id for one in play.visible()}
    listed = [one.event_id for one in play.listed()]
    for event_id in known:
        for path in (f"event/{event_id}", f"context/{event_id}"):
            answer = await play.reader.get(f"/rooms/{play.room_id}/{path}")
            assert answer.status_code == (200 if event_id in visible else 404), (path, known[event_id])
        answer = await play.reader.get(f"/v1/rooms/{play.room_id}/relations/{event_id}")
        assert answer.status_code == (200 if event_id in visible else 404), known[event_id]
    was_there = play.rule == "world_readable" or any(one.after[1] == "join" for one in play.events)
    if not was_there:
        assert (await play.reader.get(f"/rooms/{play.room_id}/messages", dir="b")).status_code == 403
        assert (await play.reader.get(f"/rooms/{play.room_id}/state")).status_code == 403
        return
    for direction, expected in (("f", listed), ("b", listed[::-1])):
        for limit in (2, 100):
            shown = await chunk(play.reader, play.room_id, dir=direction, limit=limit)
            assert [event["event_id"] for event in shown if event["event_id"] in known] == expected
            for event in shown:
                if event["event_id"] in known:
                    assert event["unsigned"]["membership"] == known[event["event_id"]].after[1]
    if play.membership == "join":
        synced = await play.reader.sync(filter={"room": {"timeline": {"limit": 100}}})
        timeline = synced["rooms"]["join"][play.room_id]["timeline"]["events"]
        assert [event["event_id"] for event in timeline if event["event_id"] in known] == listed


@pytest.mark.behaviours("CS-HIST-01", "CS-HIST-02", "CS-HIST-03", "CS-HIST-04", "CS-HIST-05", "CS-EV-07")
@pytest.mark.parametrize("rule", [*RULES, "nonsense"])
@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.by_turns
async def test_each_way_of_reading_shows_what_the_rules_allow(world: World, rule: str, history: str) -> None:
    await check(await play(world, rule, HISTORIES[history]))


CHANGES = [
    (old, new) for old in RULES for new in RULES if old != new and not {old, new} <= {"world_readable", "shared"}
]


@pytest.mark.behaviours("CS-HIST-03")
@pytest.mark.parametrize(("old", "new"), CHANGES)
@pytest.mark.by_turns
async def test_the_event_that_changes_the_rule_is_seen_under_either(world: World, old: str, new: str) -> None:
    early = ["say", new, "say", old, "say", "invite", new, "say", "join", "say"]
    played = await play(world, old, early)
    await check(played)
    for step in (old, "say", "leave", new, "say", old, "say"):
        await played.step(step)
    await check(played)


@pytest.mark.behaviours("CS-GET-02", "CS-HIST-04")
async def test_state_and_members_are_those_of_the_end_of_the_last_stay(world: World) -> None:
    played = await play(world, "shared", ["invite", "join", "say"])
    bob, room_id = played.reader, played.room_id
    await played.owner.set_state(room_id, "m.room.topic", {"topic": "then"})
    await played.step("kick")
    await played.owner.set_state(room_id, "m.room.topic", {"topic": "later"})
    carol = await world.user("carol")
    await played.owner.invite(room_id, carol)
    now = (await played.owner.sync())["next_batch"]
    # Neither another invite nor a token of a later time shows more.
    for step in ("invite", "leave"):
        await played.step(step)
        assert (await bob.get(f"/rooms/{room_id}/state/m.room.topic")).json() == {"topic": "then"}
        for params in ({}, {"at": now}):
            members = (await bob.get(f"/rooms/{room_id}/members", **params)).json()["chunk"]
            assert {event["state_key"] for event in members} == {played.owner.user_id, bob.user_id}
        assert (await bob.get(f"/rooms/{room_id}/joined_members")).status_code == 403
        late = await bob.get(f"/v1/rooms/{room_id}/timestamp_to_event", ts=world.clock.time + 5000, dir="b")
        assert late.status_code == 200
        assert late.json()["event_id"] in {one.event_id for one in played.listed()}
