"""A server that is a member of rooms and lies: to each of the others something else, and in every way at once."""

import json
import random
from typing import Any
from urllib.parse import unquote

from homeserver.matrix.events import Event
from homeserver.matrix.request_signing import sign_request
from homeserver.matrix.server_keys import publish
from homeserver.matrix.signing import sign_pdu
from homeserver.outbound.transport import Reply
from tests.room_graphs import key_of
from tests.simulation.city import City, part

_VERSIONS = [str(number) for number in range(1, 13)]

_LONG_MS = 5 * 24 * 3_600_000
"""Its keys are good for whatever time of day anybody believes that it is."""


class Liar:
    """The server and its one user."""

    def __init__(self, city: City, name: str) -> None:
        self.city = city
        self.name = name
        self.user_id = f"@mallory:{name}"
        self._key = key_of(name)
        self._chance = random.Random(city.chance.random())
        self._seen: dict[str, Event] = {}
        self._version = ""
        self._room_id = ""
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
                self._see(json.dumps(pdu).encode())
            return Reply(200, {}, b'{"pdus": {}}')
        if self.is_silent:
            return self._nothing(path)
        return self._chance.choice([self._nothing, self._garbage, self._wrong_events, self._right_events])(path)

    async def join(self, room_id: str, version: str, through: str) -> bool:
        """Become a member, as any server does."""
        self._room_id, self._version = room_id, version
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
        for pdu in [*joined["auth_chain"], *joined["state"]]:
            self._see(json.dumps(pdu).encode())
        self._see(event.pdu)
        return True

    async def lie(self) -> None:
        """Say something to somebody; it may be true."""
        destination = self._chance.choice(sorted(self.city.houses))
        pdus = [self._invent() for _ in range(self._chance.randint(1, 4))]
        if self._chance.random() < 0.3:
            pdus.append(self._spoilt(pdus[0]))
        self._chance.shuffle(pdus)
        edus: list[Any] = []
        if self._chance.random() < 0.3:
            edus = [{"edu_type": "m.typing", "content": {"room_id": self._room_id, "user_id": 1, "typing": "x"}}, 7]
        self._numbers += 1
        body = {
            "origin": self.name,
            "origin_server_ts": self.city.houses[destination].clock.now(),
            "pdus": [json.loads(pdu) for pdu in pdus],
            "edus": edus,
        }
        target = f"/_matrix/federation/v1/send/l{self._numbers}"
        await self._ask(destination, "PUT", target, json.dumps(body).encode())

    def _invent(self) -> bytes:
        """An event, well signed: a message, a change of state that it may not make, or a branch off somewhere."""
        known = list(self._seen.values())
        prev = self._chance.sample(known, min(len(known), self._chance.choice([1, 1, 1, 2, 3])))
        auth = self._auth_events()
        kind = self._chance.choice(["message", "message", "topic", "ban", "power", "leave", "join"])
        type_, state_key, content = {
            "message": ("m.room.message", None, {"msgtype": "m.text", "body": "lies"}),
            "topic": ("m.room.topic", "", {"topic": "lies"}),
            "ban": ("m.room.member", self._chance.choice(self._members()), {"membership": "ban"}),
            "power": ("m.room.power_levels", "", {"users": {self.user_id: 100}}),
            "leave": ("m.room.member", self.user_id, {"membership": "leave"}),
            "join": ("m.room.member", self.user_id, {"membership": "join", "displayname": "Mallory"}),
        }[kind]
        template: dict[str, Any] = {
            "type": type_,
            "room_id": self._room_id,
            "sender": self.user_id,
            "content": content,
            "origin_server_ts": self.city.houses[sorted(self.city.houses)[0]].clock.now(),
            "depth": max((event.depth for event in prev), default=0) + self._chance.choice([1, 1, 1, 100]),
            "prev_events": [event.event_id for event in prev],
            "auth_events": [event.event_id for event in auth],
        }
        if state_key is not None:
            template["state_key"] = state_key
        if self._chance.random() < 0.1:
            template["prev_events"].append("$" + "x" * 43)  # Which nobody will ever have.
        event = sign_pdu(json.dumps(template).encode(), self._version, self.name, self._key)
        if self._chance.random() < 0.8:
            self._seen[event.event_id] = event
        return event.pdu

    def _spoilt(self, pdu: bytes) -> bytes:
        value = json.loads(pdu)
        spoil = self._chance.choice(["signature", "hash", "sender", "room", "depth"])
        if spoil == "signature":
            value["signatures"] = {self.name: {self._key.key_id: "A" * 86}}
        elif spoil == "hash":
            value["content"]["more"] = "added later"
        elif spoil == "sender":
            value["sender"] = self._chance.choice(self._members())
        elif spoil == "room":
            value["room_id"] = "!elsewhere:" + self.name
        else:
            value["depth"] = -1
        return json.dumps(value).encode()

    def _auth_events(self) -> list[Event]:
        """Those that an honest server would name, mostly."""
        state: dict[tuple[str, str], Event] = {}
        for event in self._seen.values():
            if event.state_key is not None:
                state[event.type, event.state_key] = event
        pairs = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", self.user_id)]
        if self._version == "12":
            pairs = pairs[1:]
        chosen = [state[pair] for pair in pairs if pair in state]
        if self._chance.random() < 0.1:
            chosen = chosen[1:]
        return chosen

    def _members(self) -> list[str]:
        return sorted({event.state_key or "" for event in self._seen.values() if event.type == "m.room.member"})

    def _see(self, pdu: bytes) -> None:
        event = Event.parse(pdu, self._version)
        if event.room_id == self._room_id:
            self._seen[event.event_id] = event

    def _nothing(self, path: str) -> Reply:
        return Reply(404, {}, b'{"errcode": "M_NOT_FOUND", "error": "No."}')

    def _garbage(self, path: str) -> Reply:
        return Reply(200, {}, self._chance.choice([b"", b"<html>", b"[]", b'{"pdus": 3}', b"{}"]))

    def _wrong_events(self, path: str) -> Reply:
        return self._events([self._invent() for _ in range(3)])

    def _right_events(self, path: str) -> Reply:
        known = [event.pdu for event in self._seen.values()]
        return self._events(self._chance.sample(known, min(len(known), 10)))

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
