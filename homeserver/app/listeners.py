"""The sockets of `homeserver serve`, plain and with TLS, and certificates that are renewed while it runs."""

import asyncio
import signal
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import structlog
import uvicorn

from homeserver.app.application import Application
from homeserver.config.model import Config, Listener
from homeserver.errors import ConfigError

log = structlog.get_logger()

BACKLOG = 4096
_HANDSHAKE_S = 15
_LOOK_TICKS = 20
"""A tick is a tenth of a second."""


class Certificate:
    """A certificate and its key, of files that may be written anew at any time.

    Connections that are open keep theirs; the next one gets the new. Files that do not fit together, as when only one
    of the two has been written yet, change nothing.
    """

    def __init__(self, certificate: str, private_key: str) -> None:
        self._files = (Path(certificate), Path(private_key))
        self._seen = self._state()
        try:
            self._current = _context(*self._files)
        except OSError as error:
            raise ConfigError([("extra_listeners", f"{certificate} cannot be served: {_reason(error)}.")]) from None
        self.context = _context(*self._files)
        self.context.sni_callback = self._choose

    def reload(self) -> None:
        """Take what is in the files now, if it is good."""
        self._seen = self._state()
        try:
            self._current = _context(*self._files)
        except OSError as error:
            log.warning("The certificate stays as it was.", file=str(self._files[0]), reason=_reason(error))
        else:
            log.info("The certificate is loaded anew.", file=str(self._files[0]))

    def reload_if_changed(self) -> None:
        """The same, if the files are others than when it was last looked at them."""
        if self._state() != self._seen:
            self.reload()

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        # OpenSSL asks for each connection, those that name no server too.
        connection.context = self._current

    def _state(self) -> Sequence[tuple[int, int, int] | None]:
        return [_stamp(file) for file in self._files]


class Server(uvicorn.Server):
    """Serves on sockets of both kinds. Ends at a signal without letting those wait who only listen."""

    def __init__(self, settings: uvicorn.Config, application: Application, listeners: "Listeners") -> None:
        super().__init__(settings)
        self._application = application
        self._listeners = listeners

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets=self._listeners.plain)
        loop = asyncio.get_running_loop()
        for one, certificate in self._listeners.encrypted:
            # What `uvicorn.Server.startup` does for each socket, which knows one kind only.
            server = await loop.create_server(
                self._protocol,
                sock=one,
                ssl=certificate.context,
                backlog=BACKLOG,
                ssl_handshake_timeout=_HANDSHAKE_S,
                ssl_shutdown_timeout=_HANDSHAKE_S,
            )
            self.servers.append(server)
        if self._listeners.encrypted:
            loop.add_signal_handler(signal.SIGHUP, self._reload)
        for one in self._listeners.plain:
            _tell(one, "http")
        for one, _ in self._listeners.encrypted:
            _tell(one, "https")

    async def on_tick(self, counter: int) -> bool:
        """Look now and then whether certificates have been renewed."""
        if counter % _LOOK_TICKS == 0:
            for _, certificate in self._listeners.encrypted:
                certificate.reload_if_changed()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Answer those who only wait."""
        super().handle_exit(sig, frame)
        self._application.end_waits()

    def _reload(self) -> None:
        for _, certificate in self._listeners.encrypted:
            certificate.reload()

    def _protocol(self) -> asyncio.Protocol:
        # uvicorn calls it so itself: what it is typed as does not say what it takes.
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


class Listeners:
    """All sockets that the settings name. Raises `ConfigError` for what cannot be listened on, or not so."""

    def __init__(self, config: Config) -> None:
        self.plain: list[socket.socket] = []
        self.encrypted: list[tuple[socket.socket, Certificate]] = []
        for one in (Listener(host=config.host, port=config.port), *config.extra_listeners):
            if one.certificate is None or one.private_key is None:
                self.plain.append(_open(one))
            else:
                self.encrypted.append((_open(one), Certificate(one.certificate, one.private_key)))


def _open(listener: Listener) -> socket.socket:
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    try:
        return socket.create_server((listener.host, listener.port), family=family, backlog=BACKLOG)
    except OSError as error:
        fault = f"{listener.host} port {listener.port} cannot be listened on: {error.strerror or error}."
        raise ConfigError([("extra_listeners", fault)]) from None


def _tell(listening: socket.socket, scheme: str) -> None:
    host, port = listening.getsockname()[:2]
    log.info("listening", at=f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")


def _context(certificate: Path, private_key: Path) -> ssl.SSLContext:
    """What a server needs. Raises `OSError`, of which `ssl.SSLError` is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # Without a password at hand, the library would ask whoever sits at the terminal.
    context.load_cert_chain(certificate, private_key, password="")
    return context


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key is that of another certificate"
        words = (error.reason or str(error)).lower().replace("_", " ")
        return f"it, or its key, is not as it should be ({words})"
    return f"{error.filename or 'a file'}: {error.strerror or error}"
