"""Makes the dictionary by which stored events are compressed (homeserver/storage/pdus.py).

    python -m benchmarks.dictionary FILE

It is trained on events of all room versions as servers make them, with invented names and what the pages of this
repository say as text. A dictionary that events were stored with is never changed: a better one is a further file.
"""

import argparse
import base64
import itertools
import re
from pathlib import Path
from random import Random
from typing import Any

import orjson
import zstandard

from homeserver.matrix.events import Event, build_event
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import SigningKey

_SIZE = 16 * 1024
_EVENTS = 24_000
_LEVEL = 12
_OTHERS = (
    "Wir treffen uns morgen um zehn, ich bringe den Kuchen mit. Wo ist denn der Schlüssel? Ja, klar, bis gleich!",
    "On se voit demain à dix heures ? Je n'ai pas encore eu le temps de regarder, désolé. Merci, c’est parfait.",
    "¿Alguien sabe por qué no funciona? Creo que hay que reiniciar el servidor. Muchas gracias, nos vemos luego.",
    "Привет! Кто-нибудь знает, почему это не работает? Спасибо большое, я посмотрю завтра утром. Да, конечно.",
    "大家好,明天上午十点开会。谢谢,我看一下。这个问题已经解决了。好的没问题。",
    "lol 😂 👍 thanks! ok brb… https://github.com/example/project/pull/1234 see https://matrix.to/#/!room:example.org/$event",
)

Json = dict[str, Any]


class _Room:
    """A room that goes on from event to event."""

    def __init__(self, version: str, chance: Random, server: str) -> None:
        self.version = version
        self.chance = chance
        self.server = server
        self.key = SigningKey.generate(self.letters(4), chance.randbytes(32))
        self.last: list[Event] = []
        self.now = chance.randrange(1_550_000_000_000, 1_900_000_000_000)
        self.people = [f"@{self.letters(chance.randrange(3, 14)).lower()}:{server}" for _ in range(6)]
        hashed = ROOM_VERSIONS[version].room_ids_are_hashes
        self.room_id: str | None = None if hashed else f"!{self.letters(18)}:{server}"
        self.create = self.add("m.room.create", {"room_version": version}, "", [], [])
        self.room_id = self.create.room_id
        first = [] if hashed else [self.create]
        self.member = self.add("m.room.member", {"displayname": self.name(), "membership": "join"}, None, first)
        levels = {
            "ban": 50, "events": {"m.room.avatar": 50, "m.room.canonical_alias": 50, "m.room.encryption": 100,
            "m.room.history_visibility": 100, "m.room.name": 50, "m.room.power_levels": 100, "m.room.server_acl": 100,
            "m.room.tombstone": 100}, "events_default": 0, "invite": 0, "kick": 50, "redact": 50, "state_default": 50,
            "users": {} if hashed else {self.people[0]: 100}, "users_default": 0,
        }  # fmt: skip
        self.levels = self.add("m.room.power_levels", levels, "", [*first, self.member])

    def letters(self, count: int) -> str:
        return "".join(self.chance.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", k=count))

    def name(self) -> str:
        return f"{self.letters(1).upper()}{self.letters(self.chance.randrange(2, 9)).lower()}"

    def code(self, count: int) -> str:
        return base64.b64encode(self.chance.randbytes(count)).decode().rstrip("=")

    def add(
        self, type_: str, content: Json, state_key: str | None, auth: list[Event], latest: list[Event] | None = None
    ) -> Event:
        sender = self.people[0] if not hasattr(self, "levels") else self.chance.choice(self.people)
        if type_ == "m.room.member" and state_key is None:
            state_key = sender
        self.now += int(self.chance.expovariate(1 / 200_000))
        depth = int(self.chance.lognormvariate(6, 3)) + 1
        after = self.last if latest is None else latest
        event = build_event(
            self.version,
            server_name=self.server,
            key=self.key,
            room_id=self.room_id,
            type=type_,
            sender=sender,
            state_key=state_key,
            content=orjson.dumps(content),
            origin_server_ts=self.now,
            depth=depth,
            prev_events=after,
            auth_events=auth,
            event_id=f"${self.letters(18)}:{self.server}" if ROOM_VERSIONS[self.version].event_ids_in_pdu else None,
        )
        self.last = [event] if self.chance.random() < 0.97 else [event, *self.last][:2]
        return event

    def say(self, text: str) -> Event:
        first = [] if ROOM_VERSIONS[self.version].room_ids_are_hashes else [self.create]
        auth = [*first, self.levels, self.member]
        at = f"${self.code(32)}".replace("+", "-").replace("/", "_")
        kind = self.chance.random()
        if kind < 0.45:
            content: Json = {"body": text, "msgtype": "m.text"}
            if kind < 0.2:
                content["m.mentions"] = {}
            elif kind < 0.25:
                content |= {"format": "org.matrix.custom.html", "formatted_body": f"<p><strong>{text}</strong></p>"}
            elif kind < 0.3:
                content |= {
                    "m.relates_to": {"m.in_reply_to": {"event_id": at}},
                    "m.mentions": {"user_ids": [self.people[1]]},
                }
            elif kind < 0.33:
                content["m.relates_to"] = {
                    "event_id": at, "is_falling_back": True, "m.in_reply_to": {"event_id": at}, "rel_type": "m.thread"
                }  # fmt: skip
            elif kind < 0.36:
                content |= {
                    "body": f"* {text}", "m.new_content": {"body": text, "m.mentions": {}, "msgtype": "m.text"},
                    "m.relates_to": {"event_id": at, "rel_type": "m.replace"},
                }  # fmt: skip
            return self.add("m.room.message", content, None, auth)
        if kind < 0.65:
            content = {
                "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": self.code(120 + 3 * len(text) // 4),
                "device_id": self.letters(10).upper(), "sender_key": self.code(32), "session_id": self.code(32),
            }  # fmt: skip
            return self.add("m.room.encrypted", content, None, auth)
        if kind < 0.75:
            content = {
                "m.relates_to": {"event_id": at, "key": self.chance.choice("👍❤😂🎉👀"), "rel_type": "m.annotation"}
            }
            return self.add("m.reaction", content, None, auth)
        if kind < 0.8:
            content = {
                "body": "image.png", "info": {"h": 1080, "mimetype": "image/png", "size": 123456, "w": 1920,
                "xyz.amorgan.blurhash": self.code(20)}, "msgtype": "m.image", "url": f"mxc://{self.server}/{self.letters(24)}",
            }  # fmt: skip
            return self.add("m.room.message", content, None, auth)
        if kind < 0.84:
            return self.add("m.room.redaction", {"reason": text}, None, auth)
        if kind < 0.95:
            content = {"displayname": self.name(), "membership": self.chance.choice(("join", "join", "leave"))}
            if kind < 0.88:
                content["avatar_url"] = f"mxc://{self.server}/{self.letters(24)}"
            return self.add("m.room.member", content, None, auth)
        kinds = {
            "m.room.topic": {"topic": text}, "m.room.name": {"name": text[:30]},
            "m.room.join_rules": {"join_rule": self.chance.choice(("public", "invite"))},
            "m.room.history_visibility": {"history_visibility": "shared"},
            "m.room.guest_access": {"guest_access": "can_join"},
            "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2"},
        }  # fmt: skip
        type_, content = self.chance.choice(list(kinds.items()))
        return self.add(type_, content, "", auth)


def _sentences() -> list[str]:
    found = [sentence for text in _OTHERS for sentence in re.split(r"(?<=[.?!。]) ?", text) if sentence]
    for page in sorted(Path(__file__).parents[1].glob("docs/**/*.md")):
        found += [one.strip() for one in re.split(r"(?<=[.;:])\s|\n\n", page.read_text()) if 2 < len(one.strip()) < 300]
    return found


def samples(seed: int, count: int) -> list[bytes | bytearray | memoryview]:
    """Events as they are stored."""
    chance = Random(seed)
    sentences = _sentences()
    versions = ["12"] * 8 + ["11"] * 4 + ["10"] * 5 + ["9", "6", "5", "4", "3", "1"]
    found: list[bytes | bytearray | memoryview] = []
    for version in itertools.cycle(versions):
        server = chance.choice(("matrix.org", f"{chance.choice('abcdefgh')}x{chance.randrange(999)}.example.org"))
        room = _Room(version, chance, server)
        found += [room.create.pdu, room.member.pdu, room.levels.pdu]
        found += [room.say(chance.choice(sentences)).pdu for _ in range(20)]
        if len(found) >= count:
            return found[:count]
    raise AssertionError("unreachable")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the dictionary by which stored events are compressed.")
    parser.add_argument("file", type=Path)
    asked = parser.parse_args()
    trained = zstandard.train_dictionary(_SIZE, samples(1, _EVENTS), level=_LEVEL, threads=2)
    asked.file.write_bytes(trained.as_bytes())
    others = samples(2, 2000)
    small = zstandard.ZstdCompressor(level=3, dict_data=trained)
    before, after = sum(map(len, others)), sum(len(small.compress(one)) for one in others)
    print(f"{asked.file}: other events shrink to {after / before:.0%}, {after / len(others):.0f} bytes each")


if __name__ == "__main__":
    main()
