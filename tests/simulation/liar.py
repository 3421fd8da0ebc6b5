"""A server that is a member of rooms and lies: to each of the others something else, and in every way at once."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from homeserver.matrix.events import Event
from homeserver.matrix.request_signing import sign_request
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.server_keys import publish
from homeserver.matrix.signing import sign_pdu
from homeserver.outbound.transport import Reply
from tests.room_graphs import key_of
from tests.simulation.city import City, part

_NEVER = "$" + "x" * 43
"""An event that nobody will ever have."""

_NOTHING = Reply(404, {}, b'{"errcode": "M_NOT_FOUND", "error": "No."}')

_LONG_MS = 5 * 24 * 3_600_000
"""Its keys are good for whatever time of day anybody believes that it is."""


@dataclass
class _Known:
    """A room as it was seen."""

    room_id: str
    version: str
    events: dict[str, Event] = field(default_factory=dict)

    def see(self, pdu: Any) -> None:
        """Keep an event, if it is one of the room's."""
        # The event that makes a room does not say which, where that follows from its hash.
        usual = self.room_id if ROOM_VERSIONS[self.version].room_ids_are_hashes else None
        if pdu.get("room_id", usual) == self.room_id:
            event = Event.parse(json.dumps(pdu).encode(), self.version)
            if event.room_id == self.room_id:
                self.events[event.event_id] = event

    @property
    def members(self) -> list[str]:
        return sorted({event.state_key or "" for event in self.events.values() if event.type == "m.room.member"})


class Liar:
    """The server and its one user."""

    def __init__(self, city: City, name: str) -> None:
        self.city = city
        self.name = name
        self.user_id = f"@mallory:{name}"
        self._key = key_of(name)
        self._chance = random.Random(city.chance.random())
        self._rooms: list[_Known] = []
        self._numbers = 0
        self.is_silent = False
        city.strangers[name] = self.answer

    def answer(self, origin: str, method: str, target: str, body: bytes | None) -> Reply:
        """Whatever it likes."""
        if target == "/_matrix/key/v2/server":
            now = self.city.houses[origin].clock.now()
            return Reply(200, {}, publish(self.name, self._key, {}, valid_until_ts=now + _LONG_MS))
        path = unquote(target.partition("?")[0])
        if method == "PUT" and "/federation/v1/send/" in path:
            assert body is not None
            for pdu in json.loads(body).get("pdus", []):
                self._see(pdu)
            return Reply(200, {}, b'{"pdus": {}}')
        if self.is_silent or not self._rooms:
            return _NOTHING
        known = self._chance.choice(self._rooms)
        return self._chance.choice([self._nothing, self._garbage, self._wrong_events, self._right_events])(known)

    async def join(self, room_id: str, version: str, through: str) -> bool:
        """Become a member, as any server does."""
        status, made = await self._ask(
            through, "GET", f"/_matrix/federation/v1/make_join/{part(room_id)}/{part(self.user_id)}?ver={version}"
        )
        if status != 200:
            return False
        event = sign_pdu(json.dumps(made["event"]).encode(), version, self.name, self._key)
        target = f"/_matrix/federation/v2/send_join/{part(room_id)}/{part(event.event_id)}"
        status, joined = await self._ask(through, "PUT", target, event.pdu)
        if status != 200:
            return False
        self._rooms.append(_Known(room_id, version))
        # The answer has the event as it is with the signature of whoever let it in.
        for pdu in [*joined["auth_chain"], *joined["state"], joined.get("event") or json.loads(event.pdu)]:
            self._see(pdu)
        return True

    async def lie(self) -> None:
        """Say something to somebody; it may be true."""
        if not self._rooms:
            return
        known = self._chance.choice(self._rooms)
        destination = self._chance.choice(sorted(self.city.houses))
        pdus = [self._invent(known) for _ in range(self._chance.randint(1, 4))]
        if self._chance.random() < 0.3:
            pdus.append(self._spoilt(known, pdus[0]))
        self._chance.shuffle(pdus)
        edus: list[Any] = []
        if self._chance.random() < 0.3:
            edus = [{"edu_type": "m.typing", "content": {"room_id": known.room_id, "user_id": 1, "typing": "x"}}, 7]
        await self._send(destination, pdus, edus)

    async def overreach(self) -> None:
        """In all rooms, redact to everybody what somebody else said."""
        for known in self._rooms:
            others = [event for event in known.events.values() if event.sender != self.user_id]
            messages = [event for event in others if event.type == "m.room.message"]
            if messages:
                target = self._chance.choice(messages).event_id
                await self._tell_all(known, "m.room.redaction", [others[-1]], redacts=target)

    async def linger(self) -> None:
        """Say to everybody, in all rooms, what would have been right when it had just come into them."""
        for known in self._rooms:
            arrival = [event for event in self._auth_events(known, is_late=True) if event.state_key == self.user_id]
            await self._tell_all(known, "m.room.message", arrival)

    async def _tell_all(self, known: _Known, type_: str, prev: list[Event], redacts: str | None = None) -> None:
        auth = self._auth_events(known, is_late=True)
        event = self._build(known, type_, None, {"body": "I am still here"}, prev, auth, redacts)
        for destination in sorted(self.city.houses):
            await self._send(destination, [event.pdu], [])

    async def _send(self, destination: str, pdus: list[bytes], edus: list[Any]) -> None:
        self._numbers += 1
        body = {
            "origin": self.name,
            "origin_server_ts": self.city.houses[destination].clock.now(),
            "pdus": [json.loads(pdu) for pdu in pdus],
            "edus": edus,
        }
        target = f"/_matrix/federation/v1/send/l{self._numbers}"
        await self._ask(destination, "PUT", target, json.dumps(body).encode())

    def _invent(self, known: _Known) -> bytes:
        """An event, well signed: a message, a change of state that it may not make, or a branch off somewhere."""
        seen = list(known.events.values())
        prev = self._chance.sample(seen, min(len(seen), self._chance.choice([1, 1, 1, 2, 3])))
        auth = self._auth_events(known, is_late=self._chance.random() < 0.5)
        if self._chance.random() < 0.1:
            auth = auth[1:]
        deeds: list[tuple[str, str | None, dict[str, Any]]] = [
            ("m.room.message", None, {"msgtype": "m.text", "body": "lies"}),
            ("m.room.message", None, {"msgtype": "m.text", "body": "lies"}),
            ("m.room.redaction", None, {"reason": "lies"}),
            ("m.room.topic", "", {"topic": "lies"}),
            ("m.room.member", self._chance.choice(known.members), {"membership": "ban"}),
            ("m.room.power_levels", "", {"users": {self.user_id: 100}}),
            ("m.room.member", self.user_id, {"membership": "leave"}),
            ("m.room.member", self.user_id, {"membership": "join", "displayname": "Mallory"}),
        ]
        type_, state_key, content = self._chance.choice(deeds)
        redacts = self._chance.choice(seen).event_id if type_ == "m.room.redaction" else None
        more = [_NEVER] if self._chance.random() < 0.1 else []
        event = self._build(known, type_, state_key, content, prev, auth, redacts, more)
        if self._chance.random() < 0.8:
            known.events[event.event_id] = event
        return event.pdu

    def _build(
        self,
        known: _Known,
        type_: str,
        state_key: str | None,
        content: dict[str, Any],
        prev: list[Event],
        auth: list[Event],
        redacts: str | None = None,
        more: Sequence[str] = (),
    ) -> Event:
        """An event; `more` are ids of what is before it besides."""
        template: dict[str, Any] = {
            "type": type_,
            "room_id": known.room_id,
            "sender": self.user_id,
            "content": content,
            "origin_server_ts": self.city.houses[sorted(self.city.houses)[0]].clock.now(),
            "depth": max((event.depth for event in prev), default=0) + self._chance.choice([1, 1, 1, 100]),
            "prev_events": [*(event.event_id for event in prev), *more],
            "auth_events": [event.event_id for event in auth],
        }
        if state_key is not None:
            template["state_key"] = state_key
        if redacts is not None:
            bearer = content if ROOM_VERSIONS[known.version].redacts_in_content else template
            bearer["redacts"] = redacts
        return sign_pdu(json.dumps(template).encode(), known.version, self.name, self._key)

    def _spoilt(self, known: _Known, pdu: bytes) -> bytes:
        value = json.loads(pdu)
        spoil = self._chance.choice(["signature", "hash", "sender", "room", "depth"])
        if spoil == "signature":
            value["signatures"] = {self.name: {self._key.key_id: "A" * 86}}
        elif spoil == "hash":
            value["content"]["more"] = "added later"
        elif spoil == "sender":
            value["sender"] = self._chance.choice(known.members)
        elif spoil == "room":
            value["room_id"] = "!elsewhere:" + self.name
        else:
            value["depth"] = -1
        return json.dumps(value).encode()

    def _auth_events(self, known: _Known, *, is_late: bool) -> list[Event]:
        """Those that an honest server would name, mostly; or those of when it had just come, before it was put out."""
        state: dict[tuple[str, str], Event] = {}
        for event in known.events.values():
            if event.state_key is None:
                continue
            pair = (event.type, event.state_key)
            if not is_late:
                state[pair] = event
            elif event.membership == "join":
                state.setdefault(pair, event)
            elif event.membership is None and event.sender != self.user_id:
                state[pair] = event
        pairs = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", self.user_id)]
        if known.version == "12":
            pairs = pairs[1:]
        return [state[pair] for pair in pairs if pair in state]

    def _see(self, pdu: Any) -> None:
        for known in self._rooms:
            known.see(pdu)

    def _nothing(self, known: _Known) -> Reply:
        return _NOTHING

    def _garbage(self, known: _Known) -> Reply:
        return Reply(200, {}, self._chance.choice([b"", b"<html>", b"[]", b'{"pdus": 3}', b"{}"]))

    def _wrong_events(self, known: _Known) -> Reply:
        return self._events([self._invent(known) for _ in range(3)])

    def _right_events(self, known: _Known) -> Reply:
        pdus = [event.pdu for event in known.events.values()]
        return self._events(self._chance.sample(pdus, min(len(pdus), 10)))

    @staticmethod
    def _events(pdus: list[bytes]) -> Reply:
        events = [json.loads(pdu) for pdu in pdus]
        body = {"events": events, "pdus": events, "auth_chain": events, "pdu_ids": [], "auth_chain_ids": []}
        return Reply(200, {}, json.dumps(body).encode())

    async def _ask(self, destination: str, method: str, target: str, body: bytes | None = None) -> tuple[int, Any]:
        signed = sign_request(
            self._key, origin=self.name, destination=destination, method=method, target=target, content=body
        )
        reply = await self.city.carry(self.name, destination, method, target, {"authorization": str(signed)}, body)
        assert reply.status < 500 or reply.status == 503, f"{method} {target}: {reply.status} {reply.body!r}"
        return reply.status, json.loads(reply.body)
