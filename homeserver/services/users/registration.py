"""Who may make an account, and how (client-server API, Account registration)."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from homeserver.config.model import Registration as Settings
from homeserver.errors import Forbidden, InvalidParam, UnknownToken, Unsupported
from homeserver.kit.clock import Clock
from homeserver.kit.randomness import Randomness
from homeserver.matrix import identifiers
from homeserver.matrix.identifiers import UserId
from homeserver.services.auth.interactive import AuthData, Check, Flow, InteractiveAuth, dummy
from homeserver.services.auth.sessions import Sessions
from homeserver.services.users.accounts import Accounts, NewDevice, NewSession
from homeserver.storage import interactive as stored
from homeserver.storage import registration_tokens
from homeserver.storage.engine import Database
from homeserver.storage.registration_tokens import RegistrationToken

_NONCE_MS = 60_000
_INVITED = "m.login.registration_token"
_TERMS = "m.login.terms"

Json = dict[str, Any]


class Registration:
    """Makes accounts for those who may have one."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        interactive: InteractiveAuth,
        accounts: Accounts,
        sessions: Sessions,
        settings: Settings,
        *,
        is_open: bool,
    ) -> None:
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._interactive = interactive
        self._accounts = accounts
        self._sessions = sessions
        self._settings = settings
        self._is_open = is_open

    def check_possible(self) -> None:
        """Raise `Forbidden` where nobody can register."""
        if not self._is_open and not self._settings.token_required:
            raise Forbidden("Registration is not open here.")

    async def register(
        self,
        auth: AuthData | None,
        username: str | None,
        password: str | None,
        device: NewDevice | None,
        *,
        guest_token: str | None = None,
    ) -> tuple[str, NewSession | None]:
        """Lead through the stages, then make the account, or make a guest a user under the name that it has."""
        self.check_possible()
        guest = None
        if guest_token is not None:
            guest = await self._guest(guest_token, username)
        elif username is not None:
            await self._accounts.check_available(username)
        session = await self._interactive.require("register", auth, [self._flow()], self._checks(), self._params())
        self._accounts.check_password(password)
        token = None
        if self._settings.token_required:
            token = await self._interactive.token_given(session, _INVITED)
            if token is None:
                raise Forbidden("The registration token is missing.")
        made: tuple[str, NewSession | None]
        if guest is not None:
            assert password is not None
            made = guest, await self._accounts.upgrade_guest(guest, password, device, token=token)
        else:
            made = await self._accounts.register(
                username if username is not None else self._accounts.invent_name(), password, device, token=token
            )
        await self._interactive.end(session)
        return made

    async def complete_stage(self, auth: AuthData) -> str | None:
        """Do a stage of a registration on a page of this server; the reason if it cannot be done, else None."""
        return await self._interactive.complete_stage("register", auth, [self._flow()], self._checks())

    async def register_guest(self, display_name: str | None) -> NewSession:
        """Make an account for a guest."""
        if not self._settings.guests:
            raise Forbidden("Guests may not come here. Register, or log in.")
        device = NewDevice(None, display_name, refreshable=False)
        _, session = await self._accounts.register(self._accounts.invent_name(), None, device, is_guest=True)
        assert session is not None
        return session

    async def is_good_token(self, token: str) -> bool:
        """Whether somebody could register with the token now."""
        if not self._settings.token_required:
            raise Forbidden("Registration takes no tokens here.")
        return await self._is_good(token)

    async def add_token(self, token: str | None, *, uses: int | None, lifetime_ms: int | None) -> str:
        """Make a registration token."""
        now = self._clock.now()
        made = token if token is not None else self._randomness.token(16)
        if not identifiers.is_opaque(made) or len(made) > 64:
            raise InvalidParam("A token has 1 to 64 of the characters A-Z, a-z, 0-9, '.', '_', '~' and '-'.")
        expires_ts = None if lifetime_ms is None else now + lifetime_ms
        await self._database.write(registration_tokens.add, RegistrationToken(made, uses, 0, expires_ts, now))
        return made

    async def list_tokens(self) -> list[RegistrationToken]:
        """All registration tokens."""
        return await self._database.read(registration_tokens.list_all)

    async def remove_token(self, token: str) -> bool:
        """Remove a registration token; False if there is none."""
        return await self._database.write(registration_tokens.remove, token)

    async def new_nonce(self) -> str:
        """A nonce for one registration with the shared secret."""
        self._secret()
        nonce = self._randomness.token(32)
        now = self._clock.now()
        await self._database.write(
            stored.begin, nonce, operation="shared secret", now=now, expired=now - 15 * _NONCE_MS
        )
        return nonce

    async def register_with_secret(
        self,
        nonce: str,
        username: str,
        password: str,
        mac: str,
        *,
        is_admin: bool,
        user_type: str | None,
        display_name: str | None,
    ) -> tuple[str, NewSession]:
        """Make an account for a script that knows the shared secret."""
        secret = self._secret()
        since = self._clock.now() - _NONCE_MS
        if not await self._database.write(stored.take, nonce, operation="shared secret", since=since):
            raise Unsupported("M_UNKNOWN", "The nonce is unknown or over. Ask for a new one.")
        # What is signed is joined by NUL: with one inside, the same signature would fit other values.
        if any("\0" in text for text in (username, password, user_type or "")):
            raise InvalidParam("Neither name nor password nor type may have a NUL character in it.")
        parts = [nonce, username, password, "admin" if is_admin else "notadmin", *([user_type] if user_type else [])]
        wanted = hmac.new(secret.encode(), "\0".join(parts).encode("utf-8", "surrogatepass"), hashlib.sha1)
        if not hmac.compare_digest(wanted.hexdigest().encode(), mac.lower().encode("utf-8", "surrogatepass")):
            raise Forbidden("The HMAC is wrong.")
        device = NewDevice(None, None, refreshable=False)
        user_id, session = await self._accounts.register(
            username, password, device, is_admin=is_admin, display_name=display_name
        )
        assert session is not None
        return user_id, session

    async def _guest(self, token: str, username: str | None) -> UserId:
        try:
            guest = await self._sessions.requester(token)
        except UnknownToken:
            raise Forbidden("The token is not that of a guest.") from None
        if not guest.is_guest or username is None or username.lower() != identifiers.localpart_of(guest.user_id):
            raise Forbidden("The token is not that of a guest of this name.")
        return guest.user_id

    def _secret(self) -> str:
        if self._settings.shared_secret is None:
            raise Unsupported("M_UNKNOWN", "Registration with a shared secret is switched off.")
        return self._settings.shared_secret

    def _flow(self) -> Flow:
        stages = (_TERMS,) if self._settings.terms_url is not None else ()
        if self._settings.token_required:
            return (*stages, _INVITED)
        return stages or ("m.login.dummy",)

    def _checks(self) -> Mapping[str, Check]:
        return {"m.login.dummy": dummy, _TERMS: dummy, _INVITED: self._check_token}

    async def _check_token(self, auth: AuthData) -> str | None:
        if auth.token is not None and await self._is_good(auth.token):
            return None
        return "The registration token is not valid."

    async def _is_good(self, token: str) -> bool:
        if "\0" in token:
            return False
        return await self._database.read(registration_tokens.is_good, token, now=self._clock.now())

    def _params(self) -> Json:
        if self._settings.terms_url is None:
            return {}
        policy = {"version": "1", "en": {"name": "Terms of service", "url": self._settings.terms_url}}
        return {_TERMS: {"policies": {"terms_of_service": policy}}}
