"""Packets: what we write others read, what others write we read, and what is neither ends in one error."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from libp2p.pubsub.pb import rpc_pb2

from p2p.gossipsub import wire
from p2p.gossipsub.wire import Framer, Message, Prune, read_slice
from p2p.protobuf import MalformedPacket, write_varint

names = st.text(max_size=40)
ids = st.lists(st.binary(max_size=60), max_size=8)
optional = st.none() | st.binary(max_size=70)
messages = st.builds(
    Message, names.map(str.encode), st.none() | st.binary(max_size=400), optional, optional, optional, optional
)


def read_all(packet: bytes, fields: int = 10_000, size: int = 1 << 30) -> list[wire.Slice]:
    parts: list[wire.Slice] = []
    at: int | None = 0
    while at is not None:
        parts.append(read_slice(packet, at, fields, size, {}))
        at = parts[-1].next_at
    return parts


def to_pb(message: Message) -> rpc_pb2.Message:
    values = {"from_id": message.from_id, "data": message.data, "seqno": message.seqno}
    values |= {"signature": message.signature, "key": message.key}
    topic = (message.topic or b"").decode()
    return rpc_pb2.Message(topicIDs=[topic], **{name: value for name, value in values.items() if value is not None})


@given(messages)
def test_a_message_is_written_as_libp2p_writes_it(message):
    assert wire.write_message(message) == rpc_pb2.RPC(publish=[to_pb(message)]).SerializeToString()


@given(st.binary(max_size=70_000), names)
def test_an_unsigned_message_is_written_the_same_the_quick_way(data, topic):
    field = wire.write_bytes(4, topic.encode())
    assert wire.write_plain(data, field) == wire.write_message(Message(topic.encode(), data))


@pytest.mark.parametrize("around", [0, 0x80, 0x4000, 0x20_0000])
def test_an_unsigned_message_is_written_the_same_where_its_lengths_get_longer_and_that_is_known_before(around):
    field = wire.write_bytes(4, b"a topic")
    for size in range(max(0, around - 20), around + 20):
        data = bytes(size)
        assert wire.write_plain(data, field) == wire.write_message(Message(b"a topic", data))
        assert wire.count_plain(data, field) == len(wire.write_plain(data, field))


@given(st.lists(messages, max_size=6), st.lists(st.tuples(st.booleans(), names), max_size=6), st.integers(1, 4))
def test_what_libp2p_writes_is_read_in_slices_of_any_size(published, subscriptions, fields):
    rpc = rpc_pb2.RPC(publish=[to_pb(message) for message in published])
    for joins, topic in subscriptions:
        rpc.subscriptions.append(rpc_pb2.RPC.SubOpts(subscribe=joins, topicid=topic))
    parts = read_all(rpc.SerializeToString(), fields)
    assert [message for part in parts for message, _ in part.messages] == published
    expected = [(joins, topic.encode()) for joins, topic in subscriptions]
    assert [sub for part in parts for sub in part.subscriptions] == expected


@given(st.lists(st.tuples(names, st.booleans()), max_size=4), st.lists(names, max_size=4))
def test_libp2p_passes_over_whom_we_choke_and_hears_the_rest(topics, graft):
    ours = b"".join(map(wire.write_graft, [topic.encode() for topic in graft]))
    for topic, is_choked in topics:
        ours += wire.write_choke(topic.encode()) if is_choked else wire.write_unchoke(topic.encode())
    packet = wire.wrap_control(ours)
    (control,) = read_all(packet)[0].controls
    assert control.choke == [(topic.encode(), is_choked) for topic, is_choked in topics]
    assert control.graft == [topic.encode() for topic in graft]
    assert [each.topicID for each in rpc_pb2.RPC.FromString(packet).control.graft] == graft


@given(
    st.lists(st.tuples(names, ids), max_size=4),
    st.lists(ids, max_size=4),
    st.lists(names, max_size=4),
    st.lists(st.tuples(names, st.integers(0, 2**64 - 1), ids), max_size=4),
)
def test_control_messages_agree_with_libp2p_both_ways(ihave, iwant, graft, prune):
    theirs = rpc_pb2.ControlMessage()
    ours = b""
    for topic, keys in ihave:
        theirs.ihave.append(rpc_pb2.ControlIHave(topicID=topic, messageIDs=keys))
        ours += wire.write_ihave(topic.encode(), keys)
    for keys in iwant:
        theirs.iwant.append(rpc_pb2.ControlIWant(messageIDs=keys))
        ours += wire.write_iwant(keys)
    for topic in graft:
        theirs.graft.append(rpc_pb2.ControlGraft(topicID=topic))
        ours += wire.write_graft(topic.encode())
    for topic, backoff, peers in prune:
        infos = [rpc_pb2.PeerInfo(peerID=peer) for peer in peers]
        theirs.prune.append(rpc_pb2.ControlPrune(topicID=topic, backoff=backoff, peers=infos))
        ours += wire.write_prune(Prune(topic.encode(), backoff, tuple((peer, b"") for peer in peers)))
    for keys in iwant:
        theirs.idontwant.append(rpc_pb2.ControlIDontWant(messageIDs=keys))
        ours += wire.write_idontwant(keys)
    rpc = rpc_pb2.RPC()
    rpc.control.CopyFrom(theirs)
    (control,) = read_all(rpc.SerializeToString())[0].controls
    assert control.ihave == [(topic.encode(), keys) for topic, keys in ihave]
    assert control.iwant == control.idontwant == iwant
    assert control.graft == [topic.encode() for topic in graft]
    assert control.prune == [
        Prune(topic.encode(), backoff, tuple((peer, b"") for peer in peers)) for topic, backoff, peers in prune
    ]
    parsed = rpc_pb2.RPC.FromString(wire.wrap_control(ours)).control
    for entry in theirs.prune:
        if not entry.backoff:
            entry.ClearField("backoff")
    assert parsed == theirs


@given(st.booleans(), names)
def test_a_subscription_is_read_by_libp2p(joins, topic):
    rpc = rpc_pb2.RPC.FromString(wire.write_subscription(joins, topic.encode()))
    assert [(sub.subscribe, sub.topicid) for sub in rpc.subscriptions] == [(joins, topic)]


@given(st.binary(max_size=300), st.integers(1, 40))
@example(b"\xff" * 40, 1)
@example(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 1)
@example(b"\x12\x02\x12\x7f" + bytes(200), 1)
def test_any_bytes_are_read_or_refused_and_never_anything_else(packet, fields):
    try:
        parts = read_all(packet, fields)
    except MalformedPacket:
        return
    assert sum(len(part.messages) for part in parts) <= len(packet)


@given(st.binary(min_size=1, max_size=300))
def test_what_libp2p_reads_we_read(packet):
    rpc = rpc_pb2.RPC()
    try:
        rpc.ParseFromString(packet)
    except Exception:
        return
    # Groups, which libp2p passes over and nobody has written for twenty years, are the one thing we refuse more.
    try:
        parts = read_all(packet)
    except MalformedPacket as error:
        reason = str(error)
    else:
        reason = ""
        assert sum(len(part.messages) for part in parts) == len(rpc.publish)
    assert reason == "" or "wire type" in reason or "fields" in reason


# `write_ihave(b"t", [b""] * 400_000)`, without writing one id after the other while tests are collected.
IHAVE_OF_EMPTY_IDS = wire.wrap_control(wire.write_bytes(1, wire.write_bytes(1, b"t") + b"\x12\x00" * 400_000))


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\x12\x00" * 500_000, id="half a million empty messages"),
        pytest.param(wire.wrap_control(b"\x1a\x00" * 500_000), id="half a million empty grafts"),
        pytest.param(IHAVE_OF_EMPTY_IDS, id="half a million empty ids"),
        pytest.param(b"\x10\x00" * 500_000, id="half a million unknown fields"),
    ],
)
def test_a_packet_of_crumbs_is_read_in_bounded_slices(packet):
    part = read_slice(packet, 0, 32, 1 << 18, {})
    assert len(part.messages) <= 32
    assert sum(len(control.graft) for control in part.controls) <= wire.CONTROL_FIELDS_MAX
    assert sum(len(keys) for control in part.controls for _, keys in control.ihave) <= wire.IDS_MAX


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(1, 90), min_size=1, max_size=8))
def test_packets_come_out_of_a_stream_however_it_is_cut(packets, cuts):
    stream = b"".join(write_varint(len(packet)) + packet for packet in packets)
    framer = Framer()
    found: list[bytes] = []
    at = i = 0
    while at < len(stream):
        size = cuts[i % len(cuts)]
        found += framer.feed(stream[at : at + size])
        at, i = at + size, i + 1
    assert found == packets
    assert len(framer) == 0


@pytest.mark.parametrize("head", [write_varint(wire.RPC_BYTES_MAX + 1), b"\x80\x80\x80\x80", write_varint(2**40)])
def test_a_length_beyond_the_bound_is_refused_before_anything_is_kept(head):
    with pytest.raises(MalformedPacket):
        Framer().feed(head)
