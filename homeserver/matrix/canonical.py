"""Canonical JSON (appendices, "Canonical JSON").

``canonical_json(value) -> bytes``
    The canonical JSON of a Python value made of dict, list, tuple, str, int, bool and None.

``check_canonical(raw) -> None``
    Accepts JSON text only if room versions 6 and later let it into an event: no floats, exponents, negative
    zero, integers outside ±(2^53 - 1), lone surrogates, and no nesting deeper than 100. White space and the
    order of keys do not matter.

``canonicalize(raw, *, strict=True) -> bytes``
    JSON text in, canonical JSON text out. With ``strict=False``, for room versions 1 to 5, any number passes
    and keeps its text, but that ``-0`` becomes ``0`` and ``1e10`` becomes ``10000000000``, as in the examples of
    the specification. Of duplicate keys the last one wins.

``count_values(raw) -> int``
    How many values are in JSON text, without making any: they take many times the memory of the text.

``items(raw, most) -> list[bytes] | None``
    The texts of the items of a JSON array, None if there are more than that.

``sha256_base64(data) -> str``
    SHA-256 in unpadded base64.

All of them but the counting raise :class:`CanonicalJsonError`, a ValueError that says what is wrong and where.
"""

from homeserver._rust.canonical import (
    canonical_json,
    canonicalize,
    check_canonical,
    count_values,
    items,
    sha256_base64,
)
from homeserver._rust.errors import CanonicalJsonError

__all__ = [
    "CanonicalJsonError",
    "canonical_json",
    "canonicalize",
    "check_canonical",
    "count_values",
    "items",
    "sha256_base64",
]
