"""Every setting there is. `docs/operate/settings.md` is generated from this file.

A key of the file is the path of a field (`[registration] shared_secret = "…"`); its environment variable is
`HOMESERVER_` and the path in capitals (`HOMESERVER_REGISTRATION_SHARED_SECRET`).
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Port = Annotated[int, Meta(ge=1, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
PublicKey = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/_-]{43}$")]
UserName = Annotated[str, Meta(pattern=r"^@.*:")]
EmailAddress = Annotated[str, Meta(pattern=r"^[^@]+@[^@]+$")]
CrashPoint = Annotated[str, Meta(pattern=r"^K([1-9]|10)(:[1-9][0-9]{0,5})?$")]


class Registration(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may make an account."""

    open: Annotated[
        bool | None,
        Meta(
            description="Anybody may register with the dummy stage only. Left out: open in the trial shape "
            "(server name `localhost`, loopback address), else closed."
        ),
    ] = None
    token_required: Annotated[bool, Meta(description="Registering needs a registration token.")] = False
    terms_url: Annotated[str | None, Meta(description="Address of terms that a new user must accept.")] = None
    shared_secret: Annotated[
        str | None, Meta(description="Secret of scripts that make accounts at `/_synapse/admin/v1/register`.")
    ] = None
    guests: Annotated[bool, Meta(description="Guest accounts may be made.")] = False


class Passwords(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How passwords are kept (argon2id)."""

    time_cost: Annotated[int, Meta(ge=1, le=20, description="Passes of argon2id. Tests may set 1.")] = 2
    memory_kib: Annotated[int, Meta(ge=8, le=4194304, description="Memory of one hash, in KiB. Tests may set 8.")] = (
        19456
    )
    minimum_length: Annotated[int, Meta(ge=1, le=512, description="Shortest password a user may choose.")] = 8


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds on what clients and other servers may ask."""

    rate_limits: Annotated[bool, Meta(description="Whether too many requests are refused. Off is for tests.")] = True
    server_rates: Annotated[
        float,
        Meta(
            gt=0,
            le=1000,
            description="How often another server may ask, as a multiple of what is usual: of all requests that it "
            "signs, below `/_matrix/federation/`. (Others, as for keys, count for the network they come from.)",
        ),
    ] = 1.0
    body_bytes: Annotated[Positive, Meta(description="Largest JSON request body.")] = 1_048_576
    upload_bytes: Annotated[Positive, Meta(description="Largest media upload.")] = 52_428_800
    remote_media_bytes: Annotated[
        Positive, Meta(description="What copies of other servers' media may take; the oldest go first.")
    ] = 10_737_418_240
    access_token_lifetime_s: Annotated[
        Positive | None, Meta(description="Life of access tokens that come with a refresh token, in seconds.")
    ] = 3600


class Log(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is logged, to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least level that is shown.")] = (
        "info"
    )
    json: Annotated[bool, Meta(description="One JSON object a line; off gives text for people.")] = False


class Listener(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One more address to listen on; with TLS if it has a certificate."""

    host: Annotated[str, Meta(description="Address to bind.")]
    port: Annotated[Port, Meta(description="Port to bind.")]
    certificate: Annotated[str | None, Meta(description="PEM file: the certificate and its chain.")] = None
    private_key: Annotated[str | None, Meta(description="PEM file: the key of the certificate.")] = None


class OldKey(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A signing key that this server used before: its old events still bear its signature."""

    key_id: Annotated[str, Meta(description="Its id.", pattern=r"^ed25519:[a-zA-Z0-9_]+$")]
    public_key: Annotated[PublicKey, Meta(description="In unpadded base64.")]
    expired_ts: Annotated[int, Meta(description="When it was last used, in milliseconds since 1970.", ge=0)]


class Federation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Speaking to other servers."""

    enabled: Annotated[bool, Meta(description="Whether this server speaks to others at all.")] = True
    addresses: Annotated[
        dict[str, str],
        Meta(
            description='Where servers are, if not where their names lead: `{"example.org": "10.0.0.5:8448"}`. TLS is '
            "still checked against the name. Such an address may be a private one."
        ),
    ] = field(default_factory=dict)
    ca_files: Annotated[
        tuple[str, ...],
        Meta(description="PEM files of authorities to trust besides those of the system, for closed networks."),
    ] = ()
    allowed_ranges: Annotated[
        tuple[str, ...],
        Meta(description='Private addresses that names may lead to, like `["10.1.0.0/16", "fd00::/8"]`.'),
    ] = ()
    allow: Annotated[
        tuple[str, ...] | None,
        Meta(
            description='Speak to these servers only, like `["example.org", "*.example.com"]`. Left out: to all that '
            "are not denied."
        ),
    ] = None
    deny: Annotated[tuple[str, ...], Meta(description="Never speak to these servers; stands above `allow`.")] = ()
    proxy: Annotated[
        str | None,
        Meta(
            description="Proxy for requests to other servers (CONNECT), as `http://user:password@host:3128`; with "
            "`https://` it is spoken to by TLS, and must have a certificate for its host."
        ),
    ] = None
    no_proxy: Annotated[
        tuple[str, ...],
        Meta(description='Hosts and ranges that are reached without it, like `["*.internal", "10.0.0.0/8"]`.'),
    ] = ()
    connect_timeout_s: Annotated[
        int, Meta(ge=1, le=120, description="How long a connection, TLS included, may take to come about, in seconds.")
    ] = 10
    connections: Annotated[
        int, Meta(ge=10, le=60_000, description="Requests under way to all other servers together, at most.")
    ] = 500
    connections_per_server: Annotated[
        int, Meta(ge=1, le=1000, description="Requests under way to one server, at most.")
    ] = 8
    searches_per_server: Annotated[
        int,
        Meta(ge=1, le=1000, description="Rooms in which one server is asked for missing events at a time, at most."),
    ] = 10
    staged_per_server: Annotated[
        Positive,
        Meta(
            description="Acknowledged events of one server that may wait to be taken in; from then on it has to make "
            "its deliveries later."
        ),
    ] = 5000
    idle_connections: Annotated[int, Meta(ge=0, le=60_000, description="Unused connections that are kept open.")] = 200
    http2: Annotated[bool, Meta(description="Use HTTP/2 with servers that offer it.")] = True
    notaries: Annotated[
        tuple[str, ...],
        Meta(description="Servers that are trusted to say which keys other servers had, in this order."),
    ] = ()
    old_keys: Annotated[
        tuple[OldKey, ...],
        Meta(
            description='Former signing keys of this server: `[{"key_id": "ed25519:a_1", "public_key": "…", '
            '"expired_ts": 1700000000000}]`.'
        ),
    ] = ()


class Contact(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom to turn to."""

    role: Annotated[str, Meta(description="`m.role.admin` or `m.role.security`.")] = "m.role.admin"
    matrix_id: Annotated[UserName | None, Meta(description="User id.")] = None
    email_address: Annotated[EmailAddress | None, Meta(description="Email address.")] = None


class WellKnown(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is served below `/.well-known/matrix/`, besides `public_base_url` for clients."""

    server: Annotated[
        str | None,
        Meta(description="Where other servers find this one, as `matrix.example.org:443` (delegation)."),
    ] = None
    support_page: Annotated[str | None, Meta(description="Page on which people find help.")] = None
    contacts: Annotated[
        tuple[Contact, ...],
        Meta(
            description="Administrators: "
            '`[{"role": "m.role.admin", "matrix_id": "@alice:example.org", "email_address": "alice@example.org"}]`.'
        ),
    ] = ()
    policy_server_key: Annotated[
        PublicKey | None,
        Meta(description="Public ed25519 key of the policy server of this name, in unpadded base64."),
    ] = None


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole of the settings."""

    server_name: Annotated[
        str, Meta(description="Name in user ids. It can never be changed. `localhost` is for trying out.")
    ] = "localhost"
    data_dir: Annotated[str, Meta(description="Folder of the signing key, media and the embedded database.")] = "data"
    database_url: Annotated[
        str | None,
        Meta(
            description="SQLAlchemy URL, `postgresql+asyncpg://…` or `sqlite+aiosqlite:///…`. "
            "Left out: SQLite in the data folder."
        ),
    ] = None
    redis_url: Annotated[str | None, Meta(description="Redis, for several processes.")] = None
    host: Annotated[str, Meta(description="Address that `homeserver serve` listens on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port that `homeserver serve` listens on.")] = 8008
    extra_listeners: Annotated[
        tuple[Listener, ...],
        Meta(
            description="Further addresses to listen on; with TLS where a certificate is named: "
            '`[{"host": "0.0.0.0", "port": 8448, "certificate": "chain.pem", "private_key": "key.pem"}]`.'
        ),
    ] = ()
    public_base_url: Annotated[
        str | None, Meta(description="Address at which clients reach the server; served at `.well-known`.")
    ] = None
    signing_key_path: Annotated[
        str | None, Meta(description="Signing key file. Left out: `signing.key` in the data folder.")
    ] = None
    default_room_version: Annotated[
        Literal["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"],
        Meta(description="Version of rooms whose creator names none."),
    ] = "12"
    room_memory_mib: Annotated[int, Meta(ge=1, description="Memory for the rooms that are in use, in MiB.")] = 256
    presence: Annotated[
        bool,
        Meta(description="Show people who share a room to each other as online or idle."),
    ] = True
    crash_point: Annotated[
        CrashPoint | None,
        Meta(
            description="For tests alone: where the process kills itself, as `K3:5` for the fifth passing of K3.",
        ),
    ] = None
    registration: Registration = field(default_factory=Registration)
    passwords: Passwords = field(default_factory=Passwords)
    limits: Limits = field(default_factory=Limits)
    federation: Federation = field(default_factory=Federation)
    well_known: WellKnown = field(default_factory=WellKnown)
    log: Log = field(default_factory=Log)

    @property
    def is_trial(self) -> bool:
        """Whether this is the shape for trying out: nobody but this machine can reach it."""
        return self.server_name == "localhost" and self.host in ("127.0.0.1", "::1", "localhost")

    @property
    def registration_is_open(self) -> bool:
        """Whether anybody may register."""
        return self.is_trial if self.registration.open is None else self.registration.open

    @property
    def effective_database_url(self) -> str:
        """The database to use: the one named, or SQLite in the data folder."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir}/homeserver.db"
