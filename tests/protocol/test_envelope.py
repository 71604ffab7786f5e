"""Envelopes: what is refused, by which verdict, and what is let through."""

from dataclasses import dataclass
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.envelope import (
    OVERHEAD_MAX,
    VERSION,
    Envelope,
    compute_envelope_id,
    decode_body,
    decode_envelope,
    open_envelope,
    open_message,
    seal,
    seal_message,
    verify_envelope,
)
from protocol.errors import (
    BadSignature,
    LocalError,
    MalformedMessage,
    RemoteError,
    UnexpectedKind,
    UnknownKind,
    UnknownVersion,
    WrongChain,
)
from protocol.keys import PrivateKey
from protocol.registry import message, temporary_registrations
from protocol.types import INT_MAX, Name, Verdict, Whole

CHAIN = b"chain\0\0\1"
KEY = PrivateKey.from_seed(bytes(32))
SIZE_MAX = 65_536
KIND = 0x9001

wholes = st.integers(0, INT_MAX)


@dataclass(frozen=True)
class Hello:
    number: Whole
    text: Name


@pytest.fixture(autouse=True)
def hello_kind() -> Any:
    with temporary_registrations():
        message(KIND, "greetings.hello")(Hello)
        yield


def make_wire(**changes: Any) -> bytes:
    fields = {"chain": CHAIN, "kind": KIND, "boot": 3, "seq": 300, "time_ms": 1_700_000_000_000, "body": b"body"}
    return seal(KEY, **{**fields, **changes})


@given(st.integers(0, 0xFFFF), wholes, wholes, wholes, st.binary(max_size=300))
def test_what_is_sealed_opens(kind: int, boot: int, seq: int, time_ms: int, body: bytes) -> None:
    wire = seal(KEY, CHAIN, kind, boot, seq, time_ms, body)

    envelope = open_envelope(wire, CHAIN, SIZE_MAX)

    assert (envelope.version, envelope.chain, envelope.sender) == (VERSION, CHAIN, KEY.public)
    assert (envelope.kind, envelope.boot, envelope.seq, envelope.time_ms) == (kind, boot, seq, time_ms)
    assert envelope.body == body
    assert len(wire) <= len(body) + OVERHEAD_MAX


@given(wholes, st.text(max_size=10))
def test_a_message_arrives_as_it_was_sent(number: int, text: str) -> None:
    wire = seal_message(KEY, CHAIN, Hello(number, text), boot=1, seq=2, time_ms=3)

    envelope, opened = open_message(wire, CHAIN, SIZE_MAX, kinds={KIND})

    assert opened == Hello(number, text) == decode_body(envelope)
    assert envelope.kind == KIND


def test_every_changed_bit_is_refused() -> None:
    wire = make_wire()
    verdicts = {Verdict.REJECT: 0, Verdict.IGNORE: 0}
    for position in range(len(wire)):
        for bit in range(8):
            changed = bytearray(wire)
            changed[position] ^= 1 << bit
            with pytest.raises(RemoteError) as caught:
                open_envelope(bytes(changed), CHAIN, SIZE_MAX)
            verdicts[caught.value.verdict] += 1
    # Only another version (seven bits of it) or chain (eight bytes) may be honest.
    assert verdicts[Verdict.IGNORE] == 7 + 8 * 8


@given(st.integers(0, 200), st.binary(min_size=1, max_size=5))
def test_bytes_added_or_lost_are_refused(position: int, extra: bytes) -> None:
    wire = make_wire()
    for changed in (wire[:position] + extra + wire[position:], wire[:position], wire[position + 1 :], wire + extra):
        if changed != wire:
            with pytest.raises(RemoteError):
                open_envelope(changed, CHAIN, SIZE_MAX)


@pytest.mark.parametrize("field", range(9))
def test_every_changed_field_is_refused(field: int) -> None:
    raw = list(msgpack.unpackb(make_wire()))
    raw[field] = raw[field] + 1 if isinstance(raw[field], int) else bytes(len(raw[field]))

    with pytest.raises(RemoteError):
        open_envelope(msgpack.packb(raw), CHAIN, SIZE_MAX)


def test_another_spelling_is_refused_although_its_signature_holds() -> None:
    raw = msgpack.unpackb(make_wire())
    wide = b"\x99" + b"".join(b"\xcf" + item.to_bytes(8) if item == 300 else msgpack.packb(item) for item in raw)

    assert msgpack.unpackb(wide) == raw
    with pytest.raises(MalformedMessage, match="canonical"):
        open_envelope(wide, CHAIN, SIZE_MAX)


def test_the_size_is_checked_before_anything_else() -> None:
    wire = make_wire(body=bytes(1000))

    assert open_envelope(wire, CHAIN, len(wire)).body == bytes(1000)
    for junk in (wire, bytes(5000), b"\x99\x02" + bytes(5000)):
        with pytest.raises(MalformedMessage, match="at most 999 allowed"):
            open_envelope(junk, CHAIN, 999)


def test_what_honest_peers_may_send_is_ignored_and_the_rest_rejected() -> None:
    unknown_kind = make_wire(kind=0x9002)
    later = b"\x95\x02" + bytes(10)
    bad = make_wire()[:-1] + b"\0"

    ignored: list[tuple[bytes, type[RemoteError]]] = [
        (later, UnknownVersion),
        (unknown_kind, UnknownKind),
        (make_wire(chain=bytes(8)), WrongChain),
    ]
    rejected: list[tuple[bytes, type[RemoteError]]] = [
        (bad, BadSignature),
        (make_wire(), MalformedMessage),
        (b"\x99\x01", MalformedMessage),
    ]
    for wire, error in ignored:
        with pytest.raises(error) as caught:
            open_message(wire, CHAIN, SIZE_MAX)
        assert caught.value.verdict is Verdict.IGNORE
    for wire, error in rejected:
        with pytest.raises(error) as caught:
            open_message(wire, CHAIN, SIZE_MAX)
        assert caught.value.verdict is Verdict.REJECT
    with pytest.raises(UnexpectedKind) as unexpected:
        open_message(make_wire(), CHAIN, SIZE_MAX, kinds={0x0101})
    assert unexpected.value.verdict is Verdict.REJECT


def test_decoding_comes_before_verifying_so_that_repeats_cost_little() -> None:
    forged = make_wire()[:-1] + b"\0"

    envelope = decode_envelope(forged, CHAIN, SIZE_MAX)

    assert envelope.sender == KEY.public
    with pytest.raises(BadSignature):
        verify_envelope(envelope, forged)


def test_a_copy_with_another_signature_has_the_same_id() -> None:
    envelope = open_envelope(make_wire(), CHAIN, SIZE_MAX)
    forged = decode_envelope(make_wire()[:-1] + b"\0", CHAIN, SIZE_MAX)
    other = open_envelope(make_wire(seq=301), CHAIN, SIZE_MAX)

    assert compute_envelope_id(envelope) == compute_envelope_id(forged)
    assert compute_envelope_id(envelope) != compute_envelope_id(other)


def test_a_signature_holds_for_one_kind() -> None:
    envelope = open_envelope(make_wire(), CHAIN, SIZE_MAX)
    raw = list(msgpack.unpackb(make_wire()))
    raw[2] = KIND + 1

    moved = Envelope(*raw)
    with pytest.raises(BadSignature):
        verify_envelope(moved, msgpack.packb(raw))
    assert compute_envelope_id(moved) != compute_envelope_id(envelope)


def test_what_breaks_a_bound_is_not_sealed() -> None:
    for wrong in ({"chain": b"short"}, {"kind": 0x1_0000}, {"seq": -1}, {"boot": 2**63}, {"body": bytes(2**22)}):
        with pytest.raises(LocalError):
            make_wire(**wrong)
