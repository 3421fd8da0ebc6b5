"""Making accounts, logging in and out (client-server API, Account registration, Login)."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.errors import BadJson, Forbidden, InvalidParam, UnknownToken, Unsupported
from homeserver.kit.clock import Clock
from homeserver.kit.randomness import Randomness
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import DeviceId, UserId
from homeserver.services.auth.interactive import AuthData, Check
from homeserver.services.auth.limits import Limits
from homeserver.services.auth.passwords import Passwords
from homeserver.services.auth.sessions import Requester, Sessions, Tokens, hash_token
from homeserver.services.users import device_lists
from homeserver.services.users.devices import Devices, check_name
from homeserver.services.users.profiles import CHANGES, set_in
from homeserver.storage import (
    account_data,
    devices,
    e2e_keys,
    key_backups,
    openid_tokens,
    originals,
    profiles,
    push,
    registration_tokens,
    stream_rows,
    users,
)
from homeserver.storage.engine import Database, ReadTx, WriteTx

_OPENID_S = 3600


@dataclass(frozen=True, slots=True)
class NewSession:
    """What a login gives."""

    user_id: UserId
    device_id: DeviceId
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class NewDevice:
    """What a client says of the device that it logs in with."""

    device_id: str | None
    display_name: str | None
    refreshable: bool


class Accounts:
    """The accounts of this server."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        sessions: Sessions,
        passwords: Passwords,
        devices: Devices,
        limits: Limits,
        server_name: str,
        *,
        shortest_password: int,
    ) -> None:
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._sessions = sessions
        self._passwords = passwords
        self._devices = devices
        self._limits = limits
        self._server_name = server_name
        self._shortest_password = shortest_password

    async def check_available(self, username: str) -> UserId:
        """The user id for a new name. Raises `M_INVALID_USERNAME` or `M_USER_IN_USE`."""
        localpart = username.lower()
        try:
            user_id = identifiers.user_id(f"@{localpart}:{self._server_name}")
        except identifiers.InvalidIdentifier as error:
            raise Unsupported("M_INVALID_USERNAME", str(error)) from None
        if not identifiers.is_new_localpart(localpart):
            raise Unsupported("M_INVALID_USERNAME", "A user name is made of a-z, 0-9 and . _ = / + -")
        if await self._database.read(users.find, user_id) is not None:
            raise Unsupported("M_USER_IN_USE", "This user name is taken.")
        return user_id

    def invent_name(self) -> str:
        """A name for a user who brings none."""
        return self._randomness.letters(12).lower()

    async def register(
        self,
        username: str,
        password: str | None,
        device: NewDevice | None,
        *,
        is_admin: bool = False,
        is_guest: bool = False,
        display_name: str | None = None,
        token: str | None = None,
    ) -> tuple[UserId, NewSession | None]:
        """Make the account and, if there is a device, log it in. A registration token is used up with it."""
        user_id = await self.check_available(username)
        hashed = None if password is None else await self._passwords.hash(password)

        def write(tx: WriteTx) -> NewSession | None:
            self._use(tx, token)
            users.insert(tx, user_id, password_hash=hashed, is_guest=is_guest, is_admin=is_admin, now=self._clock.now())
            if display_name:
                set_in(tx, user_id, "displayname", display_name)
            # Nobody shares a room with a new account.
            return self._login(tx, user_id, device, is_told=False)[0] if device else None

        return user_id, await self._database.write(write)

    def check_password(self, password: str | None) -> None:
        """Raise `M_WEAK_PASSWORD` for one that is too short, `BadJson` for none."""
        if not password:
            raise BadJson("The registration needs a password.")
        if len(password) < self._shortest_password:
            raise Unsupported("M_WEAK_PASSWORD", f"A password has at least {self._shortest_password} characters.")

    async def upgrade_guest(
        self, user_id: UserId, password: str, device: NewDevice | None, *, token: str | None = None
    ) -> NewSession | None:
        """Make a guest a user; the guest's sessions end. A registration token is used up with it."""
        hashed = await self._passwords.hash(password)

        def write(tx: WriteTx) -> tuple[NewSession | None, Sequence[bytes]]:
            account = users.lock(tx, user_id)
            if account is None or not account.is_guest or account.is_deactivated:
                raise Forbidden("The token is not that of a guest any more.")
            self._use(tx, token)
            users.set_password(tx, user_id, hashed)
            guests = [one.device_id for one in devices.list_of_users(tx, [user_id])]
            ended = self._devices.end(tx, user_id, guests)
            return (self._login(tx, user_id, device)[0] if device else None), ended

        session, ended = await self._database.write(write)
        self._sessions.forget(list(ended))
        return session

    async def change_password(self, who: Requester, password: str, *, logout_devices: bool) -> None:
        """Set the caller's password, and log all other devices out if asked to."""
        self.check_password(password)
        hashed = await self._passwords.hash(password)

        def write(tx: WriteTx) -> Sequence[bytes]:
            account = users.lock(tx, who.user_id)
            if account is None or account.is_deactivated:
                raise UnknownToken
            users.set_password(tx, who.user_id, hashed)
            known = [one.device_id for one in devices.list_of_users(tx, [who.user_id])]
            others = [device_id for device_id in known if device_id != who.device_id]
            return self._devices.end(tx, who.user_id, others) if logout_devices and others else []

        self._sessions.forget(list(await self._database.write(write)))

    async def deactivate(self, user_id: UserId, *, erase: bool) -> None:
        """End the account for good. Its rooms are left soon after (`consumers/effects.py`)."""

        def write(tx: WriteTx) -> Sequence[bytes]:
            # First, so that a login under way is over, or finds the account deactivated.
            users.deactivate(tx, user_id, erase=erase)
            ended = self._devices.end(tx, user_id, [one.device_id for one in devices.list_of_users(tx, [user_id])])
            push.remove_all_pushers(tx, user_id)
            profiles.put(tx, user_id, {})
            if erase:
                account_data.remove_all(tx, user_id)
                key_backups.remove_all(tx, user_id)
                originals.remove_of_sender(tx, user_id)
            profiles.note_change(tx, profiles.Change(stream_rows.advance(tx), user_id))
            tx.wake([CHANGES, user_id])
            return ended

        self._sessions.forget(list(await self._database.write(write)))

    async def openid_token(self, user_id: UserId) -> tuple[str, int]:
        """A token by which others can learn who the user is, and its life in seconds."""
        token, now = self._randomness.token(), self._clock.now()
        expires_ts = now + _OPENID_S * 1000
        await self._database.write(openid_tokens.add, hash_token(token), user_id, expires_ts=expires_ts, now=now)
        return token, _OPENID_S

    async def user_of_openid_token(self, token: str) -> UserId:
        """The user who made such a token. Raises `UnknownToken`."""

        def read(tx: ReadTx) -> UserId | None:
            user_id = openid_tokens.find(tx, hash_token(token), now=self._clock.now())
            account = None if user_id is None else users.find(tx, user_id)
            return None if account is None or account.is_deactivated else user_id

        user_id = await self._database.read(read)
        if user_id is None:
            raise UnknownToken
        return user_id

    async def login(self, user: str, password: str, device: NewDevice) -> NewSession:
        """Log in with a full user id or a localpart. Raises `Forbidden`, the same whatever was wrong."""
        user_id = UserId(user if user.startswith("@") else f"@{user.lower()}:{self._server_name}")
        # Of a name that nobody has, too: a limit that only accounts meet would say which there are.
        self._limits.take("account", user_id[: identifiers.LONGEST])
        account = None if "\0" in user else await self._database.read(users.find, user_id)
        hashed = account.password_hash if account is not None else None
        if not await self._passwords.matches(password, hashed):
            raise Forbidden("The user name or the password is wrong.")

        def write(tx: WriteTx) -> tuple[NewSession, list[bytes]]:
            # The password may have been changed, or the account ended, while it was compared.
            now = users.lock(tx, user_id)
            if now is None or now.is_deactivated or now.password_hash != hashed:
                raise Forbidden("The user name or the password is wrong.")
            return self._login(tx, user_id, device)

        session, ended = await self._database.write(write)
        self._sessions.forget(ended)
        return session

    async def logout(self, who: Requester) -> None:
        """End the caller's device."""
        await self._devices.remove(who, [who.device_id])

    async def logout_all(self, who: Requester) -> None:
        """End all devices of the caller."""
        await self._devices.remove(who, [device.device_id for device in await self._devices.list(who.user_id)])

    def password_stage(self, user_id: UserId) -> Check:
        """The check of a `m.login.password` stage: that it is this user who confirms."""

        async def check(auth: AuthData) -> str | None:
            identifier = auth.identifier or {}
            if identifier.get("type", "m.id.user") != "m.id.user":
                # The server knows nobody's address, and an unknown one is 403.
                raise Forbidden("Only identifiers of the type m.id.user are known here.")
            user = identifier.get("user", auth.user)
            own = (user_id, identifiers.localpart_of(user_id))
            if user is not None and not (isinstance(user, str) and (user in own or user.lower() in own)):
                return "The password has to be your own."
            self._limits.take("account", user_id)
            account = await self._database.read(users.find, user_id)
            if not await self._passwords.matches(auth.password or "", account.password_hash if account else None):
                return "The password is wrong."
            return None

        return check

    def _use(self, tx: WriteTx, token: str | None) -> None:
        if token is not None and not registration_tokens.use(tx, token, now=self._clock.now()):
            raise Forbidden("The registration token is not valid any more.")

    def _login(
        self, tx: WriteTx, user_id: UserId, device: NewDevice, *, is_told: bool = True
    ) -> tuple[NewSession, list[bytes]]:
        """Begin a session, and end those that the device had; others are told of a new device."""
        device_id = self._device_id(device)
        check_name(device.display_name)
        users.lock(tx, user_id)
        if any(key.public_key == device_id for key in e2e_keys.find_cross_signing(tx, [user_id]).values()):
            raise Forbidden("A device cannot be named like a cross-signing key.")
        # A known device is taken over: the tokens that it had end.
        ended = self._sessions.end(tx, user_id, device_id=device_id)
        is_new = devices.ensure(tx, user_id, device_id, display_name=device.display_name, now=self._clock.now())
        if is_new and is_told:
            device_lists.note_devices(tx, user_id, [device_id])
        tokens = self._sessions.issue(tx, user_id, device_id, refreshable=device.refreshable)
        return NewSession(user_id, device_id, tokens), ended

    def _device_id(self, device: NewDevice) -> DeviceId:
        if device.device_id is None:
            return DeviceId(self._randomness.letters(10).upper())
        try:
            return identifiers.device_id(device.device_id)
        except identifiers.InvalidIdentifier as error:
            raise InvalidParam(str(error)) from None
