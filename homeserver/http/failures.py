"""The one place that knows the status and the error code of a failure (client-server API, Standard error response)."""

import msgspec
import structlog
from starlette.responses import Response

from homeserver import errors

log = structlog.get_logger()

_CODES: dict[type[errors.HomeserverError], tuple[int, str]] = {
    errors.NotJson: (400, "M_NOT_JSON"),
    errors.BadJson: (400, "M_BAD_JSON"),
    errors.MissingParam: (400, "M_MISSING_PARAM"),
    errors.InvalidParam: (400, "M_INVALID_PARAM"),
    errors.TooLarge: (413, "M_TOO_LARGE"),
    errors.LimitExceeded: (429, "M_LIMIT_EXCEEDED"),
    errors.Unrecognized: (404, "M_UNRECOGNIZED"),
    errors.MethodNotAllowed: (405, "M_UNRECOGNIZED"),
    errors.NotSigned: (401, "M_UNAUTHORIZED"),
    errors.MissingToken: (401, "M_MISSING_TOKEN"),
    errors.UnknownToken: (401, "M_UNKNOWN_TOKEN"),
    errors.GuestForbidden: (403, "M_GUEST_ACCESS_FORBIDDEN"),
    errors.Forbidden: (403, "M_FORBIDDEN"),
    errors.NotFound: (404, "M_NOT_FOUND"),
    errors.Conflict: (409, "M_UNKNOWN"),
    errors.RequestError: (400, "M_UNKNOWN"),
    errors.Unavailable: (503, "M_UNKNOWN"),
}


def answer(error: Exception) -> Response:
    """The answer that tells a client of this failure. What nobody expected is logged, once, and not told."""
    if isinstance(error, errors.InteractiveAuthNeeded):
        return _respond(401, dict(error.body))
    if isinstance(error, errors.Unsupported):
        return _respond(error.status, {"errcode": error.errcode, "error": error.message, **error.details})
    if isinstance(error, errors.RemoteFailure):
        return _respond(502, {"errcode": "M_UNKNOWN", "error": "Another server could not be asked, or refused."})
    for kind in type(error).__mro__:
        if kind in _CODES:
            status, errcode = _CODES[kind]
            break
    else:
        log.error("The request failed.", exc_info=error)
        return _respond(500, {"errcode": "M_UNKNOWN", "error": "The server failed. It is not your fault."})
    if not isinstance(error, errors.RequestError):
        return _respond(status, {"errcode": errcode, "error": str(error)}, {"Retry-After": "5"})
    headers = {}
    if isinstance(error, errors.LimitExceeded):
        headers["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    return _respond(status, {"errcode": errcode, "error": error.message, **error.details}, headers)


def _respond(status: int, body: dict[str, object], headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
