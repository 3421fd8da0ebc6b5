"""Pages for clients that do not know a stage themselves (client-server API, Fallback)."""

import html
from dataclasses import dataclass
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from homeserver.config.model import Config
from homeserver.errors import RequestError, Unrecognized
from homeserver.http.bodies import Query, read_capped
from homeserver.http.endpoint import NOBODY, Endpoint
from homeserver.services.auth.interactive import AuthData
from homeserver.services.users.confirmation import STAGE, Asked, Confirmation
from homeserver.services.users.registration import Registration

_LARGEST_FORM = 10_000
_LONGEST_OPERATION = 300
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 3rem auto; padding: 0 1rem; }}
label, input, button {{ display: block; font: inherit; margin: .5rem 0; }}
input {{ width: 100%; padding: .4rem; box-sizing: border-box; }}
button {{ padding: .4rem 1.2rem; }}
.wrong {{ color: #a00000; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""
_DONE = """<p>Done. You can close this window and go on in your app.</p>
<script>
if (window.onAuthDone) {
    window.onAuthDone();
} else if (window.opener && window.opener.postMessage) {
    window.opener.postMessage("authDone", "*");
}
</script>"""
_OVER = """<p class="wrong" role="alert">This page is out of date. Begin again in your app.</p>"""
_INVITED = """<label for="token">The token that you were given</label>
<input id="token" name="token" required autofocus autocomplete="off">"""
_CONFIRMING = """<p>Your app wants to <strong>{what}</strong>.
If it was not you who asked for that, close this page.</p>
<label for="user">Your account</label>
<input id="user" value="{user}" readonly autocomplete="username">
<label for="password">Your password</label>
<input id="password" name="password" type="password" required autofocus autocomplete="current-password">"""
# Signs in with a password. What the address says of the device goes with it; then the app is told.
_LOGIN = """<form id="login">
<label for="user">User name</label>
<input id="user" required autofocus autocapitalize="none" autocomplete="username">
<label for="password">Password</label>
<input id="password" type="password" required autocomplete="current-password">
<p class="wrong" role="alert" id="wrong"></p>
<button type="submit">Log in</button>
</form>
<noscript><p class="wrong">This page needs JavaScript.</p></noscript>
<script>
const field = id => document.getElementById(id);
field("login").addEventListener("submit", async event => {
    event.preventDefault();
    const button = event.submitter || field("login").querySelector("button");
    button.disabled = true;
    field("wrong").textContent = "";
    const given = new URLSearchParams(location.search);
    const body = {
        type: "m.login.password",
        identifier: {type: "m.id.user", user: field("user").value.trim()},
        password: field("password").value,
    };
    for (const name of ["device_id", "initial_device_display_name"]) {
        if (given.has(name)) body[name] = given.get(name);
    }
    if (given.get("refresh_token") === "true") body.refresh_token = true;
    let said;
    try {
        const answer = await fetch("../../../client/v3/login", {
            method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body),
        });
        said = await answer.json();
        if (!answer.ok) throw new Error(said.error);
    } catch (error) {
        field("wrong").textContent = error.message;
        button.disabled = false;
        return;
    }
    const done = document.createElement("p");
    done.setAttribute("role", "status");
    field("login").replaceWith(done);
    done.textContent = "You are logged in. You can close this window and go on in your app.";
    if (window.matrixLogin && window.matrixLogin.onLogin) window.matrixLogin.onLogin(said);
});
</script>"""


class Session(Query, frozen=True):
    session: str


async def login() -> Response:
    return _respond("Log in", _LOGIN)


@dataclass(frozen=True, slots=True)
class _Stage:
    """What is to be done on a page."""

    title: str
    fields: str
    button: str = "Go on"
    asked: Asked | None = None
    """Who confirms what, where it is done with a password."""


async def show(auth_type: str, query: Session, config: Config, confirmation: Confirmation) -> Response:
    stage = await _stage(auth_type, query.session, config, confirmation)
    return _respond("Too late", _OVER, 400) if stage is None else _form(stage, query.session)


async def submit(
    auth_type: str,
    query: Session,
    request: Request,
    config: Config,
    registration: Registration,
    confirmation: Confirmation,
) -> Response:
    stage = await _stage(auth_type, query.session, config, confirmation)
    if stage is None:
        return _respond("Too late", _OVER, 400)
    given = parse_qs((await read_capped(request, _LARGEST_FORM)).decode("utf-8", "replace"))
    token, password = (given.get(name, [None])[0] for name in ("token", "password"))
    auth = AuthData(type=auth_type, session=query.session, token=token and token.strip(), password=password)
    try:
        if stage.asked is None:
            reason = await registration.complete_stage(auth)
        else:
            reason = await confirmation.complete_stage(stage.asked, auth)
    except RequestError as error:
        reason = error.message
    if reason is None:
        return _respond("Thank you", _DONE)
    return _form(stage, query.session, wrong=reason if given else None)


async def _stage(auth_type: str, session: str, config: Config, confirmation: Confirmation) -> _Stage | None:
    """What is to be done; None if it is too late for it."""
    if auth_type == "m.login.terms" and config.registration.terms_url is not None:
        url = html.escape(config.registration.terms_url)
        text = f'<p>Please read the <a href="{url}" target="_blank" rel="noopener">terms of service</a>.</p>'
        return _Stage("Terms of service", text, button="I accept them")
    if auth_type == "m.login.registration_token":
        return _Stage("Registration token", _INVITED)
    if auth_type == "m.login.dummy":
        return _Stage("Go on", "<p>Nothing has to be done here.</p>")
    if auth_type != STAGE:
        raise Unrecognized("There is no page for this stage.")
    asked = await confirmation.find(session)
    if asked is None:
        return None
    # Whoever was sent here by somebody else can see what would be confirmed.
    what = html.escape(asked.operation[:_LONGEST_OPERATION])
    fields = _CONFIRMING.format(what=what, user=html.escape(asked.user_id))
    return _Stage("Confirm with your password", fields, button="Confirm", asked=asked)


def _form(stage: _Stage, session: str, wrong: str | None = None) -> Response:
    said = f'<p class="wrong" role="alert">{html.escape(wrong)}</p>' if wrong is not None else ""
    body = (
        f'{said}<form method="post" action="?session={quote(session, safe="")}">{stage.fields}'
        f'<input type="hidden" name="go" value="on"><button type="submit">{stage.button}</button></form>'
    )
    return _respond(stage.title, body, status=200 if wrong is None else 400)


def _respond(title: str, body: str, status: int = 200) -> Response:
    return HTMLResponse(_PAGE.format(title=title, body=body), status, _HEADERS)


_PATH = "/auth/{auth_type}/fallback/web"

ENDPOINTS = [
    Endpoint("GET", _PATH, show, auth=NOBODY, limit=None, body=None),
    Endpoint("POST", _PATH, submit, auth=NOBODY, limit="register", body=None),
]

ENDPOINTS_STATIC = [Endpoint("GET", "/login/", login, auth=NOBODY, limit=None, body=None)]
