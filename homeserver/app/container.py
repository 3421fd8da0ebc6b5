"""Every long-lived object, built part by part in the order of this file and closed in reverse."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from homeserver.app.parts.foundation import Foundation, open_foundation
from homeserver.app.parts.graph import RoomGraph, build_graph
from homeserver.app.parts.live import Live, build_live
from homeserver.app.parts.outside import Outside, open_outside
from homeserver.app.parts.people import People, build_people
from homeserver.app.parts.rooms import Rooms, build_rooms
from homeserver.app.parts.servers import Servers, build_servers
from homeserver.app.parts.work import list_works
from homeserver.config.model import Config
from homeserver.consumers.loop import running
from homeserver.kit import crash
from homeserver.kit.clock import Clock
from homeserver.kit.metrics import Metrics
from homeserver.kit.randomness import Randomness
from homeserver.outbound.transport import Transport


@dataclass(frozen=True)
class Container(Servers, Live, Rooms, RoomGraph, Outside, People, Foundation):
    """All parts as one: what handlers may ask for, by type."""


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
        foundation = await open_foundation(config, clock, randomness, metrics, stack)
        people = build_people(foundation, stack)
        outside = await open_outside(foundation, transport, stack)
        graph = build_graph(foundation, outside, stack)
        rooms = build_rooms(foundation, outside, graph)
        live = build_live(foundation, people, outside, graph, stack)
        servers = build_servers(foundation, people, outside, graph, rooms, live, stack)
        works = list_works(foundation, people, outside, graph, rooms, live, servers, stack)
        if is_server:
            await stack.enter_async_context(running(works, clock))
        parts = (foundation, people, outside, graph, rooms, live, servers)
        yield Container(**{name: field for part in parts for name, field in vars(part).items()})
