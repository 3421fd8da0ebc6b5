"""Making accounts, logging in and out (client-server API, Account registration, Login)."""

from dataclasses import dataclass

from homeserver.errors import Forbidden, InvalidParam, Unsupported
from homeserver.kit.clock import Clock
from homeserver.kit.randomness import Randomness
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import DeviceId, UserId
from homeserver.services.auth.interactive import AuthData, Check
from homeserver.services.auth.passwords import Passwords
from homeserver.services.auth.sessions import Requester, Sessions, Tokens
from homeserver.services.users.devices import Devices
from homeserver.storage import devices, users
from homeserver.storage.engine import Database, WriteTx


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
        server_name: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._sessions = sessions
        self._passwords = passwords
        self._devices = devices
        self._server_name = server_name

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
        self, username: str, password: str | None, device: NewDevice | None, *, is_admin: bool = False
    ) -> tuple[UserId, NewSession | None]:
        """Make the account and, if there is a device, log it in."""
        user_id = await self.check_available(username)
        hashed = None if password is None else await self._passwords.hash(password)
        return user_id, await self._database.write(self._register, user_id, hashed, device, is_admin)

    async def login(self, user: str, password: str, device: NewDevice) -> NewSession:
        """Log in with a full user id or a localpart. Raises `Forbidden`, the same whatever was wrong."""
        user_id = UserId(user if user.startswith("@") else f"@{user.lower()}:{self._server_name}")
        account = None if "\0" in user else await self._database.read(users.find, user_id)
        if not await self._passwords.matches(password, account.password_hash if account else None):
            raise Forbidden("The user name or the password is wrong.")
        if account is not None and account.is_deactivated:
            raise Unsupported("M_USER_DEACTIVATED", "This account has been deactivated.", status=403)
        session, ended = await self._database.write(self._login, user_id, device)
        self._sessions.forget(ended)
        return session

    async def logout(self, who: Requester) -> None:
        """End the caller's device."""
        await self._devices.remove(who, [who.device_id])

    async def logout_all(self, who: Requester) -> None:
        """End all devices of the caller."""
        await self._devices.remove(who, [device.device_id for device in await self._devices.list(who.user_id)])

    def password_stage(self, who: Requester) -> Check:
        """The check of a `m.login.password` stage: that it is the caller who confirms."""

        async def check(auth: AuthData) -> str | None:
            identifier = auth.identifier or {}
            user = identifier.get("user", auth.user)
            if user not in (None, who.user_id, identifiers.localpart_of(who.user_id)):
                return "The password has to be your own."
            account = await self._database.read(users.find, who.user_id)
            if not await self._passwords.matches(auth.password or "", account.password_hash if account else None):
                return "The password is wrong."
            return None

        return check

    def _register(
        self, tx: WriteTx, user_id: UserId, hashed: str | None, device: NewDevice | None, is_admin: bool
    ) -> NewSession | None:
        users.insert(tx, user_id, password_hash=hashed, is_guest=False, is_admin=is_admin, now=self._clock.now())
        return self._login(tx, user_id, device)[0] if device else None

    def _login(self, tx: WriteTx, user_id: UserId, device: NewDevice) -> tuple[NewSession, list[bytes]]:
        device_id = self._device_id(device)
        # A known device is taken over: the tokens that it had end.
        ended = self._sessions.end(tx, user_id, device_id=device_id)
        devices.ensure(tx, user_id, device_id, display_name=device.display_name, now=self._clock.now())
        tokens = self._sessions.issue(tx, user_id, device_id, refreshable=device.refreshable)
        return NewSession(user_id, device_id, tokens), ended

    def _device_id(self, device: NewDevice) -> DeviceId:
        if device.device_id is None:
            return DeviceId(self._randomness.letters(10).upper())
        try:
            return identifiers.device_id(device.device_id)
        except identifiers.InvalidIdentifier as error:
            raise InvalidParam(str(error)) from None
