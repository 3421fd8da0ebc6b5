"""Every failure that the code raises on purpose.

HomeserverError
├── RequestError                 the request is at fault, and says what to change
│   ├── NotJson                  the body is not JSON
│   ├── BadJson                  JSON of the wrong shape
│   ├── MissingParam             a required value is absent
│   ├── InvalidParam             a value is out of its grammar or range
│   ├── TooLarge                 an event, body or file is over its limit
│   ├── LimitExceeded            too many requests; come back later
│   ├── Unrecognized             no such endpoint
│   ├── MethodNotAllowed         the endpoint exists, the method does not
│   ├── Unsupported              any other refusal with an error code of its own (`errcode`)
│   ├── Unauthenticated          who is calling is not proven
│   │   ├── NotSigned              a server's request bears no good signature
│   │   ├── MissingToken
│   │   ├── UnknownToken
│   │   └── InteractiveAuthNeeded  the answer is the user-interactive authentication object
│   ├── Forbidden                the caller may not
│   │   └── GuestForbidden
│   ├── NotFound                 absent, or not to be seen: both look the same
│   └── Conflict                 a name is taken, or a state forbids the change
├── RemoteFailure                another server did not do what it was asked
│   ├── Unreachable              it gave no answer that can be used
│   │   ├── AnswerTooLarge         it answered with more than was asked for
│   │   └── BadAnswer              it answered something that does not hold
│   └── Refused                  it answered with an error
├── ConfigError                  the settings are wrong; carries every fault found
└── Unavailable                  our own trouble, worth a retry

`http/failures.py` alone knows the status and the error code of each.
"""

from collections.abc import Mapping, Sequence

from homeserver.kit.logs import Trouble


class HomeserverError(Exception):
    """The root of the tree."""


class RequestError(HomeserverError):
    """The request is at fault. `message` is shown to the client; `details` are further keys of the error object."""

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class NotJson(RequestError):
    """The body is not JSON."""


class BadJson(RequestError):
    """JSON of the wrong shape."""


class MissingParam(RequestError):
    """A required value is absent."""


class InvalidParam(RequestError):
    """A value is out of its grammar or range."""


class TooLarge(RequestError):
    """Over a size limit."""


class LimitExceeded(RequestError):
    """Too many requests, or too much in one place; come back later."""

    def __init__(self, retry_after_ms: int, message: str = "Too many requests. Wait before you try again.") -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.retry_after_ms = retry_after_ms


class Unrecognized(RequestError):
    """No endpoint at this path."""


class MethodNotAllowed(RequestError):
    """The endpoint does not know this method."""


class Unsupported(RequestError):
    """A refusal with an error code of its own, for example `M_UNSUPPORTED_ROOM_VERSION`."""

    def __init__(self, errcode: str, message: str, *, status: int = 400, **details: object) -> None:
        super().__init__(message, **details)
        self.errcode = errcode
        self.status = status


class Unauthenticated(RequestError):
    """Who is calling is not proven."""


class NotSigned(Unauthenticated):
    """The request of a server bears no good signature."""


class MissingToken(Unauthenticated):
    """No access token was sent."""


class UnknownToken(Unauthenticated):
    """The access token is unknown, expired or logged out."""

    def __init__(self, message: str = "The access token is not valid.", *, soft_logout: bool = False) -> None:
        super().__init__(message, soft_logout=soft_logout)


class InteractiveAuthNeeded(Unauthenticated):
    """More stages are needed. `body` is the whole answer (client-server API, User-Interactive Authentication API)."""

    def __init__(self, body: Mapping[str, object]) -> None:
        super().__init__("Further authentication is needed.")
        self.body = body


class Forbidden(RequestError):
    """The caller may not do this."""


class GuestForbidden(Forbidden):
    """Guests may not do this."""


class NotFound(RequestError):
    """Absent, or not to be seen by the caller."""


class Conflict(RequestError):
    """Taken already, or impossible as things stand."""


class RemoteFailure(HomeserverError):
    """Another server did not do what it was asked. Clients are never told its words, nor its status."""


class Unreachable(RemoteFailure):
    """The server gave no answer that can be used; the message says, for an operator, which step failed."""


class AnswerTooLarge(Unreachable):
    """The server answered with more than was asked for."""


class BadAnswer(Unreachable):
    """What the server answered is not what it should be, or does not hold."""


class Refused(RemoteFailure):
    """The server answered with an error. `body` is its JSON object, empty if it was none."""

    def __init__(
        self,
        status: int,
        errcode: str,
        message: str,
        body: Mapping[str, object],
        *,
        patience_ms: float | None = None,
    ) -> None:
        """`patience_ms`: for so long it says that it wants to be left alone."""
        super().__init__(f"It answered {status} {errcode}: {message}")
        self.status = status
        self.errcode = errcode
        self.message = message
        self.body = body
        self.patience_ms = patience_ms


class ConfigError(HomeserverError):
    """The settings are wrong. `faults` pairs each key with what is wrong with it, all found at once."""

    def __init__(self, faults: Sequence[tuple[str, str]]) -> None:
        super().__init__("\n".join(f"{key}: {fault}" for key, fault in faults))
        self.faults = list(faults)


class Unavailable(HomeserverError, Trouble):
    """Our own trouble for now; the client may repeat the request."""
