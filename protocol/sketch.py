"""What a node has, told in about ten bits each: a Bloom filter over names, so that a peer can send what is missing.

One in about 120 missing names looks as if it were there. Every filter has a salt of its own, so the next one errs about
others, and nobody can make a message that is always overlooked.
"""

import hashlib
import struct
from collections.abc import Collection, Iterable

FILTER_BYTES_MAX = 8 * 1024
NAMES_MAX = 6_500  # beyond it a filter of the largest size errs more often than one time in a hundred
SALT_SIZE = 16
NAME_SIZE = 16
_BITS_PER_NAME = 10
_unpack = struct.Struct(">7I4x").unpack
_ONE = ord("1")
_TO_TRUTH = bytes.maketrans(b"01", b"\0\1")


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
    bits = size_bytes * 8
    digits = bytearray(b"0" * bits)  # a bit each, the first one first: thousands of names are told twice a second
    for name in names:
        a, b, c, d, e, f, g = _probe(salt, name)
        digits[a % bits] = digits[b % bits] = digits[c % bits] = digits[d % bits] = _ONE
        digits[e % bits] = digits[f % bits] = digits[g % bits] = _ONE
    digits.reverse()
    return int(digits, 2).to_bytes(size_bytes, "little")


def find_missing(found: bytes, salt: bytes, names: Iterable[bytes]) -> list[bytes]:
    """Of the names those that a filter does not hold, in order; some others look as if it held them.

    >>> find_missing(build_filter(bytes(16), [b"one"]), bytes(16), [b"one", b"two"])
    [b'two']
    """
    if not found:
        return list(names)
    bits = len(found) * 8
    is_set = f"{int.from_bytes(found, 'little'):0{bits}b}"[::-1].encode().translate(_TO_TRUTH)
    missing = []
    for name in names:
        a, b, c, d, e, f, g = _probe(salt, name)
        if not (
            is_set[a % bits]
            and is_set[b % bits]
            and is_set[c % bits]
            and is_set[d % bits]
            and is_set[e % bits]
            and is_set[f % bits]
            and is_set[g % bits]
        ):
            missing.append(name)
    return missing


def _probe(salt: bytes, name: bytes) -> tuple[int, ...]:
    """What chooses the bits of a name: seven big-endian numbers of 4 bytes, of the sha256 of salt and name."""
    return _unpack(hashlib.sha256(salt + name).digest())
