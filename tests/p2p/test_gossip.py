"""Gossip on real sockets, against peers that keep no rule and against libp2p's own router."""

import itertools
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import wraps

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.io.exceptions import IOException

from p2p.doors import HostLimits
from p2p.gossip import MESHSUB, PARAMS, Gossip, get_priority
from p2p.gossipsub import Signature, TopicCounts, TopicParams, compute_message_id
from p2p.gossipsub.signing import ED25519_HEAD
from p2p.gossipsub.wire import (
    Framer,
    Message,
    wrap_control,
    write_graft,
    write_ihave,
    write_iwant,
    write_message,
    write_subscription,
)
from p2p.host import Host, open_host
from p2p.libp2p_net import Libp2pNet, NetOptions, open_libp2p_net
from p2p.net import Delivered, NetEvent
from p2p.outbox import BYTES_MAX, MESSAGES_MAX, Outbox
from p2p.protobuf import write_varint
from p2p.turns import Turns
from protocol.types import Verdict

TOPIC = "/rolemesh/00/claims/1"
KEY = TOPIC.encode()
PATIENCE_S = 15
POLL_S = 0.005


def in_trio(test):
    @wraps(test)
    def run(*args, **kwargs):
        async def main():
            with trio.fail_after(60):
                await test(*args, **kwargs)

        trio.run(main)

    return run


class Node:
    """A net and what it was given."""

    def __init__(self) -> None:
        self.events: list[NetEvent] = []
        self.net: Libp2pNet

    def received(self) -> list[bytes]:
        return [event.data for event in self.events if isinstance(event, Delivered)]


@asynccontextmanager
async def open_nodes(count: int, options: NetOptions | None = None, check=None) -> AsyncIterator[list[Node]]:
    nodes = [Node() for _ in range(count)]
    async with AsyncExitStack() as stack:
        for i, node in enumerate(nodes):
            opened = open_libp2p_net(bytes([i + 1]) * 32, f"127.0.8.{i + 1}", 0, node.events.append, options)
            node.net = await stack.enter_async_context(opened)
            node.net.subscribe(TOPIC, check or (lambda topic, data, forwarder: Verdict.ACCEPT))
        for node in nodes[1:]:
            nodes[0].net.learn(node.net.node, node.net.addresses)
            node.net.learn(nodes[0].net.node, nodes[0].net.addresses)
        for i, node in enumerate(nodes):
            await until(lambda i=i, node=node: len(node.net.subscribers(TOPIC)) == (1 if i else count - 1))
        yield nodes


@asynccontextmanager
async def open_attacker(victim: Libp2pNet) -> AsyncIterator[Host]:
    """A host of a stranger that is connected to the victim."""
    nothing: Callable[..., None] = lambda *args: None  # noqa: E731
    async with (
        open_host(b"\x77" * 32, "127.0.9.1", 0, HostLimits(), nothing, nothing, nothing) as host,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(host.accept_forever)
        assert await host.dial(victim.node, victim.addresses)
        yield host
        nursery.cancel_scope.cancel()


async def until(predicate: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not predicate():
            await trio.sleep(POLL_S)


def frame(fields: bytes) -> bytes:
    return write_varint(len(fields)) + fields


@in_trio
async def test_a_peer_that_is_gone_before_anything_runs_for_it_leaves_nothing_behind():
    async with open_nodes(1) as (node,):
        gossip = node.net._gossip
        serve = gossip.meet(bytes(32))
        gossip.drop(bytes(32))
        await serve()
        assert node.net.gossip_sizes()["peers"] == 0


@in_trio
async def test_a_packet_that_never_becomes_whole_ends_its_stream(monkeypatch):
    monkeypatch.setattr("p2p.inbound.PACKET_BEATS_MAX", 1)
    async with open_nodes(2) as nodes, open_attacker(nodes[0].net) as attacker:
        stream = await attacker.open_stream(nodes[0].net.node, MESHSUB)
        await stream.write(write_varint(1_000) + bytes(999))
        with pytest.raises(IOException):
            await stream.read(1)
        await until(lambda: "heartbeats" in str(nodes[0].net.faults()))
        await prove_alive(nodes)


async def prove_alive(nodes: list[Node], count: int = 50) -> None:
    """Honest traffic arrives whole, whatever happens beside it."""
    before = len(nodes[1].received())
    for i in range(count):
        nodes[0].net.publish(TOPIC, b"honest %d %d" % (before, i), "p")
        await trio.sleep(0)
    await until(lambda: len(nodes[1].received()) >= before + count)


FORGED = Message(KEY, b"x", ED25519_HEAD + bytes(32), bytes(8), bytes(64), b"\x08\x01\x12\x05short")
JUNK = {
    "six bytes of garbage": frame(b"\xff\xff\xff\xff\xff"),
    "an endless length": b"\xff" * 12,
    "a length of a terabyte": write_varint(2**40),
    "a key that is none": frame(write_message(FORGED)),
    "five thousand forged messages in one packet": frame(
        b"".join(write_message(FORGED._replace(data=b"%05d" % i)) for i in range(4_000))
    ),
    "two topics in one message": frame(b"\x12\x06\x22\x01a\x22\x01b"),
    "a flood of grafts": frame(write_subscription(True, KEY) + wrap_control(write_graft(KEY) * 20_000)),
    "subscriptions to ten thousand topics": frame(
        b"".join(write_subscription(True, b"topic %d" % i) for i in range(10_000))
    ),
    "half a million empty messages": frame(b"\x12\x00" * 500_000),
    "an advertisement of twenty thousand ids": frame(
        wrap_control(write_ihave(KEY, [b"%020d" % i for i in range(20_000)]))
    ),
}


@pytest.mark.parametrize("name", JUNK)
@in_trio
async def test_a_stranger_that_sends_junk_again_and_again_costs_us_nothing_but_itself(name):
    async with open_nodes(2) as nodes, open_attacker(nodes[0].net) as attacker:
        for _ in range(5):
            try:
                stream = await attacker.open_stream(nodes[0].net.node, MESHSUB)
                await stream.write(JUNK[name])
            except Exception:
                break  # refused: that is the point
            await prove_alive(nodes, 20)
        await prove_alive(nodes)
        sizes = nodes[0].net.gossip_sizes()
        assert sizes["subscriptions"] <= 2 * PARAMS.topics_per_peer_max
        assert nodes[0].net.counters()[TOPIC]["check_errors"] == 0


@in_trio
async def test_a_stranger_that_keeps_sending_what_everyone_refuses_is_hung_up_on():
    async with open_nodes(2) as nodes, open_attacker(nodes[0].net) as attacker:
        stream = await attacker.open_stream(nodes[0].net.node, MESHSUB)
        for i in range(5):
            await stream.write(frame(write_message(FORGED._replace(data=b"%d" % i))))
        await until(lambda: attacker.node not in nodes[0].net.peers())
        await prove_alive(nodes)


@in_trio
async def test_asking_eight_thousand_times_for_one_message_is_answered_three_times():
    async with open_nodes(2) as nodes, open_attacker(nodes[0].net) as attacker:
        big = random.Random(1).randbytes(60_000)
        nodes[0].net.publish(TOPIC, big, "p")
        stream = await attacker.open_stream(nodes[0].net.node, MESHSUB)
        before = nodes[0].net.counters()[TOPIC]["bytes_sent"]
        await stream.write(frame(wrap_control(write_iwant([compute_message_id(TOPIC, big)] * 8_000))))
        for _ in range(10):
            await stream.write(frame(wrap_control(write_iwant([compute_message_id(TOPIC, big)]))))
        await prove_alive(nodes)
        assert nodes[0].net.counters()[TOPIC]["bytes_sent"] - before < 4 * 61_000


@in_trio
async def test_who_does_not_read_holds_up_nobody_and_what_it_misses_is_counted():
    async with open_nodes(2) as nodes, open_attacker(nodes[0].net) as attacker:
        stream = await attacker.open_stream(nodes[0].net.node, MESHSUB)
        await stream.write(frame(write_subscription(True, KEY)))
        await until(lambda: attacker.node in nodes[0].net.subscribers(TOPIC))
        dice = random.Random(2)
        for i in range(150):
            nodes[0].net.publish(TOPIC, dice.randbytes(60_000), "p")
            await until(lambda i=i: len(nodes[1].received()) > i)
        assert nodes[0].net.counters()[TOPIC]["dropped"] > 0


@in_trio
async def test_a_burst_of_a_thousand_arrives_whole():
    async with open_nodes(2) as nodes:
        for i in range(1_000):
            nodes[0].net.publish(TOPIC, b"%d" % i, "p")
        await until(lambda: len(nodes[1].received()) == 1_000)
        assert sorted(nodes[1].received()) == sorted(b"%d" % i for i in range(1_000))


@in_trio
async def test_a_check_that_fails_loses_its_message_and_not_the_node():
    def check(topic, data, forwarder):
        if data == b"bad":
            raise ZeroDivisionError
        return Verdict.ACCEPT

    async with open_nodes(2, check=check) as nodes:
        nodes[0].net.publish(TOPIC, b"bad", "p")
        nodes[0].net.publish(TOPIC, b"good", "p")
        await until(lambda: nodes[1].received() == [b"good"])
        assert nodes[1].net.counters()[TOPIC]["check_errors"] == 1
        assert nodes[1].net.faults() == ()


@in_trio
async def test_a_peer_that_opens_its_stream_anew_is_heard_and_told_again():
    async with open_nodes(2) as nodes, open_attacker(nodes[0].net) as attacker:
        for i in range(3):
            stream = await attacker.open_stream(nodes[0].net.node, MESHSUB)
            await stream.write(frame(write_subscription(True, KEY) + write_message(Message(KEY, b"%d" % i))))
            await until(lambda i=i: b"%d" % i in nodes[0].received())
            assert attacker.node in nodes[0].net.subscribers(TOPIC)
            await stream.reset()
            await until(lambda: attacker.node not in nodes[0].net.subscribers(TOPIC))


@in_trio
async def test_a_signed_topic_works_between_our_own_nodes():
    options = NetOptions(topics={TOPIC: TopicParams(signature=Signature.STRICT_SIGN)})
    async with open_nodes(3, options) as nodes:
        for i, node in enumerate(nodes):
            node.net.publish(TOPIC, b"%d" % i, "p")
        for i, node in enumerate(nodes):
            await until(lambda i=i, node=node: len(node.received()) == 2)
            assert sorted(node.received()) == sorted(b"%d" % j for j in range(3) if j != i)


# The queue of one peer


def test_the_most_urgent_goes_first_and_the_newest_of_the_least_urgent_is_shed():
    outbox, chatter, votes = Outbox(), TopicCounts(), TopicCounts()
    for i in range(MESSAGES_MAX):
        assert outbox.push((b"c%04d" % i, chatter), 3)
    assert not outbox.push((b"more chatter", chatter), 3)
    assert outbox.push((b"vote", votes), 0)
    assert chatter.dropped == 1
    assert len(outbox) == MESSAGES_MAX
    first = outbox.take_now()
    assert first[3:].startswith(b"votec0000c0001") or b"votec0000" in first[:20]


def test_a_queue_is_bounded_in_bytes_and_gossip_about_messages_is_shed_before_messages():
    outbox, counts = Outbox(), TopicCounts()
    pushed = 0
    while outbox.push((bytes(60_000), counts), 1):
        pushed += 1
    assert pushed == BYTES_MAX // 60_000
    assert not outbox.push_control(b"ihave", is_gossip=True)
    assert outbox.push_control(b"graft", is_gossip=False)
    while len(outbox):
        outbox.take_now()
    assert outbox.push_control(b"ihave", is_gossip=True)


def read_packets(data: bytes) -> list[bytes]:
    framer = Framer()
    packets = framer.feed(data)
    assert not len(framer)
    return packets


@given(
    st.lists(st.integers(1, 300) | st.integers(8_000, 70_000), min_size=1),
    st.lists(st.integers(1, 2_000) | st.just(100_000), min_size=1),
)
def test_a_stream_takes_from_a_queue_in_whatever_portions_and_the_other_side_reads_all_of_it(sizes, rooms):
    outbox, counts = Outbox(), TopicCounts()
    messages = [write_message(Message(KEY, bytes([i % 256]) * size)) for i, size in enumerate(sizes)]
    outbox.push_subscriptions(write_subscription(True, KEY))
    for message in messages:
        outbox.push((message, counts), 1)
    outbox.push_control(write_graft(KEY), is_gossip=False)
    sent = b""
    for room in itertools.cycle(rooms):
        portion = outbox.produce(room)
        assert len(portion) <= room
        if not portion:
            break
        sent += portion
    assert not outbox.is_waiting
    first, *others = read_packets(sent)
    graft = wrap_control(write_graft(KEY))
    assert first.endswith(graft)  # control goes with the first that leaves
    expected = [write_subscription(True, KEY), *messages]
    assert b"".join([first.removesuffix(graft), *others]) == b"".join(expected)


def test_a_queue_stirs_once_until_it_is_looked_after():
    stirs = []
    outbox = Outbox(stirs.append)
    for i in range(10):
        outbox.push((b"%d" % i, TopicCounts()), 1)
    outbox.push_control(b"graft", is_gossip=False)
    assert stirs == [outbox]


def test_whatever_is_pushed_leaves_by_priority_then_age():
    order = ["consensus", "heads", "proofs", "claims", "txs", "infer/0", "oracle/f", "node", "store"]
    outbox, dice = Outbox(), random.Random(4)
    pushed = [(get_priority(f"/rolemesh/00/{name}/1"), i) for i, name in enumerate(order * 5)]
    dice.shuffle(pushed)
    for priority, i in pushed:
        outbox.push((b"<%d>" % i, TopicCounts()), priority)
    left = [int(text) for text in re.findall(rb"<(\d+)>", outbox.produce(10_000))]
    assert left == [i for _, i in sorted(pushed, key=lambda each: each[0])]


def test_topics_have_their_priorities():
    order = [["consensus", "heads", "proofs"], ["claims", "txs"], ["infer/0", "oracle/f"], ["node", "store"]]
    for priority, names in enumerate(order):
        assert {get_priority(f"/rolemesh/00/{name}/1") for name in names} == {priority}
    assert get_priority("") == get_priority("/") == get_priority("another network's") == 3


@in_trio
async def test_a_peer_that_is_gone_before_its_feeder_has_begun_ends_nothing_but_that():
    async def open_stream(node, protocol):
        raise AssertionError("there is nobody to open a stream to")

    nothing = lambda *args: True  # noqa: E731
    gossip = Gossip(open_stream, nothing, nothing, lambda node: False, random.Random(1), Turns())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gossip.meet(b"n" * 32))
        gossip.drop(b"n" * 32)  # within the same turn of the loop
