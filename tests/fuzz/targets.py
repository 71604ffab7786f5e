"""What is fuzzed: every decoder a stranger's bytes reach, as functions of bytes that end in their own errors only.

A target ends normally for whatever it is given: errors that are the decoder's own are caught here, by name, and what a
decoder promises beyond that is asserted. Seeds are whole honest inputs, so that a fuzzer begins behind the framing.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from p2p.frames import ANSWER, ASK, REFUSAL, TELL, BadFrame, Frames, write_frame
from p2p.gossipsub import (
    Author,
    GossipParams,
    Heartbeat,
    PeerUp,
    Received,
    Resumed,
    Router,
    SendControl,
    SendMessage,
    Signature,
    Subscribe,
    TopicParams,
)
from p2p.gossipsub.events import Continue
from p2p.gossipsub.wire import (
    Framer,
    Message,
    Prune,
    read_slice,
    wrap_control,
    write_graft,
    write_idontwant,
    write_ihave,
    write_iwant,
    write_message,
    write_prune,
    write_subscription,
)
from p2p.noise_records import BadRecord, Opener, Sealer
from p2p.protobuf import MalformedPacket, write_varint
from p2p.reach import Dialled, DialMe
from p2p.yamux import Yamux
from p2p.yamux_words import ACK, DATA, FIN, GO_AWAY, HEADER, PING, RST, SYN, WINDOW_UPDATE, YamuxLimits, YamuxViolation
from p2p.yamux_words import Data as StreamData
from protocol.codec import decode, encode
from protocol.envelope import decode_envelope, open_message
from protocol.errors import RemoteError
from protocol.keys import PrivateKey
from protocol.proofs.receipt_file import decode_receipt_file
from protocol.registry import all_messages
from protocol.tensor import decode_tensors, verify_tensor
from protocol.types import Verdict
from roles.engine.admission import verify_model
from roles.engine.errors import ModelRefused
from tests.fuzz.restarts import make_restart_seeds, read_restarts
from tests.make_vectors import CHAIN, build_vectors
from tests.support.from_types import find_all_types, spell
from tests.support.onnx_bytes import crashing, doubled, huge_constant, many_products, unary

SIZE_MAX = 3 * 1024 * 1024
TOPIC, SIGNED = "/rolemesh/00/claims/1", "signed"
KEY = TOPIC.encode()
PEERS = [bytes([number]) * 32 for number in range(1, 4)]


@dataclass(frozen=True)
class Target:
    """A function of bytes, honest inputs for it, and how many of ten million inputs it gets."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    inputs: int
    bytes_max: int = 4_096


# Gossip


def read_rpc(data: bytes) -> None:
    """A stream of packets, however it is cut, and whatever parts each packet is read in."""
    cut = data[0] if data else 0
    framer, whole = Framer(), Framer()
    try:
        expected = whole.feed(data[1:])
    except MalformedPacket:
        expected = []
    packets: list[bytes] = []
    try:
        for at in range(1, len(data), cut + 1):
            packets += framer.feed(data[at : at + cut + 1])
    except MalformedPacket:
        expected = packets
    assert packets == expected
    for packet in packets:
        parts = _read_in_parts(packet, 1 + cut % 7)
        assert parts is None or parts == _read_in_parts(packet, 1 << 20)


def _read_in_parts(packet: bytes, fields: int) -> list[Any] | None:
    found: list[Any] = [[], [], []]
    at: int | None = 0
    try:
        while at is not None:
            part = read_slice(packet, at, fields, 1 << 20, {})
            found[0] += part.subscriptions
            found[1] += part.messages
            found[2] += part.controls
            assert part.next_at is None or part.next_at > at
            at = part.next_at
    except MalformedPacket:
        return None
    return found


PARAMS = GossipParams(
    seen_max=8, cache_bytes_max=2_000, topics_per_peer_max=4, slice_messages=3, peer_exchange=True,
    idontwant_bytes_min=4, opportunistic_graft_ticks=1,
)  # fmt: skip


def _judge(topic: str, data: bytes, forwarder: bytes) -> Verdict | None:
    return (*Verdict, None)[data[0] % 4] if data else Verdict.ACCEPT


def route(data: bytes) -> None:
    """Packets of three peers, as a router takes them in, with heartbeats between."""
    router = Router(PARAMS, random.Random(7), Author(PEERS[0], lambda message: bytes(64), 1))
    router.handle(Subscribe(TOPIC, _judge), 0)
    router.handle(Subscribe(SIGNED, _judge, TopicParams(signature=Signature.STRICT_SIGN)), 0)
    for number, peer in enumerate(PEERS):
        router.handle(PeerUp(peer, number == 0, "", number == 1), 0)
        router.handle(Received(peer, write_subscription(True, KEY)), 0)
    at, now_ms = 0, 1
    while at + 2 < len(data):
        who, size = data[at], int.from_bytes(data[at + 1 : at + 3], "big")
        packet, at = data[at + 3 : at + 3 + size], at + 3 + size
        now_ms += who * 20
        _hand_over(router, Received(PEERS[who % 3], packet), now_ms)
        if who & 4:
            _check_effects(router.handle(Heartbeat(), now_ms))
    sizes = router.get_sizes()
    assert sizes["seen"] <= PARAMS.seen_max
    assert sizes["cache_bytes"] <= PARAMS.cache_bytes_max
    assert sizes["subscriptions"] <= 3 * PARAMS.topics_per_peer_max


def _hand_over(router: Router, event: Received, now_ms: int) -> None:
    effects = router.handle(event, now_ms)
    for _ in range(len(event.packet) + 1):
        _check_effects(effects)
        if not effects or not isinstance(effects[-1], Continue):
            return
        effects = router.handle(Resumed(event.peer), now_ms)
    raise AssertionError("a packet is worked off for ever")


def _check_effects(effects: list[Any]) -> None:
    """What we say to others can be read."""
    for effect in effects:
        if isinstance(effect, SendMessage):
            assert len(read_slice(effect.packet, 0, 9, 1 << 20, {}).messages) == 1
        elif isinstance(effect, SendControl):
            assert len(read_slice(wrap_control(effect.body), 0, 9, 1 << 20, {}).controls) == 1


def make_packets() -> list[bytes]:
    """One RPC of each kind, and one with everything."""
    ids = [bytes([number]) * 20 for number in range(3)]
    key = PrivateKey(bytes(32))
    signed = Author(key.public, key.sign, 1).write(SIGNED.encode(), b"hello")
    packets = [
        write_subscription(True, KEY),
        write_subscription(False, b"other"),
        write_message(Message(KEY, b"hello")) + write_message(Message(KEY, b"1")) + write_message(Message(KEY, b"2")),
        write_message(signed),
        wrap_control(write_ihave(KEY, ids)),
        wrap_control(write_iwant(ids) + write_idontwant(ids)),
        wrap_control(write_graft(KEY) + write_prune(Prune(KEY, 60, ((bytes(38), b"record"),)))),
    ]
    return [*packets, b"".join(packets)]


def make_rpc_seeds() -> list[bytes]:
    framed = [write_varint(len(packet)) + packet for packet in make_packets()]
    return [b"\x00" + each for each in framed] + [b"\x05" + b"".join(framed)]


def make_router_seeds() -> list[bytes]:
    parts = [bytes((number % 8,)) + len(each).to_bytes(2, "big") + each for number, each in enumerate(make_packets())]
    return [*parts, b"".join(parts), b"".join(reversed(parts))]


# The transport


def run_yamux(data: bytes) -> None:
    """A session whose first byte says which side it is and how input is cut; events are answered as a driver does."""
    first = data[0] if data else 0
    limits = YamuxLimits(unread_bytes_max=4_096, out_bytes_max=8_192)
    session = Yamux(bool(first & 1), limits)
    if first & 2:
        session.open()
    cut = (first >> 2) + 1
    sent = bytearray()
    try:
        for at in range(1, len(data), cut * 13):
            for number, event in enumerate(session.receive(data[at : at + cut * 13])):
                if isinstance(event, StreamData) and (number + first) % 3:
                    session.consume(event.stream_id, min(len(event.data), 1) if first & 8 else 0)
                    session.send(event.stream_id, event.data)
                if first & 16 and number % 5 == 4 and session.stream_ids():
                    session.finish(session.stream_ids()[0])
            assert session.unread_bytes <= limits.unread_bytes_max
            sent += session.bytes_to_send()
    except YamuxViolation:
        assert session.is_over
        assert session.receive(data) == []
    sent += session.bytes_to_send()
    _check_frames(sent)
    assert len(session.stream_ids()) <= limits.streams_inbound_max + 1


def _check_frames(wire: bytes) -> None:
    at = 0
    while at < len(wire):
        version, kind, _, _, length = HEADER.unpack_from(wire, at)
        assert version == 0
        assert kind <= GO_AWAY
        at += HEADER.size + (length if kind == DATA else 0)
    assert at == len(wire)


def make_yamux_seeds() -> list[bytes]:
    def frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
        return HEADER.pack(0, kind, flags, stream_id, length) + body

    talk = [
        frame(DATA, SYN, 1, 5, b"hello"),
        frame(WINDOW_UPDATE, SYN, 3, 0) + frame(DATA, 0, 3, 3, b"abc") + frame(DATA, FIN, 3, 1, b"x"),
        frame(WINDOW_UPDATE, 0, 1, 70_000) + frame(WINDOW_UPDATE, RST, 1, 0),
        frame(PING, SYN, 0, 7) + frame(PING, ACK, 0, 9),
        frame(GO_AWAY, 0, 0, 0),
    ]
    return [bytes((first,)) + b"".join(talk) for first in (0, 8, 16, 28, 255)] + [
        b"\x03" + frame(WINDOW_UPDATE, ACK, 1, 4) + frame(DATA, 0, 1, 3, b"abc") + frame(DATA, FIN, 1, 0),
        *(b"\x00" + each for each in talk),
    ]


def open_records(data: bytes) -> None:
    """A script of records: honest, damaged or raw, cut anywhere. Nothing but what was sealed is ever opened."""
    sealer, opener = Sealer(bytes(32)), Opener(bytes(32))
    at, honest, opened, is_honest = 0, b"", b"", True
    try:
        while at + 2 < len(data):
            kind, size, where = data[at : at + 3]
            piece, at = data[at + 3 : at + 3 + size], at + 3 + size
            if kind == 0xFE:
                piece = (piece * 300)[:70_000]  # more than one record holds
            wire = sealer.seal(piece) if kind & 3 else piece
            if kind & 3 == 1 and wire:
                position = where % len(wire)
                wire = wire[:position] + bytes((wire[position] ^ (1 + where % 255),)) + wire[position + 1 :]
            is_honest = is_honest and (kind & 3 > 1 or not wire)
            honest += piece if is_honest else b""
            step = max(where + 1, len(wire) // 20)
            for start in range(0, len(wire), step):
                opened += b"".join(opener.receive(wire[start : start + step]))
    except BadRecord:
        assert not is_honest
    assert opened == honest[: len(opened)]
    assert not is_honest or opened == honest


def make_record_seeds() -> list[bytes]:
    return [
        b"\x02\x05\xffhello" * 3,
        b"\x02\x03\x00abc\x01\x04\x05abcd",
        b"\x00\x04\x00\x00\x02zz",
        b"\xfe\x20\x09" + bytes(32),
    ]


# Requests


def read_frames(data: bytes) -> None:
    """The frames of a stream, whole and in pieces, are the same, and the same as those they were written from."""
    cut = (data[0] if data else 0) + 1
    whole, pieces = _take_frames([data[1:]]), _take_frames([data[at : at + cut] for at in range(1, len(data), cut)])
    assert whole == pieces
    if whole is not None:
        wire = b"".join(write_frame(*frame) for frame in whole)
        assert data[1:].startswith(wire)


def _take_frames(chunks: list[bytes]) -> list[Any] | None:
    frames, found = Frames(), []
    try:
        for chunk in chunks:
            frames.feed(chunk)
            while (frame := frames.take()) is not None:
                found.append(frame)
    except BadFrame:
        return None
    return found


def make_frame_seeds() -> list[bytes]:
    frames = [write_frame(ASK, 1, b"question"), write_frame(ANSWER, 2**32 - 1, b""), write_frame(REFUSAL, 0, b"busy")]
    frames.append(write_frame(TELL, 0, b"word"))
    return [b"\x00" + frames[0], b"\x03" + b"".join(frames), b"\xff" + b"".join(frames * 3)]


# Messages


@cache
def get_types() -> tuple[type, ...]:
    """Every type that is decoded from bytes of others; the first two bytes of an input choose one."""
    types = [*(kind.type for kind in all_messages()), *find_all_types(), DialMe, Dialled]
    return tuple(dict.fromkeys(types))


def decode_value(data: bytes) -> None:
    """What is decoded is written back as it came."""
    cls = get_types()[int.from_bytes(data[:2], "big") % len(get_types())]
    try:
        value = decode(cls, data[2:])
    except RemoteError:
        return
    assert encode(value) == data[2:]


def make_value_seeds() -> list[bytes]:
    vectors = build_vectors()
    numbers = {spell(cls): number for number, cls in enumerate(get_types())}
    by_kind = {f"0x{kind.kind:04x}": spell(kind.type) for kind in all_messages()}
    values = [(by_kind[vector["kind"]], vector["body"]) for vector in vectors["messages.json"]]
    values += [(vector["type"], vector["bytes"]) for vector in vectors["objects.json"]]
    return [numbers[name].to_bytes(2, "big") + bytes.fromhex(wire) for name, wire in values]


def read_envelope(data: bytes) -> None:
    """Envelopes, then whatever they hold. A fuzzer cannot sign: a message is read behind a broken signature as well."""
    try:
        envelope = decode_envelope(data, CHAIN, SIZE_MAX)
        assert encode(envelope) == data
        open_message(data, CHAIN, SIZE_MAX)
    except RemoteError:
        return


def read_files(data: bytes) -> None:
    """Tensors, and receipts that people hand to `rolemesh verify`."""
    for read in (_read_tensors, decode_receipt_file):
        try:
            read(data)
        except RemoteError:
            continue


def _read_tensors(data: bytes) -> None:
    for tensor in decode_tensors(data):
        verify_tensor(tensor)


def make_envelope_seeds() -> list[bytes]:
    return [bytes.fromhex(vector["envelope"]) for vector in build_vectors()["messages.json"]]


def make_file_seeds() -> list[bytes]:
    vectors = build_vectors()["objects.json"]
    return [
        bytes.fromhex(vector["bytes"])
        for vector in vectors
        if "Tensor" in vector["type"] or "Receipt" in vector["type"]
    ]


# Models


def read_model_file(data: bytes) -> None:
    """A stranger's model, as it is looked at before onnxruntime sees it."""
    with suppress(ModelRefused):
        verify_model(data)


def make_model_seeds() -> list[bytes]:
    return [unary("Relu"), many_products(3, 10, is_constant=True), doubled(4), huge_constant(4), crashing()]


TARGETS = {
    "rpc": Target(read_rpc, make_rpc_seeds, 1_500_000, 1_024),
    "router": Target(route, make_router_seeds, 300_000, 2_048),
    "yamux": Target(run_yamux, make_yamux_seeds, 2_000_000, 1_024),
    "records": Target(open_records, make_record_seeds, 500_000, 512),
    "frames": Target(read_frames, make_frame_seeds, 1_000_000, 1_024),
    "values": Target(decode_value, make_value_seeds, 2_400_000),
    "envelopes": Target(read_envelope, make_envelope_seeds, 1_200_000),
    "files": Target(read_files, make_file_seeds, 900_000),
    "models": Target(read_model_file, make_model_seeds, 100_000, 8_192),
    "restarts": Target(read_restarts, make_restart_seeds, 100_000, 8_192),
}
