"""Who is who in an attack, where they live, what honest peers say, and what the victim accepts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from p2p.doors import HostLimits
from p2p.gossipsub import TopicParams
from p2p.gossipsub.params import Signature
from p2p.gossipsub.signing import ED25519_HEAD
from protocol.envelope import decode_envelope, open_envelope, seal
from protocol.errors import RemoteError
from protocol.keys import PrivateKey
from protocol.topics import protocol_name, topic_name
from protocol.types import Verdict

CHAIN = bytes(8)
TOPIC = topic_name(CHAIN, "claims")
SIGNED_TOPIC = "/another-network/blocks"
TOPICS = {SIGNED_TOPIC: TopicParams(signature=Signature.STRICT_SIGN)}
PROTOCOLS = tuple(protocol_name(CHAIN, short) for short in ("infer", "blob", "sync", "proof", "txs", "status"))
BLOB = protocol_name(CHAIN, "blob")
BIG = b"a block of a blob"  # a request that is answered with BIG_BYTES
BIG_BYTES = 1024 * 1024

VICTIM_SEED, HONEST_SEED = bytes([1]) * 32, bytes([2]) * 32
HONEST_AUTHOR = ED25519_HEAD + PrivateKey(HONEST_SEED).public
VICTIM_IP, HONEST_IP = "127.0.8.1", "127.0.8.2"
ATTACKER_NET = "127.66.0"  # a /24 that nobody trusts; attacker number n calls from .n
ATTACKERS_MAX = 16
LIMITS = HostLimits(trusted=("127.0.8.0/24",))  # a public node whose operator trusts one network

RATE_PER_S = 50
BODY_BYTES = 256 - 145  # with its envelope about 256 bytes


@dataclass(frozen=True)
class Aim:
    """What an attacker knows: whom to attack, and what an honest peer is about to say."""

    node: bytes
    addresses: tuple[str, ...]
    honest_seqno: int = 0  # the last one the honest peer has used on the signed topic
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def endpoint(self) -> tuple[str, int]:
        parts = self.addresses[0].split("/")
        return parts[2], int(parts[4])


def write_honest(seed: bytes, number: int, body_bytes: int = BODY_BYTES) -> bytes:
    """The honest message of a number: a sealed envelope, the same whoever computes it."""
    return seal(PrivateKey(seed), CHAIN, 0x0102, 1, number, 1_700_000_000_000, number.to_bytes(body_bytes))


def read_honest(seed: bytes, data: bytes) -> int | None:
    """The number of a message, None when someone else has sealed it."""
    envelope = decode_envelope(data, CHAIN, 65_536)
    return int.from_bytes(envelope.body) if envelope.sender == PrivateKey(seed).public else None


def judge_envelope(topic: str, data: bytes, forwarder: bytes) -> Verdict:
    """As a node's core begins: an envelope that is none, or whose signature does not fit, every honest peer refuses."""
    try:
        open_envelope(data, CHAIN, 65_536)
    except RemoteError:
        return Verdict.REJECT
    return Verdict.ACCEPT
