"""The signed wrapper of every message: who said it, on which chain, when, and what.

On the wire it is the array `[version, chain, kind, sender, boot, seq, time_ms, body, signature]`. The sender's node key
signs the domain, the kind and the hash of all fields but the signature. The hash of that is the envelope's id, so a
copy with another signature has the same id: remember ids only of what was verified. Decoding is cheap and verifying is
not, so gossip can drop what it has seen between the two.
"""

import hashlib
from collections.abc import Collection
from functools import lru_cache
from typing import Annotated, Any

from protocol.codec import MESSAGE_BYTES_MAX, decode, encode, encode_unsigned
from protocol.errors import BadSignature, MalformedMessage, UnexpectedKind, UnknownVersion, WrongChain
from protocol.fast_dataclass import fast_dataclass
from protocol.keys import Signer, verify
from protocol.registry import KIND_MAX, get_message, kind_of
from protocol.signing import compute_domain_prefix
from protocol.types import AtMost, ChainId, PublicKey, Signature, TimeMs, UpTo, Whole

VERSION = 1
OVERHEAD_MAX = 160  # bytes an envelope adds to its body, at most
_FIELDS = 9
_ARRAY = 0x90  # msgpack's header of an array of up to fifteen items
_UNSIGNED_HEAD = bytes((_ARRAY + _FIELDS - 1,))
_SIGNATURE_WIRE_SIZE = 2 + 64


@fast_dataclass(frozen=True)
class Envelope:
    """One message of one sender. `boot` counts its process starts, `seq` its messages since then.

    `time_ms` is the sender's word and no proof of time.
    """

    version: Annotated[int, UpTo(0x7F)]
    chain: ChainId
    kind: Annotated[int, UpTo(KIND_MAX)]
    sender: PublicKey
    boot: Whole
    seq: Whole
    time_ms: TimeMs
    body: Annotated[bytes, AtMost(MESSAGE_BYTES_MAX - OVERHEAD_MAX)]
    signature: Signature


def seal(signer: Signer, chain: bytes, kind: int, boot: int, seq: int, time_ms: int, body: bytes) -> bytes:
    """The wire bytes of a signed envelope. LocalError when a field breaks its bound."""
    unsigned = encode_unsigned(Envelope(VERSION, chain, kind, signer.public, boot, seq, time_ms, body, bytes(64)))
    signature = signer.sign(_compute_preimage(kind, unsigned))
    return bytes((_ARRAY + _FIELDS,)) + unsigned[1:] + b"\xc4\x40" + signature


def seal_message(signer: Signer, chain: bytes, message: Any, boot: int, seq: int, time_ms: int) -> bytes:
    """The wire bytes of a registered message in a signed envelope."""
    return seal(signer, chain, kind_of(type(message)), boot, seq, time_ms, encode(message))


def decode_envelope(wire: bytes, chain: bytes, size_max: int) -> Envelope:
    """Read an envelope without verifying it; `verify_envelope` must follow before anything believes it.

    Raises MalformedMessage, and UnknownVersion or WrongChain, which are no one's fault.
    """
    if len(wire) > size_max:
        raise MalformedMessage(f"{len(wire)} bytes, at most {size_max} allowed")
    # A later version may look different from the second byte on.
    if len(wire) >= 2 and _ARRAY < wire[0] <= _ARRAY + 0xF and wire[1] <= 0x7F and wire[1] != VERSION:
        raise UnknownVersion(wire[1])
    envelope = decode(Envelope, wire, size_max)
    if envelope.chain != chain:
        raise WrongChain(envelope.chain, chain)
    return envelope


def verify_envelope(envelope: Envelope, wire: bytes) -> None:
    """BadSignature unless its sender signed the envelope. `wire` is what it was decoded from."""
    if not verify(envelope.sender, compute_signed_part(envelope, wire), envelope.signature):
        raise BadSignature(f"envelope {envelope.boot}/{envelope.seq} is not signed by {envelope.sender.hex()}")


def compute_signed_part(envelope: Envelope, wire: bytes) -> bytes:
    """What the signature of an envelope covers. `wire` is what it was decoded from."""
    # Decoding left one spelling, so hashing what came is hashing the canonical array, without building it again.
    return _compute_preimage(envelope.kind, _UNSIGNED_HEAD + wire[1:-_SIGNATURE_WIRE_SIZE])


def open_envelope(wire: bytes, chain: bytes, size_max: int) -> Envelope:
    """Decode and verify: everything about an envelope but its body, its time and whether it is new."""
    envelope = decode_envelope(wire, chain, size_max)
    verify_envelope(envelope, wire)
    return envelope


def open_message(
    wire: bytes, chain: bytes, size_max: int, kinds: Collection[int] | None = None
) -> tuple[Envelope, Any]:
    """Decode and verify an envelope, then decode its message. With `kinds`, only those are let through.

    Raises as `open_envelope` does, UnknownKind for what nobody registered, UnexpectedKind for what is not in `kinds`.
    """
    envelope = decode_envelope(wire, chain, size_max)
    message_type = get_message(envelope.kind)
    if kinds is not None and envelope.kind not in kinds:
        raise UnexpectedKind(envelope.kind)
    verify_envelope(envelope, wire)
    return envelope, decode(message_type, envelope.body)


def decode_body(envelope: Envelope) -> Any:
    """The message of an envelope. Raises UnknownKind or MalformedMessage."""
    return decode(get_message(envelope.kind), envelope.body)


def compute_envelope_id(envelope: Envelope) -> bytes:
    """The hash of what is signed, 32 bytes."""
    return hashlib.sha256(_compute_preimage(envelope.kind, encode_unsigned(envelope))).digest()


def _compute_preimage(kind: int, unsigned: bytes) -> bytes:
    return _compute_prefix(kind) + hashlib.sha256(unsigned).digest()


@lru_cache(256)
def _compute_prefix(kind: int) -> bytes:
    return compute_domain_prefix(f"envelope/{kind:04x}")
