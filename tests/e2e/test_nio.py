"""What people do with a client built on matrix-nio, with encryption."""

import asyncio
import io
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import nio
import PIL.Image
import pytest

from tests.e2e.scenarios import Homes

pytestmark = [
    pytest.mark.anyio,
    # nio 0.26 leaves these to the garbage collector when a client closes in the middle of a long poll.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:nio", "ignore::DeprecationWarning:peewee"),
]

PATIENCE = 30
T = TypeVar("T")


@dataclass
class Device:
    """A logged-in device: it collects what its syncs bring and answers what the key exchange asks of it."""

    client: nio.AsyncClient
    password: str
    events: dict[str, list[nio.Event]] = field(default_factory=dict)
    receipts: list[nio.Receipt] = field(default_factory=list)
    typing: dict[str, list[str]] = field(default_factory=dict)
    to_device: list[Any] = field(default_factory=list)
    unread: dict[str, int | None] = field(default_factory=dict)

    @property
    def user_id(self) -> str:
        return str(self.client.user_id)

    @property
    def device_id(self) -> str:
        return str(self.client.device_id)

    async def sync(self, timeout_ms: int = 0) -> None:
        """One sync, and the requests about keys that follow from it."""
        client = self.client
        response = good(await client.sync(timeout=timeout_ms), nio.SyncResponse)
        for room_id, room in response.rooms.join.items():
            self.events.setdefault(room_id, []).extend(room.timeline.events)
            if room.unread_notifications is not None:
                self.unread[room_id] = room.unread_notifications.notification_count
            for event in room.ephemeral:
                if isinstance(event, nio.TypingNoticeEvent):
                    self.typing[room_id] = event.users
                elif isinstance(event, nio.ReceiptEvent):
                    self.receipts.extend(event.receipts)
        self.to_device.extend(response.to_device_events)
        for sent in await client.send_to_device_messages():
            good(sent, nio.ToDeviceResponse)
        if client.should_upload_keys:
            good(await client.keys_upload(), nio.KeysUploadResponse)
        if client.should_query_keys:
            good(await client.keys_query(), nio.KeysQueryResponse)
        if client.should_claim_keys:
            good(await client.keys_claim(client.get_users_for_key_claiming()), nio.KeysClaimResponse)

    async def sync_until(self, what: str, find: Callable[[], T | None]) -> T:
        """Long-poll until ``find`` gives something."""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    found = find()
                    if found:
                        return found
                    await self.sync(timeout_ms=10_000)
        except TimeoutError:
            raise AssertionError(f"{self.user_id} waited {PATIENCE} s in vain: {what}") from None

    async def say(self, room_id: str, body: str, **more: Any) -> str:
        return await self.send(room_id, "m.room.message", {"msgtype": "m.text", "body": body, **more})

    async def send(self, room_id: str, type: str, content: dict[str, Any]) -> str:  # noqa: A002
        sent = await self.client.room_send(room_id, type, content, ignore_unverified_devices=True)
        return str(good(sent, nio.RoomSendResponse).event_id)

    async def receives(self, room_id: str, event_id: str) -> nio.Event:
        """The event, as soon as a sync brings it."""

        def find() -> nio.Event | None:
            return next((e for e in self.events.get(room_id, []) if e.event_id == event_id), None)

        return await self.sync_until(event_id, find)

    async def hears(self, room_id: str, event_id: str) -> str:
        """The text of a message that came encrypted."""
        event = await self.receives(room_id, event_id)
        assert isinstance(event, nio.RoomMessageText), event
        assert event.decrypted
        return event.body

    async def create_room(self, *invited: "Device", encrypted: bool = True) -> str:
        encryption = nio.EnableEncryptionBuilder().as_dict()
        created = await self.client.room_create(
            name="Lunch",
            preset=nio.RoomPreset.private_chat,
            invite=[device.user_id for device in invited],
            initial_state=[encryption] if encrypted else [],
        )
        room_id = str(good(created, nio.RoomCreateResponse).room_id)
        await self.sync_until("the new room", lambda: self.client.rooms.get(room_id))
        return room_id

    async def join(self, room_id: str) -> None:
        await self.sync_until("the invitation", lambda: self.client.invited_rooms.get(room_id))
        good(await self.client.join(room_id), nio.JoinResponse)
        await self.sync_until("the joined room", lambda: self.client.rooms.get(room_id))

    async def knows(self, other: "Device", room_id: str) -> None:
        """Wait until the other is in the room and the keys of that device are known."""

        def known() -> bool:
            return (
                room_id in self.client.rooms
                and other.user_id in self.client.rooms[room_id].users
                and other.device_id in self.client.device_store[other.user_id]
            )

        await self.sync_until(f"keys of {other.device_id}", known)


def good(response: object, expected: type[T]) -> T:
    assert isinstance(response, expected), response
    return response


@dataclass
class World:
    """Registers people and logs them in; closes every client at the end."""

    homes: Homes
    store: Path
    stack: AsyncExitStack

    async def register(self, name: str) -> Device:
        """A new account, on its first device."""
        return await self._register(name, self.homes.url)

    async def register_elsewhere(self, name: str) -> Device:
        """The same, on the other server if there are two."""
        return await self._register(name, self.homes.elsewhere)

    async def _register(self, name: str, url: str) -> Device:
        username = f"{name}-{uuid.uuid4().hex[:8]}"
        password = f"secret of {username}"
        client = await self._client(url, username)
        good(await client.register(username, password, device_name=f"{name}'s phone"), nio.RegisterResponse)
        client.load_store()
        device = Device(client, password)
        await device.sync()
        return device

    async def log_in(self, account: Device, device_name: str) -> Device:
        """Another device of the same account."""
        client = await self._client(account.client.homeserver, account.user_id)
        good(await client.login(account.password, device_name=device_name), nio.LoginResponse)
        device = Device(client, account.password)
        await device.sync()
        return device

    async def _client(self, url: str, user: str) -> nio.AsyncClient:
        folder = self.store / uuid.uuid4().hex
        folder.mkdir()
        config = nio.AsyncClientConfig(encryption_enabled=True, request_timeout=30, max_timeouts=1)
        client = nio.AsyncClient(url, user, store_path=str(folder), config=config)
        self.stack.push_async_callback(client.close)
        return client


@asynccontextmanager
async def open_world(homes: Homes, store: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(homes, store, stack)


@pytest.fixture
async def world(homes: Homes, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(homes, tmp_path) as opened:
        yield opened


@pytest.fixture
async def home(homeserver_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """For who speaks to nobody else."""
    async with open_world(Homes(homeserver_url, homeserver_url), tmp_path) as opened:
        yield opened


async def test_register_and_log_in_on_two_devices(home: World) -> None:
    phone = await home.register("alice")
    laptop = await home.log_in(phone, "alice's laptop")

    listed = good(await laptop.client.devices(), nio.DevicesResponse)
    assert {device.display_name for device in listed.devices} == {"alice's phone", "alice's laptop"}

    good(await phone.client.logout(), nio.LogoutResponse)
    listed = good(await laptop.client.devices(), nio.DevicesResponse)
    assert [device.id for device in listed.devices] == [laptop.device_id]


async def test_a_logged_out_token_is_refused(home: World) -> None:
    phone = await home.register("alice")
    token = phone.client.access_token
    good(await phone.client.logout(all_devices=True), nio.LogoutResponse)
    phone.client.access_token = token
    refused = good(await phone.client.whoami(), nio.WhoamiError)
    assert refused.status_code == "M_UNKNOWN_TOKEN"


async def test_two_people_talk_in_an_encrypted_room(world: World) -> None:
    phone = await world.register("alice")
    laptop = await world.log_in(phone, "alice's laptop")
    bobs = await world.register_elsewhere("bob")
    room_id = await phone.create_room(bobs)
    await bobs.join(room_id)
    assert bobs.client.rooms[room_id].encrypted
    assert bobs.client.rooms[room_id].display_name == "Lunch"
    for device in (phone, laptop):
        await device.knows(bobs, room_id)
    await phone.knows(laptop, room_id)
    await bobs.knows(phone, room_id)
    await bobs.knows(laptop, room_id)

    question = await phone.say(room_id, "Soup?")
    assert await bobs.hears(room_id, question) == "Soup?"
    assert await laptop.hears(room_id, question) == "Soup?"

    answer = await bobs.say(room_id, "Soup!")
    assert await phone.hears(room_id, answer) == "Soup!"
    assert await laptop.hears(room_id, answer) == "Soup!"

    again = await laptop.say(room_id, "At noon.")
    assert await bobs.hears(room_id, again) == "At noon."


async def test_edit_react_and_redact(world: World) -> None:
    alice, bob = await world.register("alice"), await world.register_elsewhere("bob")
    room_id = await alice.create_room(bob)
    await bob.join(room_id)
    await alice.knows(bob, room_id)
    event_id = await alice.say(room_id, "Suop?")
    assert await bob.hears(room_id, event_id) == "Suop?"

    corrected = {"msgtype": "m.text", "body": "Soup?"}
    relation = {"rel_type": "m.replace", "event_id": event_id}
    edit_id = await alice.say(room_id, "* Soup?", **{"m.new_content": corrected, "m.relates_to": relation})
    edit = await bob.receives(room_id, edit_id)
    assert edit.source["content"]["m.new_content"] == corrected
    assert edit.source["content"]["m.relates_to"] == relation

    annotation = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": "🍲"}}
    reaction_id = await bob.send(room_id, "m.reaction", annotation)
    reaction = good(await alice.receives(room_id, reaction_id), nio.ReactionEvent)
    assert (reaction.sender, reaction.key, reaction.reacts_to) == (bob.user_id, "🍲", event_id)

    redaction = good(await alice.client.room_redact(room_id, event_id, "Not hungry."), nio.RoomRedactResponse)
    removal = good(await bob.receives(room_id, redaction.event_id), nio.RedactionEvent)
    assert (removal.redacts, removal.reason) == (event_id, "Not hungry.")
    stored = good(await bob.client.room_get_event(room_id, event_id), nio.RoomGetEventResponse)
    assert isinstance(stored.event, nio.RedactedEvent)


async def test_typing_receipts_and_unread_counts(world: World) -> None:
    alice, bob = await world.register("alice"), await world.register_elsewhere("bob")
    room_id = await alice.create_room(bob)
    await bob.join(room_id)
    await alice.knows(bob, room_id)

    good(await bob.client.room_typing(room_id, True, timeout=30_000), nio.RoomTypingResponse)
    await alice.sync_until("bob typing", lambda: alice.typing.get(room_id) == [bob.user_id])
    good(await bob.client.room_typing(room_id, False), nio.RoomTypingResponse)
    await alice.sync_until("bob not typing", lambda: alice.typing.get(room_id) == [])

    event_id = await alice.say(room_id, "Soup?")
    assert await bob.hears(room_id, event_id) == "Soup?"
    await bob.sync_until("an unread message", lambda: bob.unread.get(room_id) == 1)
    good(await bob.client.update_receipt_marker(room_id, event_id), nio.UpdateReceiptMarkerResponse)

    def receipt() -> nio.Receipt | None:
        return next((r for r in alice.receipts if r.user_id == bob.user_id and r.event_id == event_id), None)

    assert (await alice.sync_until("bob's receipt", receipt)).receipt_type == "m.read"
    await bob.sync_until("nothing unread", lambda: bob.unread.get(room_id) == 0)
    good(await bob.client.room_read_markers(room_id, event_id, event_id), nio.RoomReadMarkersResponse)
    await bob.sync_until("the marker", lambda: bob.client.rooms[room_id].fully_read_marker == event_id)


async def test_a_new_device_is_verified_by_comparing_emoji(home: World) -> None:
    phone = await home.register("alice")
    laptop = await home.log_in(phone, "alice's laptop")
    # nio asks for the keys of people it shares an encrypted room with, its own user included.
    room_id = await phone.create_room()
    await laptop.sync_until("the room", lambda: laptop.client.rooms.get(room_id))
    await phone.knows(laptop, room_id)
    await laptop.knows(phone, room_id)

    await _verify_by_emoji(laptop, phone)


async def _verify_by_emoji(asking: Device, asked: Device) -> None:
    other = asking.client.device_store[asked.user_id][asked.device_id]
    good(await asking.client.start_key_verification(other), nio.ToDeviceResponse)
    start = await asked.sync_until("the start", lambda: _first(asked, nio.KeyVerificationStart))
    good(await asked.client.accept_key_verification(start.transaction_id), nio.ToDeviceResponse)
    await asking.sync_until("the acceptance", lambda: _first(asking, nio.KeyVerificationAccept))
    await asked.sync_until("a key", lambda: _first(asked, nio.KeyVerificationKey))
    await asked.sync()
    await asking.sync_until("a key", lambda: _first(asking, nio.KeyVerificationKey))
    sas = [device.client.key_verifications[start.transaction_id] for device in (asked, asking)]
    assert sas[0].get_emoji() == sas[1].get_emoji()
    assert len(sas[0].get_emoji()) == 7

    for device in (asked, asking):
        good(await device.client.confirm_short_auth_string(start.transaction_id), nio.ToDeviceResponse)
    await asked.sync_until("the agreement of who asked", lambda: _first(asked, nio.KeyVerificationMac))
    await asking.sync_until("the agreement of who was asked", lambda: _first(asking, nio.KeyVerificationMac))
    assert [verification.verified for verification in sas] == [True, True]
    assert asking.client.device_store[asked.user_id][asked.device_id].verified


def _first(device: Device, kind: type[T]) -> T | None:
    return next((event for event in device.to_device if isinstance(event, kind)), None)


async def test_keys_exported_to_a_file_open_the_past_on_a_new_device(home: World, tmp_path: Path) -> None:
    phone = await home.register("alice")
    room_id = await phone.create_room()
    event_id = await phone.say(room_id, "Remember the milk.")
    await phone.receives(room_id, event_id)
    await phone.client.export_keys(str(tmp_path / "keys.txt"), "passphrase", count=10)

    laptop = await home.log_in(phone, "alice's laptop")
    locked = await laptop.receives(room_id, event_id)
    assert isinstance(locked, nio.MegolmEvent)
    await laptop.client.import_keys(str(tmp_path / "keys.txt"), "passphrase")
    opened = laptop.client.decrypt_event(locked)
    assert good(opened, nio.RoomMessageText).body == "Remember the milk."


async def test_scrolling_back_reads_the_whole_history(world: World) -> None:
    alice, bob = await world.register("alice"), await world.register_elsewhere("bob")
    room_id = await alice.create_room(bob, encrypted=False)
    await bob.join(room_id)
    said = [await alice.say(room_id, f"Message {number}") for number in range(25)]

    await bob.receives(room_id, said[-1])
    position, read = bob.client.next_batch, list[str]()
    while position and len(read) < len(said):
        page = good(await bob.client.room_messages(room_id, position, limit=10), nio.RoomMessagesResponse)
        assert 0 < len(page.chunk) <= 10
        read += [event.event_id for event in page.chunk if isinstance(event, nio.RoomMessageText)]
        position = page.end
    assert [*reversed(read)] == said


async def test_a_picture_is_shared_and_shown_as_a_thumbnail(world: World) -> None:
    alice, bob = await world.register("alice"), await world.register_elsewhere("bob")
    picture = io.BytesIO()
    PIL.Image.new("RGB", (640, 480), "teal").save(picture, "PNG")
    data = picture.getvalue()
    uploaded, keys = await alice.client.upload(
        lambda *_: io.BytesIO(data), content_type="image/png", filename="soup.png", filesize=len(data)
    )
    assert keys is None
    uri = good(uploaded, nio.UploadResponse).content_uri
    good(await alice.client.set_avatar(uri), nio.ProfileSetAvatarResponse)
    good(await alice.client.set_displayname("Alice"), nio.ProfileSetDisplayNameResponse)

    profile = good(await bob.client.get_profile(alice.user_id), nio.ProfileGetResponse)
    assert (profile.displayname, profile.avatar_url) == ("Alice", uri)
    whole = good(await bob.client.download(uri), nio.MemoryDownloadResponse)
    assert whole.body == data
    assert whole.content_type == "image/png"
    server_name, media_id = uri.removeprefix("mxc://").split("/")
    small = good(await bob.client.thumbnail(server_name, media_id, 96, 96), nio.ThumbnailResponse)
    assert max(PIL.Image.open(io.BytesIO(small.body)).size) <= 320


async def test_a_room_is_joined_by_its_address_read_back_and_left(world: World) -> None:
    alice, bob = await world.register("alice"), await world.register_elsewhere("bob")
    address = f"soup-{uuid.uuid4().hex[:8]}"
    created = await alice.client.room_create(
        alias=address, visibility=nio.RoomVisibility.public, preset=nio.RoomPreset.public_chat
    )
    room_id = str(good(created, nio.RoomCreateResponse).room_id)
    await alice.sync_until("the new room", lambda: alice.client.rooms.get(room_id))
    before = [await alice.say(room_id, f"Before {number}") for number in range(15)]

    alias = f"#{address}:{alice.user_id.partition(':')[2]}"
    assert good(await bob.client.join(alias), nio.JoinResponse).room_id == room_id
    await bob.sync_until("the joined room", lambda: bob.client.rooms.get(room_id))
    answer = await bob.say(room_id, "Soup!")
    assert isinstance(await alice.receives(room_id, answer), nio.RoomMessageText)

    position, read = bob.client.next_batch, list[str]()
    while position and len(read) < len(before):
        page = good(await bob.client.room_messages(room_id, position, limit=10), nio.RoomMessagesResponse)
        read += [e.event_id for e in page.chunk if isinstance(e, nio.RoomMessageText) and e.sender == alice.user_id]
        position = page.end
    assert [*reversed(read)] == before

    good(await bob.client.room_leave(room_id), nio.RoomLeaveResponse)
    await alice.sync_until("bob gone", lambda: bob.user_id not in alice.client.rooms[room_id].users)


async def test_a_knock_is_answered_and_an_invitation_refused(world: World) -> None:
    alice, bob = await world.register("alice"), await world.register_elsewhere("bob")
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    address = f"kitchen-{uuid.uuid4().hex[:8]}"
    created = await alice.client.room_create(name="Kitchen", alias=address, initial_state=[rules])
    room_id = str(good(created, nio.RoomCreateResponse).room_id)
    await alice.sync_until("the new room", lambda: alice.client.rooms.get(room_id))

    alias = f"#{address}:{alice.user_id.partition(':')[2]}"
    good(await bob.client.room_knock(alias), nio.RoomKnockResponse)

    def knocks() -> bool:
        seen = [e for e in alice.events.get(room_id, []) if isinstance(e, nio.RoomMemberEvent)]
        return any((e.state_key, e.membership) == (bob.user_id, "knock") for e in seen)

    await alice.sync_until("the knock", knocks)
    good(await alice.client.room_invite(room_id, bob.user_id), nio.RoomInviteResponse)
    invited = await bob.sync_until("the invitation", lambda: bob.client.invited_rooms.get(room_id))
    assert (invited.display_name, invited.inviter) == ("Kitchen", alice.user_id)
    good(await bob.client.room_leave(room_id), nio.RoomLeaveResponse)
    await alice.sync_until("the refusal", lambda: bob.user_id not in alice.client.rooms[room_id].invited_users)


async def test_devices_of_two_people_verify_each_other_and_trust_only_those(world: World) -> None:
    alice, bob = await world.register("alice"), await world.register_elsewhere("bob")
    room_id = await alice.create_room(bob)
    await bob.join(room_id)
    await alice.knows(bob, room_id)
    await bob.knows(alice, room_id)
    await _verify_by_emoji(alice, bob)

    # Nothing goes to devices that were not verified: a new one of Bob is known to Alice at once, and not trusted.
    trusted = await alice.client.room_send(room_id, "m.room.message", {"msgtype": "m.text", "body": "Secret"})
    assert await bob.hears(room_id, str(good(trusted, nio.RoomSendResponse).event_id)) == "Secret"
    laptop = await world.log_in(bob, "bob's laptop")
    await alice.knows(laptop, room_id)
    with pytest.raises(nio.OlmUnverifiedDeviceError):
        await alice.client.room_send(room_id, "m.room.message", {"msgtype": "m.text", "body": "Secret"})
