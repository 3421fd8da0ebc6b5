"""Keys for end-to-end encryption (client-server API, End-to-End Encryption). The server sees public keys only."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from homeserver.errors import BadJson, Forbidden, InvalidParam, MissingParam, NotFound, UnknownToken, Unsupported
from homeserver.matrix import identifiers
from homeserver.matrix.canonical import CanonicalJsonError, canonical_json
from homeserver.matrix.identifiers import DeviceId, UserId, domain_of
from homeserver.matrix.signing import SignatureError, verify_json
from homeserver.services.auth.limits import Limits
from homeserver.services.auth.sessions import Requester
from homeserver.services.users import device_lists, shown_keys
from homeserver.services.users.shown_keys import NOBODY
from homeserver.storage import devices, e2e_keys, events, members, stream_rows, users
from homeserver.storage.e2e_keys import CrossSigningKey, Device, OneTimeKey, Signature
from homeserver.storage.engine import Database, ReadTx, WriteTx
from homeserver.storage.members import Member
from homeserver.storage.tables import chunks

_USAGES = ("master", "self_signing", "user_signing")
_MOST_KEYS = 1000
_MOST_USERS = 5000
"""Another server may ask for the keys of so many users at once; all their devices are in one answer."""
_MOST_CLAIMED = 10_000
"""So many keys are claimed at once: one for each device of a large room."""
_CLAIMED_AT_ONCE = 1000
"""So many in one transaction: nobody else writes meanwhile."""

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Changes:
    """Whose keys to look at again, and whose no longer matter."""

    changed: set[UserId]
    left: set[UserId]


class _MemberContent(msgspec.Struct):
    membership: Any = None


class _MemberEvent(msgspec.Struct):
    content: _MemberContent


class E2eKeys:
    """The public keys of this server's users."""

    def __init__(self, database: Database, limits: Limits, server_name: str) -> None:
        self._database = database
        self._limits = limits
        self._server_name = server_name

    async def upload(
        self, who: Requester, identity: Json | None, one_time: Mapping[str, Any], fallback: Mapping[str, Any]
    ) -> dict[str, int]:
        """Keep keys of the caller's device; the number of one-time keys by algorithm."""
        if identity is not None:
            check_identity(who.user_id, who.device_id, identity)
            before = await self._database.read(e2e_keys.find_device, (who.user_id, who.device_id))
            if before is not None and before != _identity_text(identity):
                # No client does that often, and perhaps thousands of servers are told.
                self._limits.take("devices", who.user_id)
        keys, fallbacks = _one_time(one_time), _fallbacks(fallback)
        return await self._database.write(_upload, (who.user_id, who.device_id), identity, keys, fallbacks)

    async def query(self, requester: UserId, wanted: Mapping[UserId, Sequence[DeviceId]]) -> Json:
        """The keys of local users and their devices, as `/keys/query` tells them; an empty list stands for all devices.

        Other servers' users are left out.
        """
        return await self._database.snapshot(_query, requester, self._local(wanted))

    async def query_for_server(self, wanted: Mapping[UserId, Sequence[DeviceId]]) -> Json:
        """The same for another server, which is shown what anybody may see."""
        if len(wanted) > _MOST_USERS:
            raise InvalidParam(f"The keys of at most {_MOST_USERS} users can be asked for at once.")
        return await self.query(NOBODY, wanted)

    async def list_for_server(self, user_id: UserId) -> Json:
        """All devices of a local user, as `/user/devices` tells them. Raises `NotFound`."""
        if domain_of(user_id) != self._server_name:
            raise NotFound("The user is not one of this server.")
        return await self._database.snapshot(_list_for_server, user_id)

    async def claim(self, wanted: Mapping[UserId, Mapping[DeviceId, str]]) -> dict[str, dict[str, Json]]:
        """Take a one-time key for each device and algorithm of local users, or its fallback key; by user and device."""
        asked = {
            (user_id, device_id, algorithm)
            for user_id, of_devices in self._local(wanted).items()
            for device_id, algorithm in of_devices.items()
        }
        taken: dict[Device, list[OneTimeKey]] = {}
        for part in chunks(sorted(asked), _CLAIMED_AT_ONCE):
            taken |= await self._database.write(_claim, set(part))
        shown: dict[str, dict[str, Json]] = {}
        for (user_id, device_id), keys in taken.items():
            of_user = shown.setdefault(user_id, {})
            of_user[device_id] = {key.key_id: msgspec.Raw(key.body.encode()) for key in keys}
        return shown

    async def needs_confirmation(self, user_id: UserId, given: Mapping[str, Json]) -> bool:
        """Whether the upload of cross-signing keys replaces what is there, so that the user has to confirm it."""
        keys = cross_signing(user_id, given)
        known = await self._database.read(e2e_keys.find_cross_signing, [user_id])
        return (user_id, "master") in known and bool(_new(keys, known))

    async def upload_cross_signing(self, user_id: UserId, given: Mapping[str, Json], *, confirmed: bool) -> None:
        """Keep cross-signing keys by usage. Raises `M_INVALID_SIGNATURE`, or `M_MISSING_PARAM` without a master key."""
        keys = cross_signing(user_id, given)
        await self._database.write(_upload_cross_signing, user_id, keys, confirmed=confirmed)

    async def upload_signatures(self, who: Requester, given: Mapping[str, Mapping[str, Any]]) -> Json:
        """Keep signatures upon keys, the good ones of them; what was wrong with the others, by user and key."""
        return await self._database.write(_upload_signatures, who.user_id, given)

    async def changes(self, who: Requester, *, after: int, upto: int) -> Changes:
        """Whose keys have changed in (after, upto]."""
        return await self._database.snapshot(list_changes, who.user_id, after=after, upto=upto)

    def _local(self, wanted: Mapping[UserId, T]) -> dict[UserId, T]:
        return {user_id: value for user_id, value in wanted.items() if domain_of(user_id) == self._server_name}


def list_changes(tx: ReadTx, user_id: UserId, *, after: int, upto: int) -> Changes:
    """Whose keys a user has to look at again, and with whom no room is shared any more, since `after`."""
    sharing = set(members.list_sharing(tx, user_id))
    changed = e2e_keys.list_changed(tx, after=after, upto=upto) & (sharing | {user_id})
    own = members.list_of_user_since(tx, user_id, after=after, upto=upto)
    left: set[UserId] = set()
    for member in own:
        others = set(members.list_joined_users(tx, member.room_nid))
        if member.membership == "join":
            changed |= others - {user_id}
        elif member.membership in ("leave", "ban") and _was_joined(tx, member, after):
            left |= others
    joined = [member.room_nid for member in members.list_of_user(tx, user_id, ["join"])]
    for member in members.list_changed(tx, joined, after=after, upto=upto):
        if member.user_id == user_id:
            continue
        if member.membership == "join":
            changed.add(member.user_id)
        elif member.membership in ("leave", "ban"):
            left.add(member.user_id)
    changed, left = ({one for one in some if identifiers.is_compliant(one)} for some in (changed, left))
    return Changes(changed, left - sharing - {user_id})


def _was_joined(tx: ReadTx, member: Member, after: int) -> bool:
    """Whether a user who is not in a room was in it at this position, or later."""
    position: int | None = member.event
    while position is not None:
        row = events.find_many(tx, [position])[position]
        if msgspec.json.decode(row.pdu, type=_MemberEvent).content.membership == "join":
            return True
        position = row.replaces if position > after else None
    return False


def _upload(
    tx: WriteTx, device: Device, identity: Json | None, keys: Sequence[OneTimeKey], fallbacks: Sequence[OneTimeKey]
) -> dict[str, int]:
    users.lock(tx, device[0])
    if not devices.exists(tx, *device):
        raise UnknownToken
    if identity is not None:
        body = _identity_text(identity)
        before = e2e_keys.find_device(tx, device)
        if before != body:
            if before is not None and _core(msgspec.json.decode(before)) != _core(identity):
                # What was signed is no more.
                e2e_keys.remove_signatures(tx, device[0], [device[1]])
            e2e_keys.put_device(tx, device, body)
            device_lists.note_devices(tx, device[0], [device[1]])
    known = e2e_keys.find_one_time(tx, device, [key.key_id for key in keys]) if keys else {}
    for key in keys:
        if key.key_id in known and known[key.key_id] != key.body:
            raise InvalidParam(f"The one-time key {key.key_id} is there already, and is a different one.")
    new = [key for key in keys if key.key_id not in known]
    if new:
        e2e_keys.add_one_time(tx, device, new)
    if fallbacks:
        e2e_keys.put_fallbacks(tx, device, fallbacks)
    if new or fallbacks:
        stream_rows.advance(tx)
        tx.wake([device[0]])
    return {"signed_curve25519": 0, **e2e_keys.count_one_time(tx, device)}


def _query(tx: ReadTx, requester: UserId, wanted: Mapping[UserId, Sequence[DeviceId]]) -> Json:
    published = shown_keys.read(tx, list(wanted), requester=requester)
    shown: dict[str, Json] = {user_id: {} for user_id in users.find_many(tx, wanted)}
    for (user_id, device_id), keys in published.devices.items():
        if not wanted[user_id] or device_id in wanted[user_id]:
            shown[user_id][device_id] = keys
    answer: Json = {"device_keys": shown}
    for (user_id, usage), keys in published.cross_signing.items():
        answer.setdefault(f"{usage}_keys", {})[user_id] = keys
    return answer


def _list_for_server(tx: ReadTx, user_id: UserId) -> Json:
    if users.find(tx, user_id) is None:
        raise NotFound("There is no such user.")
    shown = shown_keys.read(tx, [user_id], requester=NOBODY)
    listed: list[Json] = []
    for (_, device_id), keys in sorted(shown.devices.items()):
        name = keys.pop("unsigned").get("device_display_name")
        named = {} if name is None else {"device_display_name": name}
        listed.append({"device_id": device_id, "keys": keys, **named})
    vouching = {
        f"{usage}_key": shown.cross_signing[user_id, usage]
        for usage in ("master", "self_signing")
        if (user_id, usage) in shown.cross_signing
    }
    return {
        "user_id": user_id,
        "stream_id": e2e_keys.find_stream_id(tx, user_id),
        "devices": listed,
        **vouching,
    }


def _claim(tx: WriteTx, wanted: set[tuple[UserId, DeviceId, str]]) -> dict[Device, list[OneTimeKey]]:
    taken = e2e_keys.take_one_time(tx, wanted)
    got = {(*device, key.algorithm) for device, keys in taken.items() for key in keys}
    missing = wanted - got
    if missing:
        for device, keys in e2e_keys.use_fallbacks(tx, missing).items():
            taken.setdefault(device, []).extend(keys)
    if taken:
        # The devices learn from their next sync how many keys are left.
        stream_rows.advance(tx)
        tx.wake({user_id for user_id, _ in taken})
    return taken


def _upload_cross_signing(tx: WriteTx, user_id: UserId, keys: Sequence[CrossSigningKey], *, confirmed: bool) -> None:
    users.lock(tx, user_id)
    known = e2e_keys.find_cross_signing(tx, [user_id])
    if (user_id, "master") in known and not confirmed:
        if _new(keys, known):
            raise Forbidden("Other cross-signing keys were uploaded in the meantime.")
        return
    given = {key.usage: key for key in keys}
    master = given.get("master") or known.get((user_id, "master"))
    if master is None:
        raise MissingParam("There is no master key that could sign the others.")
    for key in keys:
        if key.usage != "master":
            check_signature(key.body, user_id, master.public_key)
    taken = {device.device_id for device in devices.list_of_users(tx, [user_id])}
    if any(key.public_key in taken for key in keys):
        raise Forbidden("A cross-signing key cannot be named like a device.")
    replaced = [
        known[user_id, key.usage].public_key
        for key in keys
        if (user_id, key.usage) in known and known[user_id, key.usage].public_key != key.public_key
    ]
    if replaced:
        e2e_keys.remove_signatures(tx, user_id, replaced)
        e2e_keys.remove_signatures_with(tx, user_id, replaced)
    if keys:
        e2e_keys.put_cross_signing(tx, keys)
        device_lists.note_cross_signing(tx, user_id)


def _upload_signatures(tx: WriteTx, requester: UserId, given: Mapping[str, Mapping[str, Any]]) -> Json:
    users.lock(tx, requester)
    cross = e2e_keys.find_cross_signing(tx, {*map(UserId, given), requester})
    identities = e2e_keys.find_devices(tx, {requester})
    good: list[Signature] = []
    failures: dict[str, Json] = {}
    for user_id, of_user in given.items():
        for target, signed in of_user.items():
            try:
                found, bad = _good_signatures(requester, UserId(user_id), target, signed, cross, identities)
            except InvalidParam as error:
                failures.setdefault(user_id, {})[target] = {"errcode": "M_INVALID_PARAM", "error": error.message}
                continue
            good += found
            if bad:
                error_text = f"The signature by {min(bad)} is wrong, or not for this key."
                failures.setdefault(user_id, {})[target] = {"errcode": "M_INVALID_SIGNATURE", "error": error_text}
    known = set(e2e_keys.list_signatures(tx, {one.user_id for one in good}, requester=requester)) if good else set()
    good = [signature for signature in good if signature not in known]
    if good:
        e2e_keys.put_signatures(tx, good)
        _note_signatures(tx, requester, {one.target for one in good if one.user_id == requester}, cross)
    return failures


def _note_signatures(
    tx: WriteTx, requester: UserId, own: set[str], cross: Mapping[tuple[UserId, str], CrossSigningKey]
) -> None:
    """There are signatures upon keys of the requester's; what one says of others is for oneself alone."""
    if not own:
        e2e_keys.note_changes(tx, [requester], [])
        return
    named = {key.public_key for (user_id, _), key in cross.items() if user_id == requester}
    if own & named:
        device_lists.note_cross_signing(tx, requester)
    if own - named:
        device_lists.note_devices(tx, requester, [DeviceId(target) for target in sorted(own - named)])


def _good_signatures(
    requester: UserId,
    owner: UserId,
    target: str,
    signed: Any,
    cross: Mapping[tuple[UserId, str], CrossSigningKey],
    identities: Mapping[Device, str],
) -> tuple[list[Signature], list[str]]:
    """The requester's good signatures upon a key, and the ids of the bad ones. Raises unless the key is as stored."""
    if not isinstance(signed, dict):
        raise InvalidParam("A signed key is an object.")
    body, signers = _signable(requester, owner, target, cross, identities)
    if _core(signed) != _core(msgspec.json.decode(body)):
        raise InvalidParam("The key is not the one that this server has.")
    if not _are_signatures(signed.get("signatures")) or not (by_requester := signed["signatures"].get(requester)):
        raise InvalidParam("The key carries no signature of yours.")
    already = (msgspec.json.decode(body).get("signatures") or {}).get(requester, {})
    text = _text({**_core(signed), "signatures": {requester: by_requester}})
    good, bad = [], []
    for key_id, signature in by_requester.items():
        if already.get(key_id) == signature:
            continue
        if key_id in signers and _is_signed(text, requester, signers[key_id], key_id):
            good.append(Signature(owner, target, requester, key_id, signature))
        else:
            bad.append(key_id)
    return good, bad


def _signable(
    requester: UserId,
    owner: UserId,
    target: str,
    cross: Mapping[tuple[UserId, str], CrossSigningKey],
    identities: Mapping[Device, str],
) -> tuple[str, dict[str, str]]:
    """The stored key, and the requester's public keys by id that may sign it."""
    master = cross.get((owner, "master"))
    if owner != requester:
        user_signing = cross.get((requester, "user_signing"))
        if master is None or master.public_key != target or user_signing is None:
            raise InvalidParam("There is no such key that you could sign.")
        return master.body, _named(user_signing.public_key)
    if master is not None and master.public_key == target:
        return master.body, {
            key_id: public_key
            for (_, device_id), body in identities.items()
            for key_id, public_key in msgspec.json.decode(body).get("keys", {}).items()
            if key_id == f"ed25519:{device_id}"
        }
    body = identities.get((owner, DeviceId(target)))
    self_signing = cross.get((owner, "self_signing"))
    if body is None or self_signing is None:
        raise InvalidParam("There is no such key that you could sign.")
    return body, _named(self_signing.public_key)


def _named(public_key: str) -> dict[str, str]:
    return {f"ed25519:{public_key}": public_key}


def count_claims(wanted: Mapping[str, Mapping[str, str]]) -> int:
    """How many keys are claimed, by user and device. Raises `InvalidParam` if they are too many."""
    count = sum(map(len, wanted.values()))
    if count > _MOST_CLAIMED:
        raise InvalidParam(f"At most {_MOST_CLAIMED} keys can be claimed at once.")
    return count


def check_identity(user_id: UserId, device_id: DeviceId, identity: Json) -> None:
    """Raise `InvalidParam` or `BadJson` unless these can be the keys of the device."""
    if identity.get("user_id") != user_id or identity.get("device_id") != device_id:
        raise InvalidParam("The keys are not those of the device that uploads them.")
    keys, algorithms, signatures = (identity.get(name) for name in ("keys", "algorithms", "signatures"))
    if not isinstance(keys, dict) or not all(isinstance(value, str) for value in keys.values()):
        raise BadJson("`keys` of a device are text by id.")
    if not isinstance(algorithms, list) or not all(isinstance(value, str) for value in algorithms):
        raise BadJson("`algorithms` of a device are a list of names.")
    if not _are_signatures(signatures):
        raise BadJson("`signatures` of a device are text by user and key.")


def _are_signatures(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(of_user, dict) and all(isinstance(signature, str) for signature in of_user.values())
        for of_user in value.values()
    )


def cross_signing(user_id: UserId, given: Mapping[str, Json]) -> list[CrossSigningKey]:
    """A user's cross-signing keys, given by usage. Raises `InvalidParam` or `BadJson`."""
    return [
        CrossSigningKey(user_id, usage, _public_key(key, usage, user_id), _text(key)) for usage, key in given.items()
    ]


def _new(keys: Iterable[CrossSigningKey], known: Mapping[tuple[UserId, str], CrossSigningKey]) -> list[CrossSigningKey]:
    """Those of the keys that are not there already; other signatures make no other key."""
    return [
        key
        for key in keys
        if (before := known.get((key.user_id, key.usage))) is None
        or _core(msgspec.json.decode(before.body)) != _core(msgspec.json.decode(key.body))
    ]


def _one_time(given: Mapping[str, Any]) -> list[OneTimeKey]:
    if len(given) > _MOST_KEYS:
        raise InvalidParam(f"At most {_MOST_KEYS} keys can be uploaded at once.")
    for key_id, key in given.items():
        algorithm, colon, name = key_id.partition(":")
        if not algorithm or not colon or not name:
            raise InvalidParam("A one-time key is named by its algorithm, a colon and an id.")
        if not (isinstance(key, str) or (isinstance(key, dict) and isinstance(key.get("key"), str))):
            raise BadJson("A one-time key is text, or an object with `key`.")
    return [OneTimeKey(key_id, _text(key)) for key_id, key in given.items()]


def _fallbacks(given: Mapping[str, Any]) -> list[OneTimeKey]:
    keys = _one_time(given)
    if len({key.algorithm for key in keys}) < len(keys):
        raise InvalidParam("A device has one fallback key of each algorithm.")
    return keys


def _public_key(key: Json, usage: str, user_id: UserId) -> str:
    """The one public key of a cross-signing key."""
    keys, usages = key.get("keys"), key.get("usage")
    if key.get("user_id") != user_id:
        raise InvalidParam("The cross-signing key is not yours.")
    if not isinstance(usages, list) or usage not in usages:
        raise InvalidParam(f"The usage of the key is not {usage}.")
    if not isinstance(keys, dict) or len(keys) != 1:
        raise InvalidParam("A cross-signing key has exactly one public key.")
    [(key_id, public_key)] = keys.items()
    if not _are_signatures(key.get("signatures", {})):
        raise BadJson("`signatures` of a key are text by user and key.")
    if not isinstance(public_key, str) or key_id != f"ed25519:{public_key}":
        raise InvalidParam("A cross-signing key is named by its public part.")
    return public_key


def check_signature(body: str, signer: UserId, public_key: str) -> None:
    """Raise `Unsupported` unless the key is signed by its owner's key."""
    if not _is_signed(body, signer, public_key, f"ed25519:{public_key}"):
        raise Unsupported("M_INVALID_SIGNATURE", "The signature of the key is missing or wrong.")


def _is_signed(body: str, signer: UserId, public_key: str, key_id: str) -> bool:
    try:
        verify_json(body.encode(), signer, key_id, public_key)
    except (SignatureError, CanonicalJsonError):
        return False
    return True


def _identity_text(identity: Json) -> str:
    return _text({key: value for key, value in identity.items() if key != "unsigned"})


def _core(key: Json) -> Json:
    return {name: value for name, value in key.items() if name not in ("signatures", "unsigned")}


def _text(value: Any) -> str:
    try:
        return canonical_json(value).decode()
    except CanonicalJsonError as error:
        raise BadJson(str(error)) from None
