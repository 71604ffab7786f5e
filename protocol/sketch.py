"""What a node has, told in about ten bits each: a Bloom filter over names, so that a peer can send what is missing.

One in about 120 missing names looks as if it were there. Every filter has a salt of its own, so the next one errs about
others, and nobody can make a message that is always overlooked.
"""

import hashlib
import struct
from collections.abc import Collection

FILTER_BYTES_MAX = 8 * 1024
NAMES_MAX = 6_500  # beyond it a filter of the largest size errs more often than one time in a hundred
SALT_SIZE = 16
NAME_SIZE = 16
_BITS_PER_NAME = 10
_NUMBERS = struct.Struct(">7I")


def compute_name(topic: str, sender: bytes, body: bytes) -> bytes:
    """What a filter knows a gossip message by: 16 bytes of the sha256 of sender, body and short topic, one after the
    other. A repetition in a new envelope has the same name.
    """
    return hashlib.sha256(sender + body + topic.encode()).digest()[:NAME_SIZE]


def build_filter(salt: bytes, names: Collection[bytes]) -> bytes:
    """A filter that holds these names, as long as their number wants it; empty for none.

    >>> build_filter(bytes(16), [b"one", b"two"]).hex()
    'd47929'
    """
    if not names:
        return b""
    size_bytes = min((len(names) * _BITS_PER_NAME + 7) // 8, FILTER_BYTES_MAX)
    found = bytearray(size_bytes)
    bits = size_bytes * 8
    for name in names:
        for number in _probe(salt, name):
            bit = number % bits
            found[bit >> 3] |= 1 << (bit & 7)
    return bytes(found)


def is_in_filter(found: bytes, salt: bytes, name: bytes) -> bool:
    """Whether a filter holds a name, or looks as if it did.

    >>> is_in_filter(build_filter(bytes(16), [b"one"]), bytes(16), b"one"), is_in_filter(b"", bytes(16), b"one")
    (True, False)
    """
    if not found:
        return False
    bits = len(found) * 8
    for number in _probe(salt, name):
        bit = number % bits
        if not found[bit >> 3] >> (bit & 7) & 1:
            return False
    return True


def _probe(salt: bytes, name: bytes) -> tuple[int, ...]:
    """What chooses the bits of a name: seven big-endian numbers of 4 bytes, of the sha256 of salt and name."""
    return _NUMBERS.unpack_from(hashlib.sha256(salt + name).digest())
