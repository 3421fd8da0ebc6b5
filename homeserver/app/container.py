"""Every long-lived object, built in the order of this file and closed in reverse."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from homeserver.app import signing_key
from homeserver.config.model import Config
from homeserver.consumers.device_lists import Introductions, Resyncs
from homeserver.consumers.effects import RoomEffects
from homeserver.consumers.federation_sender import FederationSender
from homeserver.consumers.housekeeping import Housekeeping, Purging
from homeserver.consumers.loop import running
from homeserver.consumers.partial_rooms import RoomCompletion
from homeserver.kit import crash
from homeserver.kit.clock import Clock
from homeserver.kit.concurrency import Background
from homeserver.kit.logs import report
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.matrix.server_keys import PublishedKey
from homeserver.outbound.blobs import DiskBlobs
from homeserver.outbound.destinations import Destinations
from homeserver.outbound.ephemeral import Ephemeral
from homeserver.outbound.federation import FederationClient
from homeserver.outbound.http import opened
from homeserver.outbound.keyring import KeyRing
from homeserver.outbound.partners import Partners
from homeserver.outbound.transport import Transport
from homeserver.services.auth.interactive import InteractiveAuth
from homeserver.services.auth.limits import Limits
from homeserver.services.auth.passwords import Passwords
from homeserver.services.auth.servers import ServerAuth
from homeserver.services.auth.sessions import Sessions
from homeserver.services.federation.destinations import DestinationReports
from homeserver.services.federation.device_keys import DeviceKeys
from homeserver.services.federation.device_lists import DeviceListUpdates, RemoteDeviceLists, SigningKeyUpdates
from homeserver.services.federation.early import Early
from homeserver.services.federation.edus import Edus
from homeserver.services.federation.history import History
from homeserver.services.federation.lines import Lines
from homeserver.services.federation.live import PresenceEdus, ReceiptEdus, TypingEdus
from homeserver.services.federation.room_reads import RoomReads
from homeserver.services.federation.server_keys import PublishedKeys
from homeserver.services.federation.to_device import DirectToDevice
from homeserver.services.federation.transactions import Transactions
from homeserver.services.live.counter import LiveCounter
from homeserver.services.live.presence import Presence
from homeserver.services.live.receipts import Receipts
from homeserver.services.live.typing import Typing
from homeserver.services.media.elsewhere import MediaElsewhere
from homeserver.services.media.store import MediaStore
from homeserver.services.media.thumbnails import Thumbnails
from homeserver.services.rooms.arrival import Arrivals
from homeserver.services.rooms.author import Author
from homeserver.services.rooms.backfill import Backfill
from homeserver.services.rooms.checks import Checks
from homeserver.services.rooms.completion import Completion
from homeserver.services.rooms.create import RoomCreation
from homeserver.services.rooms.directories_elsewhere import DirectoriesElsewhere
from homeserver.services.rooms.directory import Directory
from homeserver.services.rooms.gaps import Gaps
from homeserver.services.rooms.glance import Glances
from homeserver.services.rooms.graph import Graph
from homeserver.services.rooms.hierarchy import Hierarchy
from homeserver.services.rooms.hot import HotRooms
from homeserver.services.rooms.inbox import Inbox
from homeserver.services.rooms.invitations import Invitations
from homeserver.services.rooms.members import Members
from homeserver.services.rooms.merge import Merger
from homeserver.services.rooms.nearest import NearestEvents
from homeserver.services.rooms.outliers import Outliers
from homeserver.services.rooms.partial import PartialRooms
from homeserver.services.rooms.past import Past
from homeserver.services.rooms.persist import EventWriter
from homeserver.services.rooms.policy import PolicyServers
from homeserver.services.rooms.purge import Purge
from homeserver.services.rooms.read import RoomReader
from homeserver.services.rooms.relations import Relations
from homeserver.services.rooms.remote_members import RemoteMembers
from homeserver.services.rooms.replay import Replay
from homeserver.services.rooms.resident import Resident
from homeserver.services.rooms.resolution import Resolver
from homeserver.services.rooms.send import Sender
from homeserver.services.rooms.server_acl import ServerAcls
from homeserver.services.rooms.signatures import Signatures
from homeserver.services.rooms.spaces_elsewhere import SpacesElsewhere
from homeserver.services.rooms.state import StateTrees
from homeserver.services.rooms.state_events import StateEvents
from homeserver.services.rooms.states_elsewhere import StatesElsewhere
from homeserver.services.rooms.stripped import Stripper
from homeserver.services.rooms.succession import Succession
from homeserver.services.rooms.summaries import Summaries
from homeserver.services.rooms.third_party import ThirdPartyInvites
from homeserver.services.rooms.upgrade import RoomUpgrade
from homeserver.services.sync.notifications import Notifications
from homeserver.services.sync.unread import Unread
from homeserver.services.sync.v2 import Sync
from homeserver.services.users.account_data import UserData
from homeserver.services.users.accounts import Accounts
from homeserver.services.users.confirmation import Confirmation
from homeserver.services.users.devices import Devices
from homeserver.services.users.e2e_keys import E2eKeys
from homeserver.services.users.key_backups import KeyBackups
from homeserver.services.users.profiles import Profiles
from homeserver.services.users.profiles_elsewhere import ProfilesElsewhere
from homeserver.services.users.push_rules import Pushers, PushRules
from homeserver.services.users.registration import Registration
from homeserver.services.users.to_device import ToDevice
from homeserver.storage import stream_rows
from homeserver.storage.engine import Database
from homeserver.streams.notifier import Notifier


@dataclass(frozen=True)
class Container:
    """What handlers may ask for, by type."""

    config: Config
    clock: Clock
    randomness: Randomness
    metrics: Metrics
    database: Database
    notifier: Notifier
    destinations: Destinations
    ephemeral: Ephemeral
    destination_reports: DestinationReports
    federation: FederationClient
    server_auth: ServerAuth
    published_keys: PublishedKeys
    transactions: Transactions
    sessions: Sessions
    passwords: Passwords
    limits: Limits
    interactive: InteractiveAuth
    devices: Devices
    accounts: Accounts
    confirmation: Confirmation
    registration: Registration
    profiles: Profiles
    user_data: UserData
    push_rules: PushRules
    pushers: Pushers
    notifications: Notifications
    e2e_keys: E2eKeys
    device_keys: DeviceKeys
    device_lists: RemoteDeviceLists
    to_device: ToDevice
    key_backups: KeyBackups
    server_acls: ServerAcls
    resident: Resident
    invitations: Invitations
    third_party: ThirdPartyInvites
    inbox: Inbox
    arrivals: Arrivals
    completion: Completion
    sender: Sender
    members: Members
    room_creation: RoomCreation
    room_reader: RoomReader
    nearest_events: NearestEvents
    room_upgrade: RoomUpgrade
    directory: Directory
    relations: Relations
    hierarchy: Hierarchy
    glances: Glances
    room_reads: RoomReads
    history: History
    state_events: StateEvents
    purge: Purge
    receipts: Receipts
    typing: Typing
    presence: Presence
    media: MediaStore
    sync: Sync


@asynccontextmanager
async def build(
    config: Config,
    *,
    clock: Clock,
    randomness: Randomness,
    metrics: Metrics,
    is_server: bool = True,
    transport: Transport | None = None,
) -> AsyncIterator[Container]:
    """Open everything; what was opened is closed when the block ends.

    Only a server does the work that follows what has happened; a command, which may run beside one, does its task.
    """
    async with AsyncExitStack() as stack:
        crash.arm(config.crash_point)
        notifier = Notifier()
        database = await stack.enter_async_context(
            Database.open(config.effective_database_url, on_commit=notifier.changed)
        )
        notifier.begin(await database.read(stream_rows.current))
        background = Background(report)
        stack.push_async_callback(background.close)
        lifetime_s = config.limits.access_token_lifetime_s
        sessions = Sessions(database, clock, randomness, lifetime_ms=lifetime_s * 1000 if lifetime_s else None)
        passwords = Passwords(config.passwords)
        stack.callback(passwords.close)
        devices = Devices(database, sessions)
        limits = Limits(clock, enabled=config.limits.rate_limits, of_servers=config.limits.server_rates)
        accounts = Accounts(
            database,
            clock,
            randomness,
            sessions,
            passwords,
            devices,
            limits,
            config.server_name,
            shortest_password=config.passwords.minimum_length,
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
        push_rules = PushRules(database)

        author = Author(config.server_name, signing_key.ensure(config, randomness), clock, randomness)
        trees = StateTrees()
        hot = HotRooms(database, trees, config.room_memory_mib << 20)
        writer = EventWriter(database, hot, trees, background, config.server_name)
        resolver = Resolver(database, trees)
        graph = Graph(database, trees, hot, resolver)
        if transport is None:
            transport = await stack.enter_async_context(opened(config.federation, clock, randomness))
        destinations, ephemeral = Destinations(clock, randomness), Ephemeral()
        client = FederationClient(transport, destinations, config.server_name, author.key)
        notaries = config.federation.notaries
        old_keys = {one.key_id: PublishedKey(one.public_key, one.expired_ts) for one in config.federation.old_keys}
        keys = KeyRing(database, clock, client, config.server_name, author.key, old=old_keys, notaries=notaries)
        stack.push_async_callback(keys.close)
        server_acls = ServerAcls(hot)
        room_reads = RoomReads(database, trees, server_acls)
        policies = PolicyServers(client, clock, config.server_name)
        merger = Merger(clock, hot, writer, graph, author, policies, config.server_name)
        signatures = Signatures(keys)
        checks, outliers = Checks(signatures), Outliers(database, clock, writer)
        inbox = Inbox(database, clock, hot, writer, graph, merger, checks, outliers, policies)
        replay = Replay(database, trees, hot, resolver, config.server_name)
        completion = Completion(
            database,
            clock,
            metrics,
            client,
            hot,
            trees,
            inbox,
            checks,
            outliers,
            replay,
            config.server_name,
        )
        states_elsewhere = StatesElsewhere(database, trees, inbox, client)
        gaps = Gaps(
            database,
            clock,
            hot,
            inbox,
            states_elsewhere,
            server_acls,
            client,
            metrics,
            background,
            config.server_name,
        )
        stack.push_async_callback(gaps.close)
        past = Past(database, clock, trees, hot, writer, graph, inbox)
        backfill = Backfill(
            database,
            clock,
            hot,
            inbox,
            states_elsewhere,
            past,
            server_acls,
            client,
            metrics,
            background,
            config.server_name,
        )
        stack.push_async_callback(backfill.close)
        lines = Lines(database, clock, hot, inbox, gaps, metrics, background)
        stack.push_async_callback(lines.close)
        arrivals = Arrivals(database, clock, hot, trees, writer, inbox, checks, outliers, config.server_name)
        sender = Sender(database, clock, hot, writer, merger, author, policies)
        stripper = Stripper(signatures)
        remote_members = RemoteMembers(database, clock, client, author, signatures, arrivals, stripper)
        succession = Succession(database, trees)
        known_in_part = PartialRooms(database, notifier)
        members = Members(database, sender, inbox, gaps, succession, remote_members, known_in_part, config.server_name)
        room_creation = RoomCreation(clock, sender, members, author, default_version=config.default_room_version)
        room_reader = RoomReader(database, clock, trees, known_in_part, backfill)
        summaries = Summaries(trees)
        spaces_elsewhere = SpacesElsewhere(client, clock)
        elsewhere = DirectoriesElsewhere(client)
        directory = Directory(database, clock, sender, summaries, elsewhere, config.server_name)

        blobs = DiskBlobs(Path(config.data_dir) / "media")
        thumbnails = Thumbnails(blobs)
        stack.callback(thumbnails.close)
        elsewhere_media = MediaElsewhere(
            database,
            clock,
            randomness,
            client,
            blobs,
            thumbnails,
            largest=config.limits.upload_bytes,
            room=config.limits.remote_media_bytes,
        )
        media = MediaStore(
            database,
            clock,
            randomness,
            notifier,
            blobs,
            thumbnails,
            elsewhere_media,
            server_name=config.server_name,
            largest=config.limits.upload_bytes,
        )

        unread = Unread(trees, push_rules)
        counter = LiveCounter(clock)
        typing = Typing(database, clock, notifier, counter, hot, ephemeral, config.server_name)
        stack.callback(typing.close)
        presence = Presence(
            database, clock, notifier, counter, ephemeral, config.server_name, is_enabled=config.presence
        )
        receipts = Receipts(database, clock, hot, ephemeral, config.server_name)
        e2e_keys = E2eKeys(database, limits, config.server_name)
        device_lists = RemoteDeviceLists(database, clock, client, config.server_name)
        edus = Edus(
            {
                "m.typing": TypingEdus(typing, hot, server_acls),
                "m.presence": PresenceEdus(presence),
                "m.receipt": ReceiptEdus(receipts, hot, server_acls),
                "m.direct_to_device": DirectToDevice(database, clock, config.server_name),
                "m.device_list_update": DeviceListUpdates(device_lists),
                "m.signing_key_update": SigningKeyUpdates(device_lists),
            },
            metrics,
        )
        early = Early(hot, arrivals, lines, background, config.server_name)
        stack.push_async_callback(early.close)
        invitations = Invitations(database, sender, members, server_acls, signatures, stripper, author)
        transactions = Transactions(
            database,
            clock,
            hot,
            inbox,
            invitations,
            server_acls,
            lines,
            early,
            edus,
            metrics,
            background,
            config.server_name,
        )
        sync = Sync(database, clock, notifier, trees, counter, typing, presence, push_rules, unread, hot)
        housekeeping = Housekeeping(database, clock, presence, sessions)
        stack.push_async_callback(housekeeping.tidy)
        stack.callback(notifier.wake_all)
        effects = RoomEffects(database, notifier, members, presence)
        purge = Purge(
            database, clock, trees, hot, resolver, sender, server_name=config.server_name, holder=randomness.letters(16)
        )
        purging = Purging(notifier, purge)
        federation_sender = FederationSender(
            database, clock, randomness, notifier, client, destinations, ephemeral, metrics, config.server_name
        )
        rest = RoomCompletion(notifier, completion, gaps)
        if is_server:
            works = [
                housekeeping.run,
                effects.run,
                purging.run,
                lines.run,
                rest.run,
                Introductions(database, notifier).run,
                Resyncs(clock, notifier, device_lists).run,
            ]
            if config.federation.enabled:
                works.append(federation_sender.run)
            await stack.enter_async_context(running(works, clock))
        yield Container(
            config=config,
            clock=clock,
            randomness=randomness,
            metrics=metrics,
            database=database,
            notifier=notifier,
            destinations=destinations,
            ephemeral=ephemeral,
            destination_reports=DestinationReports(database, clock, destinations),
            federation=client,
            server_auth=ServerAuth(keys, destinations, clock, Partners(config.federation), config.server_name),
            published_keys=PublishedKeys(database, clock, keys, config.server_name, author.key, old_keys),
            transactions=transactions,
            sessions=sessions,
            passwords=passwords,
            limits=limits,
            interactive=interactive,
            devices=devices,
            accounts=accounts,
            confirmation=Confirmation(interactive, accounts),
            registration=registration,
            profiles=Profiles(database, ProfilesElsewhere(client, clock), config.server_name),
            user_data=UserData(database),
            push_rules=push_rules,
            pushers=Pushers(database, clock),
            notifications=Notifications(database, clock, trees, push_rules, unread),
            e2e_keys=e2e_keys,
            device_keys=DeviceKeys(database, e2e_keys, device_lists, client, config.server_name),
            device_lists=device_lists,
            to_device=ToDevice(database, clock, randomness, config.server_name),
            key_backups=KeyBackups(database),
            third_party=ThirdPartyInvites(
                database, sender, members, server_acls, client, transport, config.server_name
            ),
            invitations=invitations,
            resident=Resident(database, sender, inbox, server_acls, signatures, author, trees),
            server_acls=server_acls,
            inbox=inbox,
            arrivals=arrivals,
            completion=completion,
            sender=sender,
            members=members,
            room_creation=room_creation,
            room_reader=room_reader,
            nearest_events=NearestEvents(database, room_reader, backfill, client),
            relations=Relations(database, room_reader),
            room_upgrade=RoomUpgrade(database, sender, members, room_creation, author),
            directory=directory,
            glances=Glances(database, summaries, spaces_elsewhere, config.server_name),
            hierarchy=Hierarchy(database, trees, summaries, spaces_elsewhere, config.server_name),
            room_reads=room_reads,
            history=History(database, trees, room_reads),
            state_events=StateEvents(sender, members, directory),
            purge=purge,
            receipts=receipts,
            typing=typing,
            presence=presence,
            media=media,
            sync=sync,
        )
