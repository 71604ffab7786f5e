"""The parts of the gossip pump that need no network: packets, outboxes, seen ids, standings."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_uvarint

from p2p import packets
from p2p.host import parse_address
from p2p.standing import FAULT, HALF_LIFE_S, PEERS_MAX, REFUSED_AT, Standings
from tests.p2p.loopback import run


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 50), max_size=40))
def test_packets_come_out_as_they_went_in_however_the_bytes_arrive(sent: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(encode_uvarint(len(packet)) + packet for packet in sent)
    buffer = bytearray()
    out: list[bytes] = []
    for size in [*cuts, len(wire)]:
        buffer += wire[:size]
        wire = wire[size:]
        out += packets.split_packets(buffer)
    assert out == sent
    assert buffer == b""


@given(st.lists(st.integers(0x80, 0xFF), min_size=4, max_size=4).map(bytes))
def test_a_length_without_end_is_refused_at_its_fourth_byte(head: bytes) -> None:
    with pytest.raises(ValueError, match="four bytes"):
        list(packets.split_packets(bytearray(head)))


@given(st.lists(st.tuples(st.binary(max_size=20), st.booleans()), min_size=1, max_size=200))
def test_what_is_pushed_is_taken_merged_and_control_first(items: list[tuple[bytes, bool]]) -> None:
    async def main() -> list[rpc_pb2.RPC]:
        outbox = packets.Outbox()
        for data, is_control in items:
            topic = "control" if is_control else "message"
            rpc = rpc_pb2.RPC(publish=[rpc_pb2.Message(data=data, topicIDs=[topic])])
            assert outbox.push(rpc.SerializeToString(), is_control)
        taken = []
        while outbox.control or outbox.messages:
            (packet,) = packets.split_packets(bytearray(await outbox.take()))
            taken.append(rpc_pb2.RPC.FromString(packet))
        assert outbox.size == 0
        return taken

    taken = run(main)
    messages = [(message.data, message.topicIDs[0]) for rpc in taken for message in rpc.publish]
    assert messages == [(data, "control") for data, is_control in items if is_control] + [
        (data, "message") for data, is_control in items if not is_control
    ]
    assert all(len(rpc.publish) <= packets.WRITE_FRAMES_MAX for rpc in taken)


def test_an_outbox_is_bounded_by_count_and_by_bytes() -> None:
    async def main() -> None:
        outbox = packets.Outbox()
        assert all(outbox.push(b"x", False) for _ in range(packets.OUT_FRAMES_MAX))
        assert not outbox.push(b"x", True)
        large = packets.Outbox()
        assert large.push(bytes(packets.OUT_BYTES_MAX), False)
        assert not large.push(b"x", False)

    run(main)


def test_seen_ids_are_bounded_by_count_and_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "SEEN_MAX", 10)

    async def main() -> None:
        seen = packets.Seen()
        assert seen.add(b"a")
        assert not seen.add(b"a")
        for i in range(20):
            seen.add(b"%d" % i)
        assert len(seen._until) <= 11
        assert not seen.has(b"a")
        seen.add(b"b")
        await trio.sleep(packets.SEEN_S + 1)
        assert seen.add(b"b")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@given(st.text(max_size=20), st.binary(max_size=20), st.text(max_size=20), st.binary(max_size=20))
def test_messages_share_an_id_only_when_they_are_the_same(t1: str, d1: bytes, t2: str, d2: bytes) -> None:
    if "\0" in t1 or "\0" in t2:
        return
    same = packets.compute_message_id(t1, d1) == packets.compute_message_id(t2, d2)
    assert same == ((t1, d1) == (t2, d2))


def test_faults_add_up_fade_and_end_in_refusal_for_a_while() -> None:
    now = [0.0]
    standings = Standings(lambda: now[0])
    peer = bytes(32)
    needed = int(REFUSED_AT / FAULT)
    assert [standings.blame(peer) for _ in range(needed)] == [False] * (needed - 1) + [True]
    assert standings.is_refused(peer)
    now[0] += HALF_LIFE_S
    assert not standings.is_refused(peer)
    assert standings.get_faults(peer) == pytest.approx(REFUSED_AT / 2)
    for i in range(2 * PEERS_MAX):
        standings.blame(i.to_bytes(32, "big"), 1.0)
    assert len(standings._faults) <= PEERS_MAX


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_none(text: str) -> None:
    assert parse_address(text) is None or text.startswith("/ip")


def test_addresses_that_can_be_dialled() -> None:
    assert parse_address("/ip6/::1/tcp/65535") == ("::1", 65_535)
    assert parse_address("/ip4/10.0.0.1/tcp/1/p2p/12D3KooW") == ("10.0.0.1", 1)
    for text in ("/ip4/10.0.0.1/tcp/0", "/ip4/10.0.0.1/tcp/65536", "/ip4/10.0.0.1/tcp/1/ws", "/ip4/x/tcp/1", "/"):
        assert parse_address(text) is None
