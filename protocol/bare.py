"""A message without an envelope: `[version, chain, kind, body]`, unsigned.

For streams of what shows by itself that it is right: votes and proposals, which carry their own signatures, and blocks,
which fit their names or do not. A signature around them would cost as much as all the rest and show nothing new. Who
sends is known from the stream.
"""

from typing import Annotated, Any

from protocol.codec import MESSAGE_BYTES_MAX, decode, encode
from protocol.envelope import OVERHEAD_MAX, VERSION
from protocol.errors import UnknownVersion, WrongChain
from protocol.fast_dataclass import fast_dataclass
from protocol.registry import KIND_MAX, kind_of
from protocol.types import AtMost, ChainId, UpTo


@fast_dataclass(frozen=True)
class Bare:
    version: Annotated[int, UpTo(0x7F)]
    chain: ChainId
    kind: Annotated[int, UpTo(KIND_MAX)]
    body: Annotated[bytes, AtMost(MESSAGE_BYTES_MAX - OVERHEAD_MAX)]


def wrap(chain: bytes, message: Any) -> bytes:
    """The wire bytes of a registered message."""
    return encode(Bare(VERSION, chain, kind_of(type(message)), encode(message)))


def unwrap(wire: bytes, chain: bytes, size_max: int) -> Bare:
    """Read it back; its body is still to be decoded. MalformedMessage, UnknownVersion or WrongChain."""
    bare = decode(Bare, wire, size_max)
    if bare.version != VERSION:
        raise UnknownVersion(bare.version)
    if bare.chain != chain:
        raise WrongChain(bare.chain, chain)
    return bare
