"""What a stranger can make a node do, in one process, where its inside can be looked at.

The attacks themselves, each by a process against a process and with bars for what they cost, are in `attacks/`.
"""

import inspect
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p.io.exceptions import IOException
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_uvarint, read_varint_prefixed_bytes_limited

from p2p.gossip import MESHSUB, PARAMS
from p2p.gossipsub.signing import compute_message_id
from p2p.host import Host
from p2p.libp2p_net import Libp2pNet, open_libp2p_net
from p2p.net import Asked, Delivered, NetEvent, Unanswered
from p2p.streams import PER_PEER_MAX
from protocol.types import Verdict
from tests.p2p.loopback import run, running_host, until

SUBSCRIPTIONS_KEPT = 256  # topics of one peer a node remembers, and more
TOPIC = "t"
STREAM = "/s/1"
STALL_S_MAX = 0.25  # between two turns of the loop, on a machine that is busy with other things too


class Victim:
    """A node, an honest peer of it, and the longest its loop stood still."""

    def __init__(self, net: Libp2pNet, honest: Libp2pNet, events: list[NetEvent]) -> None:
        self.net = net
        self.honest = honest
        self.events = events
        self.stall_s = 0.0

    async def watch(self) -> None:
        while True:
            start = trio.current_time()
            await trio.sleep(0.001)
            self.stall_s = max(self.stall_s, trio.current_time() - start)

    async def prove_well(self, attacker: Host) -> None:
        """Honest gossip still arrives, and the loop never stood still for long."""
        said = b"honest %d" % len(self.events)
        self.honest.publish(TOPIC, said, "")
        await until(lambda: any(isinstance(event, Delivered) and event.data == said for event in self.events))
        assert self.honest.node in self.net.peers()
        assert self.stall_s < STALL_S_MAX

    async def blames(self, attacker: Host) -> None:
        await until(lambda: any(node == attacker.node for node, _ in self.net.faults()))


def judge(topic: str, data: bytes, forwarder: bytes) -> Verdict:
    return Verdict.REJECT if data.startswith(b"bad") else Verdict.ACCEPT


@asynccontextmanager
async def under_attack() -> AsyncIterator[tuple[Victim, Host]]:
    events: list[NetEvent] = []
    async with (
        open_libp2p_net(bytes([1]) * 32, "127.0.8.1", 0, events.append) as net,
        open_libp2p_net(bytes([2]) * 32, "127.0.8.2", 0, lambda event: None) as honest,
        running_host(3, address="127.1.0.3") as (attacker, _),
        trio.open_nursery() as nursery,
    ):
        for each in (net, honest):
            each.subscribe(TOPIC, judge)
        net.serve(STREAM)
        honest.learn(net.node, net.addresses)
        await until(lambda: net.subscribers(TOPIC) == (honest.node,))
        await until(lambda: honest.subscribers(TOPIC) == (net.node,))
        assert await attacker.dial(net.node, net.addresses)
        victim = Victim(net, honest, events)
        nursery.start_soon(victim.watch)
        yield victim, attacker
        nursery.cancel_scope.cancel()


async def send_raw(attacker: Host, victim: Victim, data: bytes, protocol: str = MESHSUB) -> None:
    """Write bytes as they are; the victim may well have hung up before they are all out."""
    stream = await attacker.open_stream(victim.net.node, protocol)
    try:
        for start in range(0, len(data), 60_000):
            await stream.write(data[start : start + 60_000])
    except IOException:
        return


def prefix(rpc: rpc_pb2.RPC) -> bytes:
    data = rpc.SerializeToString()
    return encode_uvarint(len(data)) + data


def attack(send: Callable[[Victim, Host], Any]) -> None:
    async def main() -> None:
        async with under_attack() as (victim, attacker):
            await send(victim, attacker)
            await victim.prove_well(attacker)

    run(main)


@pytest.mark.parametrize(
    "message",
    [
        rpc_pb2.Message(topicIDs=[TOPIC, "other"], data=b"x"),
        rpc_pb2.Message(data=b"x"),
    ],
    ids=["two topics", "no topic"],
)
def test_a_message_without_exactly_one_topic_is_refused(message: rpc_pb2.Message) -> None:
    async def send(victim: Victim, attacker: Host) -> None:
        await send_raw(attacker, victim, prefix(rpc_pb2.RPC(publish=[message])))
        await victim.blames(attacker)
        assert not any(isinstance(event, Delivered) and event.data == b"x" for event in victim.events)

    attack(send)


def test_a5_asking_again_and_again_for_one_message_gets_it_three_times() -> None:
    stock = inspect.getsource(GossipSub.handle_iwant)
    assert "fromkeys" not in stock, "stock drops repeated ids now"

    async def send(victim: Victim, attacker: Host) -> None:
        got: list[int] = []

        async def count(stream: Any) -> None:
            while True:
                rpc = rpc_pb2.RPC.FromString(await read_varint_prefixed_bytes_limited(stream, 2**20))
                got.extend(len(message.data) for message in rpc.publish)

        attacker.serve(MESHSUB, count)
        data = bytes(50_000)
        victim.net.publish(TOPIC, data, "")
        key = compute_message_id(TOPIC, data)
        want = rpc_pb2.RPC(control=rpc_pb2.ControlMessage(iwant=[rpc_pb2.ControlIWant(messageIDs=[key] * 8_000)]))
        for _ in range(5):
            await send_raw(attacker, victim, prefix(want))
        await until(lambda: len(got) >= 1)
        await victim.prove_well(attacker)
        # A heartbeat may fall into the flood and start the count anew.
        assert len(got) <= 2 * PARAMS.retransmissions_max

    attack(send)


def test_a6_naming_twenty_thousand_unknown_messages_is_answered_with_a_few_wishes() -> None:
    stock = inspect.getsource(GossipSub.handle_ihave)
    assert "[:" not in stock, "stock bounds what it asks for now"

    async def send(victim: Victim, attacker: Host) -> None:
        wished: list[int] = []

        async def count(stream: Any) -> None:
            while True:
                rpc = rpc_pb2.RPC.FromString(await read_varint_prefixed_bytes_limited(stream, 2**20))
                wished.extend(len(want.messageIDs) for want in rpc.control.iwant)

        attacker.serve(MESHSUB, count)
        keys = [struct.pack("!Q12x", i) for i in range(10_000)]
        have = rpc_pb2.ControlMessage(ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=keys)])
        await send_raw(attacker, victim, 2 * prefix(rpc_pb2.RPC(control=have)))
        await until(lambda: sum(wished) >= 1)
        await victim.prove_well(attacker)
        assert sum(wished) <= PARAMS.ihave_ids_max

    attack(send)


def test_a_flood_of_subscriptions_prunes_and_grafts_leaves_nothing_behind() -> None:
    async def send(victim: Victim, attacker: Host) -> None:
        names = [f"flood {i}" for i in range(3_000)]
        rpc = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=name) for name in names])
        rpc.control.prune.extend(rpc_pb2.ControlPrune(topicID=name, backoff=10**9) for name in names)
        rpc.control.graft.extend(rpc_pb2.ControlGraft(topicID=name) for name in names)
        await send_raw(attacker, victim, prefix(rpc))
        before = victim.net.gossip_sizes()
        await until(lambda: victim.net.gossip_sizes()["subscriptions"] > before["subscriptions"])
        await victim.prove_well(attacker)
        sizes = victim.net.gossip_sizes()
        assert all(size <= before[name] + SUBSCRIPTIONS_KEPT for name, size in sizes.items() if "bytes" not in name)
        await attacker.hang_up(victim.net.node)
        await until(lambda: victim.net.gossip_sizes()["subscriptions"] <= before["subscriptions"])

    attack(send)


def test_one_peer_may_have_only_so_many_requests_waiting() -> None:
    async def send(victim: Victim, attacker: Host) -> None:
        asks = b"".join(struct.pack("!BII", 0, i, 1) + b"q" for i in range(PER_PEER_MAX + 50))
        await send_raw(attacker, victim, asks, STREAM)
        await until(lambda: sum(isinstance(event, Asked) for event in victim.events) == PER_PEER_MAX)
        await victim.prove_well(attacker)
        assert sum(isinstance(event, Asked) for event in victim.events) == PER_PEER_MAX

    attack(send)


def test_whoever_answers_with_junk_or_not_at_all_is_given_up() -> None:
    async def send(victim: Victim, attacker: Host) -> None:
        async def junk(stream: Any) -> None:
            await stream.read(1)
            await stream.write(b"\xff" * 100)

        async def silence(stream: Any) -> None:
            await trio.sleep_forever()

        attacker.serve("/junk/1", junk)
        attacker.serve("/silence/1", silence)
        victim.net.request(attacker.node, "/junk/1", b"q", "junk", 5_000)
        victim.net.request(attacker.node, "/silence/1", b"q", "silence", 200)
        await until(lambda: sum(isinstance(event, Unanswered) for event in victim.events) == 2)

    attack(send)


def test_a_check_that_raises_loses_its_message_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with under_attack() as (victim, attacker):

            def fail_once(topic: str, data: bytes, forwarder: bytes) -> Verdict:
                if data == b"trigger":
                    raise ZeroDivisionError
                return Verdict.ACCEPT

            victim.net.subscribe(TOPIC, fail_once)
            victim.honest.publish(TOPIC, b"trigger", "")
            await victim.prove_well(attacker)
            assert victim.net.counters()[TOPIC]["check_errors"] == 1
            assert victim.net.faults() == ()

    run(main)
    assert "the check of t failed" in caplog.text
