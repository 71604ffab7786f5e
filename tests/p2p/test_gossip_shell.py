"""The shell around the router, alone: fake streams instead of peers, and turns of the loop taken by hand."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
from libp2p.io.exceptions import IOException
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p import incoming, outgoing
from p2p.gossip import MESHSUB, Gossip
from p2p.gossip_params import PARAMS
from p2p.gossipsub import Received
from p2p.gossipsub.wire import Message, write_message, write_subscription
from p2p.inbound import AHEAD_BYTES, Inbound
from p2p.outbox import MESSAGES_MAX
from p2p.protobuf import write_varint
from p2p.turns import Turns
from protocol.types import Verdict
from tests.p2p.test_gossip import frame, in_trio, open_attacker, open_nodes, until

CLAIMS, VOTES, CHATTER = (f"/rolemesh/00/{name}/1" for name in ("claims", "consensus", "node"))
PEER, OTHER = b"p" * 32, b"o" * 32


def accept(topic: str, data: bytes, forwarder: bytes) -> Verdict:
    return Verdict.ACCEPT


class Shell:
    """A shell without a network: what it delivered, and whom it found at fault."""

    def __init__(self, **options: Any) -> None:
        self.delivered: list[bytes] = []
        self.faults: list[bytes] = []
        self.is_refused = False
        self.has_room = True
        self.streams: list[FakeStream] = []
        self.gossip = Gossip(
            self._open_stream,
            self._deliver,
            lambda node, reason: self.faults.append(node),
            lambda node: self.is_refused,
            random.Random(1),
            Turns(),
            has_room=lambda: self.has_room,
            **options,
        )

    async def _open_stream(self, node: bytes, protocol: str) -> Any:
        self.streams.append(FakeStream())
        return self.streams[-1]

    def _deliver(self, topic: str, data: bytes, forwarder: bytes) -> bool:
        self.delivered.append(data)
        return True

    def meet(self, *nodes: bytes, topics: tuple[str, ...] = (CLAIMS,)) -> None:
        """Peers that are on these topics."""
        for node in nodes:
            self.gossip.meet(node)
            for topic in topics:
                self.receive(node, write_subscription(True, topic.encode()))

    def receive(self, node: bytes, packet: bytes) -> None:
        self.gossip._do(Received(node, packet))

    def gather(self, node: bytes, *packets: bytes) -> Inbound:
        """What came on a peer's stream and waits for its turn."""
        inbound = Inbound(node, FakeStream(), self.gossip._incoming._note_ready)  # type: ignore[arg-type]
        self.gossip._incoming._inbound[node] = inbound
        inbound._take(b"".join(map(frame, packets)))
        return inbound


class FakeStream:
    """A stream as the shell sees it, with both layers in one."""

    def __init__(self) -> None:
        self.muxed_stream = self
        self.credit = 0
        self.produce: Callable[[int], bytes] = lambda room: b""
        self.end: Callable[[str | None], None] = lambda reason: None

    def push_to(self, take: Any, end: Callable[[str | None], None], gives_credit: bool = True) -> None:
        self.end = end

    def feed_from(self, produce: Callable[[int], bytes]) -> None:
        self.produce = produce

    def give_credit(self, size: int) -> None:
        self.credit += size

    def has_more(self) -> None:
        pass

    async def reset(self) -> None:
        pass


def claim(number: int) -> bytes:
    return write_message(Message(CLAIMS.encode(), b"<%d>" % number))


@in_trio
async def test_a_peer_with_much_to_say_does_not_keep_the_next_one_waiting(monkeypatch):
    monkeypatch.setattr(incoming, "WORK_S_MAX", 0.0)  # a turn's time is up after one peer
    here = Shell()
    here.gossip.subscribe(CLAIMS, accept)
    here.meet(PEER, OTHER)
    much = here.gather(PEER, *map(claim, range(100)))
    little = here.gather(OTHER, claim(100))

    here.gossip.work()
    assert len(much.packets) == 100 - incoming.PACKETS_IN_A_ROW
    here.gossip.work()
    assert not little.packets
    while here.gossip.has_work:
        here.gossip.work()
        here.gossip.flush()
    assert sorted(here.delivered) == sorted(b"<%d>" % number for number in range(101))


@in_trio
async def test_what_a_refused_peer_sent_before_is_not_looked_at():
    here = Shell()
    here.gossip.subscribe(CLAIMS, accept)
    here.meet(PEER)
    inbound = here.gather(PEER, claim(1))
    here.is_refused = True
    here.gossip.work()
    assert here.delivered == []
    assert inbound.ended.is_set()


@in_trio
async def test_while_the_node_has_no_room_nothing_is_judged_and_what_came_may_come_again():
    judged: list[bytes] = []

    def judge(topic: str, data: bytes, forwarder: bytes) -> Verdict:
        judged.append(data)
        return Verdict.ACCEPT

    here = Shell()
    here.gossip.subscribe(CLAIMS, judge)
    here.meet(PEER)
    here.has_room = False
    here.receive(PEER, claim(1))
    waiting = here.gather(PEER, claim(2))
    here.gossip.work()
    assert (judged, len(waiting.packets), here.gossip.counts[CLAIMS].throttled) == ([], 1, 1)
    here.has_room = True
    here.receive(PEER, claim(1))
    here.gossip.work()
    assert judged == here.delivered == [b"<1>", b"<2>"]


@in_trio
async def test_accepted_messages_that_wait_for_the_node_are_bounded_and_make_room_when_handed_over(monkeypatch):
    monkeypatch.setattr("p2p.libp2p_net.DELIVERED_MAX", 3)
    async with open_nodes(1) as (node,):
        for number in range(3):
            assert node.net._has_room()
            node.net._deliver(CLAIMS, b"%d" % number, PEER)
        assert not node.net._has_room()
        await until(node.net._has_room)
        assert node.received() == [b"0", b"1", b"2"]


def test_a_peer_may_be_ahead_of_us_by_so_much_and_is_credited_for_more_as_it_is_worked_off():
    stream = FakeStream()
    inbound = Inbound(PEER, stream, lambda inbound: None)  # type: ignore[arg-type]
    packet = bytes(60_000)
    count = 2 * AHEAD_BYTES // len(packet)
    for _ in range(count):
        inbound._take(frame(packet))
    sent = count * len(frame(packet))
    assert sent - stream.credit == count * len(packet) - AHEAD_BYTES
    while inbound.packets:
        inbound.take_packet()
    inbound.settle()
    assert stream.credit == sent


@in_trio
async def test_the_most_urgent_topic_leaves_first():
    here = Shell()
    topics = (CHATTER, CLAIMS, VOTES)
    for topic in topics:
        here.gossip.subscribe(topic, accept)
    here.meet(PEER, topics=topics)
    for topic in topics:
        assert here.gossip.publish(topic, b"said on " + topic.encode()) == 1
    packet = here.gossip._outgoing._outboxes[PEER].take_now()
    places = [packet.index(b"said on " + topic.encode()) for topic in topics]
    assert places == sorted(places, reverse=True)


@in_trio
async def test_publish_says_for_how_many_peers_it_queued_and_counts_those_it_could_not():
    here = Shell()
    here.gossip.subscribe(CHATTER, accept)
    here.meet(PEER, OTHER, topics=(CHATTER,))
    assert here.gossip.publish(CHATTER, b"to both") == 2
    full = here.gossip._outgoing._outboxes[PEER]
    while len(full) < MESSAGES_MAX:
        assert full.push((b"vote", here.gossip.counts[CHATTER]), 0)
    assert here.gossip.publish(CHATTER, b"to one") == 1
    counts = here.gossip.counts[CHATTER]
    assert (counts.published, counts.dropped) == (2, 1)
    assert here.gossip.publish("a topic nobody is on", b"to nobody") == 0


def test_on_a_new_stream_a_peer_is_told_everything_anew_and_nothing_that_was_for_the_old_one():
    async def main() -> None:
        here = Shell()
        here.gossip.subscribe(CLAIMS, accept)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.gossip.meet(PEER))
            await wait_all_tasks_blocked()
            (first,) = here.streams
            assert write_subscription(True, CLAIMS.encode()) in first.produce(10_000)
            here.gossip._outgoing._outboxes[PEER].push_control(b"for the old stream", is_gossip=False)
            first.end("reset by the peer")
            await trio.sleep(2 * outgoing.RETRY_S)
            said = here.streams[1].produce(10_000)
            assert write_subscription(True, CLAIMS.encode()) in said
            assert b"for the old stream" not in said
            here.gossip.drop(PEER)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_slow_verdicts_are_waited_for_bounded_per_peer_and_nothing_is_forwarded_before():
    async def main() -> None:
        here, verdict_is_due = Shell(), trio.Event()

        async def check(topic: str, data: bytes, forwarder: bytes) -> Verdict:
            await verdict_is_due.wait()
            return Verdict.IGNORE if data == b"<0>" else Verdict.ACCEPT

        here.gossip.subscribe_slowly(CLAIMS, check)
        here.meet(PEER, OTHER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.gossip.keep_mesh)
            for number in range(PARAMS.validations_per_peer_max + 5):
                here.receive(PEER, claim(number))
            await wait_all_tasks_blocked()
            counts = here.gossip.counts[CLAIMS]
            assert (counts.throttled, counts.delivered, counts.forwarded) == (5, 0, 0)
            verdict_is_due.set()
            await wait_all_tasks_blocked()
            accepted = {b"<%d>" % number for number in range(1, PARAMS.validations_per_peer_max)}
            assert set(here.delivered) == accepted
            assert (counts.ignored, counts.forwarded) == (1, len(accepted))
            nursery.cancel_scope.cancel()

    trio.run(main)


@in_trio
async def test_a_bad_frame_costs_its_stream_and_standing_and_nothing_else():
    async with open_nodes(2) as nodes, open_attacker(nodes[0].net) as attacker:
        net = nodes[0].net
        for junk in (frame(b"\xff" * 5), b"\xff" * 12, write_varint(2**30)):
            stream = await attacker.open_stream(net.node, MESHSUB)
            await stream.write(junk)
            with pytest.raises(IOException):
                await stream.read(1)
            await stream.reset()
        assert [node for node, _ in net.faults()] == 3 * [attacker.node]
        assert net._gossip.router.get_score(attacker.node) < 0
        assert attacker.node in net.peers()
