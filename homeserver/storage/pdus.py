"""Events' bytes in the database, compressed.

Most of an event is keys and names that every event has, so a dictionary made of such events (benchmarks/dictionary.py)
halves it. What was stored is read with the dictionary that its first byte names: none of them ever changes.
"""

import threading
from importlib import resources

from sqlalchemy import Dialect, LargeBinary
from sqlalchemy.types import TypeDecorator
from zstandard import (
    FORMAT_ZSTD1_MAGICLESS,
    ZstdCompressionDict,
    ZstdCompressionParameters,
    ZstdCompressor,
    ZstdDecompressor,
    ZstdError,
)

_LEVEL = 3
_FIRST = b"\x01"
_PLAIN = b"{"

_DICTIONARY = ZstdCompressionDict((resources.files(__package__) / "pdus-1.dictionary").read_bytes())
_DICTIONARY.precompute_compress(level=_LEVEL)
_PARAMETERS = ZstdCompressionParameters.from_level(
    _LEVEL, format=FORMAT_ZSTD1_MAGICLESS, write_checksum=0, write_dict_id=0, write_content_size=1
)


class _Codec(threading.local):
    """What compresses for one thread: these objects are not for several at once."""

    def __init__(self) -> None:
        self.compress = ZstdCompressor(dict_data=_DICTIONARY, compression_params=_PARAMETERS).compress
        self.decompress = ZstdDecompressor(dict_data=_DICTIONARY, format=FORMAT_ZSTD1_MAGICLESS).decompress


_codec = _Codec()


def pack(pdu: bytes) -> bytes:
    """The stored form of an event's JSON."""
    return _FIRST + _codec.compress(pdu)


def unpack(stored: bytes) -> bytes:
    """The event's JSON; what is stored as it is begins as every JSON object does."""
    if stored.startswith(_PLAIN):
        return stored
    try:
        return _codec.decompress(memoryview(stored)[1:])
    except ZstdError:
        return stored  # Damaged: whoever parses this event finds out, and the others can be read.


class Pdu(TypeDecorator[bytes]):
    """A column of events' bytes."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        """The stored form."""
        return None if value is None else pack(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        """The event's JSON."""
        return None if value is None else unpack(value)
