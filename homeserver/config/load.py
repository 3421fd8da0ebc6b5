"""Reads the settings from a TOML file and the environment, and finds every fault in one go."""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

from homeserver.config.model import Config
from homeserver.errors import ConfigError

PREFIX = "HOMESERVER_"
FILE_VARIABLE = "HOMESERVER_CONFIG"
# Server names: DNS name, IPv4 address or [IPv6 address], and a port if any (appendices, Server Name).
_PROXY = re.compile(r"https?://([^/@:]+(:[^/@]*)?@)?([0-9A-Za-z.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?")
_SERVER_NAME = re.compile(r"(?:[0-9A-Za-z.-]{1,230}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

Faults = list[tuple[str, str]]


def load(environment: Mapping[str, str] | None = None) -> Config:
    """The settings of this process. Raises `ConfigError` with every fault found."""
    environment = os.environ if environment is None else environment
    faults: Faults = []
    tree = _read_file(environment.get(FILE_VARIABLE), faults)
    _lay_over(tree, environment, faults)
    values = _check(tree, Config, "", faults)
    if not faults:
        config = msgspec.convert(values, Config)
        faults += _contradictions(config)
        if not faults:
            return config
    raise ConfigError(faults)


def settings() -> Iterator[tuple[str, str, Any, Any]]:
    """Every setting as (key, environment variable, annotated type, default), in the order of the model."""
    for path, kind, default in _leaves(Config, ""):
        yield path, PREFIX + path.replace(".", "_").upper(), kind, default


def _read_file(path: str | None, faults: Faults) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        faults.append((FILE_VARIABLE, f"cannot read {path}: {error.strerror}"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        faults.append((FILE_VARIABLE, f"{path} is not TOML: {error}"))
    return {}


def _lay_over(tree: dict[str, Any], environment: Mapping[str, str], faults: Faults) -> None:
    known = {variable: (path, kind) for path, variable, kind, _ in settings()}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE:
            continue
        if variable not in known:
            faults.append((variable, "no such setting"))
            continue
        path, kind = known[variable]
        section = tree
        *parents, last = path.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                break  # `_check` reports that the file has something else than a table there.
        else:
            section[last] = _parse(text, kind)


def _parse(text: str, kind: Any) -> Any:
    """The value that an environment variable stands for: JSON where the setting is not text, else as it is."""
    if _takes(kind, str):
        return None if text == "" and _takes(kind, type(None)) else text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _takes(kind: Any, wanted: type) -> bool:
    origin = get_origin(kind)
    if origin is Annotated:
        return _takes(get_args(kind)[0], wanted)
    if origin in (Union, UnionType):
        return any(_takes(part, wanted) for part in get_args(kind))
    if kind is wanted:
        return True
    return wanted is str and bool(get_args(kind)) and all(isinstance(part, str) for part in get_args(kind))


def _check(tree: dict[str, Any], model: type[msgspec.Struct], prefix: str, faults: Faults) -> dict[str, Any]:
    """The parts of the tree that fit the model; each fault is noted with its key."""
    good: dict[str, Any] = {}
    hints = get_type_hints(model, include_extras=True)
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if key not in hints:
            faults.append((path, "no such setting"))
        elif _is_section(hints[key]):
            if isinstance(value, dict):
                good[key] = _check(value, hints[key], f"{path}.", faults)
            else:
                faults.append((path, "must be a table"))
        else:
            try:
                msgspec.convert(value, hints[key])
                good[key] = value
            except msgspec.ValidationError as error:
                faults.append((path, str(error)))
    return good


def _leaves(model: type[msgspec.Struct], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    hints = get_type_hints(model, include_extras=True)
    for info in msgspec.structs.fields(model):
        if _is_section(hints[info.name]):
            yield from _leaves(hints[info.name], f"{prefix}{info.name}.")
        else:
            default = info.default if info.default_factory is msgspec.NODEFAULT else info.default_factory()
            yield f"{prefix}{info.name}", hints[info.name], default


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _contradictions(config: Config) -> Faults:
    faults: Faults = []
    if not _SERVER_NAME.fullmatch(config.server_name):
        faults.append(("server_name", "must be a host name or address, with a port if any"))
    url = config.effective_database_url
    if not url.startswith(("sqlite+aiosqlite://", "postgresql+asyncpg://")):
        faults.append(("database_url", "must begin with sqlite+aiosqlite:// or postgresql+asyncpg://"))
    if config.redis_url is not None and not config.redis_url.startswith(("redis://", "rediss://", "unix://")):
        faults.append(("redis_url", "must begin with redis://, rediss:// or unix://"))
    if config.public_base_url is not None and not config.public_base_url.startswith(("https://", "http://")):
        faults.append(("public_base_url", "must begin with https:// or http://"))
    for listener in config.extra_listeners:
        if (listener.certificate is None) != (listener.private_key is None):
            faults.append(("extra_listeners", "a certificate and its private_key are named together"))
    return faults + _federation_contradictions(config)


def _federation_contradictions(config: Config) -> Faults:
    faults: Faults = []
    federation, well_known = config.federation, config.well_known
    for name, address in federation.addresses.items():
        if not _SERVER_NAME.fullmatch(name):
            faults.append(("federation.addresses", f"{name} is no server name"))
        if not _SERVER_NAME.fullmatch(address) or not _has_port(address):
            faults.append(("federation.addresses", f"{address} is no address with a port, like 10.0.0.5:8448"))
    for cidr in federation.allowed_ranges:
        if not _is_range(cidr):
            faults.append(("federation.allowed_ranges", f"{cidr} is no range of addresses, like 10.1.0.0/16"))
    for pattern in federation.no_proxy:
        if "/" in pattern and not _is_range(pattern):
            fault = f"{pattern} is no range of addresses, like 10.1.0.0/16"
            faults.append(("federation.no_proxy", fault))
    if federation.proxy is not None and not _is_proxy(federation.proxy):
        faults.append(("federation.proxy", "must be like http://host:3128 or https://host:3129"))
    for notary in federation.notaries:
        if not _SERVER_NAME.fullmatch(notary):
            faults.append(("federation.notaries", f"{notary} is no server name"))
    if well_known.server is not None and not _SERVER_NAME.fullmatch(well_known.server):
        faults.append(("well_known.server", "must be a host name or address, with a port if any"))
    if any(contact.matrix_id is None and contact.email_address is None for contact in well_known.contacts):
        faults.append(("well_known.contacts", "each needs a matrix_id or an email_address"))
    return faults


def _has_port(address: str) -> bool:
    port = re.search(r":([0-9]{1,5})$", address)
    return port is not None and 0 < int(port[1]) <= 65535


def _is_range(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _is_proxy(url: str) -> bool:
    try:
        return _PROXY.fullmatch(url) is not None and urlsplit(url).port != 0
    except ValueError:  # There is no such port, or address.
        return False
