"""Pages for clients that do not know a stage themselves (client-server API, Fallback)."""

import html
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from homeserver.config.model import Config
from homeserver.errors import RequestError, Unrecognized
from homeserver.http.bodies import Query, read_capped
from homeserver.http.endpoint import NOBODY, Endpoint
from homeserver.services.auth.interactive import AuthData
from homeserver.services.users.registration import Registration

_LARGEST_FORM = 10_000
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'",
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
    try {
        const answer = await fetch("../../../client/v3/login", {
            method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body),
        });
        const said = await answer.json();
        if (!answer.ok) throw new Error(said.error);
        const done = document.createElement("p");
        done.setAttribute("role", "status");
        field("login").replaceWith(done);
        done.textContent = "You are logged in. You can close this window and go on in your app.";
        if (window.matrixLogin && window.matrixLogin.onLogin) window.matrixLogin.onLogin(said);
    } catch (error) {
        field("wrong").textContent = error.message;
        button.disabled = false;
    }
});
</script>"""


class Session(Query, frozen=True):
    session: str


async def login() -> Response:
    return _respond("Log in", _LOGIN)


async def show(auth_type: str, query: Session, config: Config) -> Response:
    return _form(auth_type, query.session, config)


async def submit(
    auth_type: str, query: Session, request: Request, config: Config, registration: Registration
) -> Response:
    form = _form(auth_type, query.session, config)  # Refuses stages that have no page.
    given = parse_qs((await read_capped(request, _LARGEST_FORM)).decode("utf-8", "replace"))
    token = given.get("token", [""])[0].strip()
    auth = AuthData(type=auth_type, session=query.session, token=token or None)
    try:
        reason = await registration.complete_stage(auth)
    except RequestError as error:
        reason = error.message
    if reason is None:
        return _respond("Thank you", _DONE)
    return form if not given else _form(auth_type, query.session, config, wrong=reason)


def _form(auth_type: str, session: str, config: Config, wrong: str | None = None) -> Response:
    if auth_type == "m.login.terms" and config.registration.terms_url is not None:
        url = html.escape(config.registration.terms_url)
        title = "Terms of service"
        fields = f'<p>Please read the <a href="{url}" target="_blank" rel="noopener">terms of service</a>.</p>'
        button = "I accept them"
    elif auth_type == "m.login.registration_token":
        title = "Registration token"
        fields = (
            '<label for="token">The token that you were given</label>'
            '<input id="token" name="token" required autofocus autocomplete="off">'
        )
        button = "Go on"
    elif auth_type == "m.login.dummy":
        title, fields, button = "Go on", "<p>Nothing has to be done here.</p>", "Go on"
    else:
        raise Unrecognized("There is no page for this stage.")
    said = f'<p class="wrong" role="alert">{html.escape(wrong)}</p>' if wrong is not None else ""
    body = (
        f'{said}<form method="post" action="?session={quote(session, safe="")}">{fields}'
        f'<input type="hidden" name="go" value="on"><button type="submit">{button}</button></form>'
    )
    return _respond(title, body, status=200 if wrong is None else 400)


def _respond(title: str, body: str, status: int = 200) -> Response:
    return HTMLResponse(_PAGE.format(title=title, body=body), status, _HEADERS)


_PATH = "/auth/{auth_type}/fallback/web"

ENDPOINTS = [
    Endpoint("GET", _PATH, show, auth=NOBODY, limit=None, body=None),
    Endpoint("POST", _PATH, submit, auth=NOBODY, limit="register", body=None),
]

ENDPOINTS_STATIC = [Endpoint("GET", "/login/", login, auth=NOBODY, limit=None, body=None)]
