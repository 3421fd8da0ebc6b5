"""Accounts, and what belongs to one."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from homeserver.app.parts.foundation import Foundation
from homeserver.services.auth.interactive import InteractiveAuth
from homeserver.services.auth.limits import Limits
from homeserver.services.auth.passwords import Passwords
from homeserver.services.auth.sessions import Sessions
from homeserver.services.users.account_data import UserData
from homeserver.services.users.accounts import Accounts
from homeserver.services.users.confirmation import Confirmation
from homeserver.services.users.devices import Devices
from homeserver.services.users.e2e_keys import E2eKeys
from homeserver.services.users.key_backups import KeyBackups
from homeserver.services.users.push_rules import Pushers, PushRules
from homeserver.services.users.registration import Registration


@dataclass(frozen=True)
class People:
    """Logging in, accounts, devices, and the data and keys of each."""

    sessions: Sessions
    passwords: Passwords
    limits: Limits
    interactive: InteractiveAuth
    devices: Devices
    accounts: Accounts
    confirmation: Confirmation
    registration: Registration
    user_data: UserData
    push_rules: PushRules
    pushers: Pushers
    e2e_keys: E2eKeys
    key_backups: KeyBackups


def build_people(foundation: Foundation, stack: AsyncExitStack) -> People:
    """Build the part."""
    config, database = foundation.config, foundation.database
    clock, randomness = foundation.clock, foundation.randomness
    name = config.server_name
    lifetime_s = config.limits.access_token_lifetime_s
    sessions = Sessions(database, clock, randomness, lifetime_ms=lifetime_s * 1000 if lifetime_s else None)
    passwords = Passwords(config.passwords)
    stack.callback(passwords.close)
    devices = Devices(database, sessions)
    limits = Limits(clock, enabled=config.limits.rate_limits, of_servers=config.limits.server_rates)
    shortest = config.passwords.minimum_length
    accounts = Accounts(
        database, clock, randomness, sessions, passwords, devices, limits, name, shortest_password=shortest
    )
    interactive = InteractiveAuth(database, clock, randomness)
    registration = Registration(
        database,
        clock,
        randomness,
        interactive,
        accounts,
        sessions,
        config.registration,
        is_open=config.registration_is_open,
    )
    return People(
        sessions=sessions,
        passwords=passwords,
        limits=limits,
        interactive=interactive,
        devices=devices,
        accounts=accounts,
        confirmation=Confirmation(interactive, accounts),
        registration=registration,
        user_data=UserData(database),
        push_rules=PushRules(database),
        pushers=Pushers(database, clock),
        e2e_keys=E2eKeys(database, limits, name),
        key_backups=KeyBackups(database),
    )
