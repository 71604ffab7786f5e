"""Seals what a node sends and opens what it receives.

Gossip is opened once, when the network asks for a verdict, and handed over when it is delivered. Order of work on
anything received: size, decode, kind, time, replay, signature, content.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from p2p.net import GOSSIP_BYTES_MAX, STREAM_BYTES_MAX
from protocol.bare import unwrap
from protocol.check import check_message
from protocol.codec import decode
from protocol.envelope import (
    Envelope,
    compute_signed_part,
    decode_body,
    decode_envelope,
    seal_message,
    verify_envelope,
)
from protocol.errors import BadSignature, RemoteError, UnexpectedKind
from protocol.keys import Signer
from protocol.ledger.state import State
from protocol.registry import Carrier, find_protocol, find_topic, get_message
from protocol.replay import ReplayWindow
from protocol.sketch import compute_name
from protocol.types import Unproven, Verdict

CLOCK_SKEW_MS_MAX = 30_000
OPENED_MAX = 1_024  # accepted messages that wait for their delivery


@dataclass(frozen=True)
class Opened:
    """A message out of its envelope, sealed at `sealed_ms` by the word of its sender. `name` is for filters."""

    sender: bytes
    message: Any
    sealed_ms: int
    name: bytes


class Mailbox:
    """One node's envelopes. `boot` counts the node's starts, so that sequence numbers may begin again."""

    def __init__(self, signer: Signer, chain: bytes, boot: int) -> None:
        self._signer = signer
        self._chain = chain
        self._boot = boot
        self._seq = 0
        self._replay = ReplayWindow()
        self._opened: OrderedDict[tuple[str, bytes], Opened] = OrderedDict()

    def seal(self, message: Any, now_ms: int) -> bytes:
        """The message in a new envelope of ours."""
        self._seq += 1
        return seal_message(self._signer, self._chain, message, self._boot, self._seq, now_ms)

    def open_from(self, peer: bytes, protocol: str, wire: bytes) -> Any:
        """A message that came down a stream of this protocol. It must be the peer's own.

        On a bare protocol it has no envelope. Raises RemoteError. Noise has authenticated the peer, so a replay could
        only be its own doing.
        """
        carrier = find_protocol(protocol)
        if carrier is not None and carrier.is_bare:
            bare = unwrap(wire, self._chain, STREAM_BYTES_MAX)
            _verify_carried(carrier, bare.kind)
            return decode(get_message(bare.kind), bare.body)
        envelope = decode_envelope(wire, self._chain, STREAM_BYTES_MAX)
        if envelope.sender != peer:
            raise BadSignature("the envelope's sender is not the peer on this stream")
        _verify_carried(carrier, envelope.kind)
        verify_envelope(envelope, wire)
        return decode_body(envelope)

    def check(self, topic: str, wire: bytes, get_state: Callable[[], State], now_ms: int) -> Verdict | Unproven:
        """What gossip should do with this message, or the signature it hangs on. Accepted, it is kept until `take`.

        `get_state` is asked for the ledger once the signature is verified.
        """
        try:
            envelope = self._read(topic, wire)
        except RemoteError as error:
            return error.verdict
        if abs(envelope.time_ms - now_ms) > CLOCK_SKEW_MS_MAX:
            return Verdict.IGNORE
        conclude = partial(self._conclude, topic, wire, envelope, get_state, now_ms)
        return Unproven(envelope.sender, compute_signed_part(envelope, wire), envelope.signature, conclude)

    def _conclude(
        self, topic: str, wire: bytes, envelope: Envelope, get_state: Callable[[], State], now_ms: int, is_signed: bool
    ) -> Verdict:
        if not is_signed:
            return Verdict.REJECT
        try:
            # Only what is verified may use up a sequence number: a junk-signed copy must not silence this one.
            if not self._replay.is_new(envelope.sender, envelope.boot, envelope.seq):
                return Verdict.IGNORE
            message = decode_body(envelope)
        except RemoteError as error:
            return error.verdict
        verdict, _ = check_message(topic, envelope.sender, message, get_state(), now_ms)
        if verdict is Verdict.ACCEPT:
            self._opened[topic, wire] = _open(topic, envelope, message)
            while len(self._opened) > OPENED_MAX:
                self._opened.popitem(last=False)
        return verdict

    def check_pulled(
        self, topic: str, wire: bytes, state: State, age_ms_max: int, now_ms: int
    ) -> tuple[Verdict, str, Opened | None]:
        """As `check`, for a gossip message that a peer gave us later: at most so old, and opened at once.

        It may have been seen and ignored before: what the ledger did not know then it may know now.
        """
        try:
            envelope = self._read(topic, wire)
            if not -CLOCK_SKEW_MS_MAX <= now_ms - envelope.time_ms < age_ms_max:
                return Verdict.IGNORE, f"sent {envelope.time_ms - now_ms:+d} ms from now", None
            verify_envelope(envelope, wire)
            message = decode_body(envelope)
        except RemoteError as error:
            return error.verdict, str(error), None
        verdict, reason = check_message(topic, envelope.sender, message, state, now_ms)
        if verdict is not Verdict.ACCEPT:
            return verdict, reason, None
        self._replay.is_new(envelope.sender, envelope.boot, envelope.seq)  # a copy by gossip is not taken again
        return verdict, "", _open(topic, envelope, message)

    def take(self, topic: str, wire: bytes) -> Opened | None:
        """A delivery this mailbox accepted; None if it no longer holds it."""
        return self._opened.pop((topic, wire), None)

    def open_own(self, topic: str, wire: bytes) -> Opened:
        """What this node has sealed itself for a topic."""
        envelope = self._read(topic, wire)
        return _open(topic, envelope, decode_body(envelope))

    def read_name(self, topic: str, wire: bytes) -> bytes:
        """The name in filters of a gossip message that is not verified yet. Raises RemoteError."""
        envelope = self._read(topic, wire)
        return compute_name(topic, envelope.sender, envelope.body)

    def _read(self, topic: str, wire: bytes) -> Envelope:
        envelope = decode_envelope(wire, self._chain, GOSSIP_BYTES_MAX)
        _verify_carried(find_topic(topic), envelope.kind)
        return envelope


def _open(topic: str, envelope: Envelope, message: Any) -> Opened:
    name = compute_name(topic, envelope.sender, envelope.body)
    return Opened(envelope.sender, message, envelope.time_ms, name)


def _verify_carried(carrier: Carrier | None, kind: int) -> None:
    if carrier is None or kind not in carrier.kinds:
        raise UnexpectedKind(kind)
