"""Two nets on real sockets in one process, and every fault a link can have: put on, taken off, nothing lost between."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from p2p.delay_line import CLEAR, QUEUE_BYTES_MAX, RULES_MAX, Conditions, Rule, Silence
from p2p.doors import HostLimits
from p2p.libp2p_net import Libp2pNet, NetOptions, open_libp2p_net
from p2p.link_faults import LinkFaults, Passage
from p2p.net import Answered, Asked, Delivered, NetEvent, PeerConnected, PeerDisconnected, Unanswered
from p2p.wire import SocketWire
from protocol.errors import LocalError
from protocol.types import Verdict
from tests.p2p.loopback import run, until

TOPIC = "/rolemesh/00/claims/1"
STREAM = "/rolemesh/00/blob/1"
STALL, BLACKHOLE, REFUSE = Silence.STALL, Silence.BLACKHOLE, Silence.REFUSE
PATIENT_MS = 20_000


@dataclass
class Side:
    """One net, what it told, and its echo: it answers what it is asked with the same bytes."""

    number: int
    events: list[NetEvent] = field(default_factory=list)
    net: Libp2pNet = None  # type: ignore[assignment]

    @property
    def address(self) -> str:
        return f"127.0.11.{self.number}"

    def take(self, event: NetEvent) -> None:
        self.events.append(event)
        if isinstance(event, Asked):
            self.net.reply(event.token, event.data)

    def count(self, kind: type) -> int:
        return sum(type(event) is kind for event in self.events)

    def put(self, peer: "Side", conditions: Conditions) -> None:
        """What we send to `peer` is like this from now on."""
        rule = Rule("f", conditions, frozenset({peer.net.node}), frozenset({peer.address}))
        self.net.link_faults.put([] if conditions == CLEAR else [rule], seed=1)

    def wires(self) -> list[SocketWire]:
        return [wire for wire in self.net.link_faults._wires if not wire.is_closed]

    def outcome(self, token: str) -> Any:
        return next((e for e in self.events if isinstance(e, Answered | Unanswered) and e.token == token), None)

    def delivered(self) -> list[bytes]:
        return [event.data for event in self.events if isinstance(event, Delivered)]


@asynccontextmanager
async def two_sides(is_met: bool = True) -> AsyncIterator[tuple[Side, Side]]:
    a, b = Side(1), Side(2)
    options = NetOptions(limits=HostLimits(dial_s=1.0, handshake_s=1.0), seed=1)
    async with (
        open_libp2p_net(bytes([71]) * 32, a.address, 0, a.take, options) as a.net,
        open_libp2p_net(bytes([72]) * 32, b.address, 0, b.take, options) as b.net,
    ):
        for side in (a, b):
            side.net.serve(STREAM)
            side.net.subscribe(TOPIC, lambda topic, data, forwarder: Verdict.ACCEPT)
        if is_met:
            meet(a, b)
            await until(lambda: bool(a.net.subscribers(TOPIC) and b.net.subscribers(TOPIC)))
        yield a, b


def meet(a: Side, b: Side) -> None:
    a.net.learn(b.net.node, b.net.addresses)
    b.net.learn(a.net.node, a.net.addresses)


def check(story: Callable[[Side, Side], Any], is_met: bool = True) -> None:
    async def main() -> None:
        async with two_sides(is_met) as (a, b):
            await story(a, b)

    run(main)


@pytest.mark.parametrize(
    ("conditions", "seconds_min"),
    [
        (Conditions(delay_ms=60), 0.12),
        (Conditions(delay_ms=10, jitter_ms=60), 0.02),
        (Conditions(bytes_per_s=1_000_000), 0.3),
        (Conditions(loss_bp=300), 0.0),
        (Conditions(delay_ms=10, jitter_ms=5, bytes_per_s=3_000_000, loss_bp=50), 0.1),
    ],
)
def test_what_crosses_a_bad_link_arrives_whole_and_not_before_its_time(
    conditions: Conditions, seconds_min: float
) -> None:
    question = bytes(range(256)) * 1_200

    async def story(a: Side, b: Side) -> None:
        for one, other in ((a, b), (b, a)):
            one.put(other, conditions)
        start_s = trio.current_time()
        a.net.request(b.net.node, STREAM, question, "q", PATIENT_MS)
        await until(lambda: a.outcome("q") is not None)
        assert trio.current_time() - start_s >= seconds_min
        assert a.outcome("q") == Answered("q", question)
        assert a.count(PeerDisconnected) == b.count(PeerDisconnected) == 0

    check(story)


def test_a_link_without_faults_is_the_plain_socket_before_and_after() -> None:
    async def story(a: Side, b: Side) -> None:
        assert [wire.detour for wire in a.wires()] == [None]
        a.put(b, Conditions(delay_ms=20))
        assert [wire.detour is None for wire in a.wires()] == [False]
        assert [wire.detour for wire in b.wires()] == [None]
        a.net.request(b.net.node, STREAM, b"x", "q", PATIENT_MS)
        await until(lambda: isinstance(a.outcome("q"), Answered))
        a.put(b, CLEAR)
        await until(lambda: [wire.detour for wire in a.wires()] == [None])
        a.net.request(b.net.node, STREAM, b"y", "r", PATIENT_MS)
        await until(lambda: isinstance(a.outcome("r"), Answered))
        assert a.count(PeerConnected) == 1

    check(story)


def test_switching_faults_on_and_off_in_mid_flight_loses_nothing() -> None:
    sent = [b"%d:" % number + bytes(2_000) for number in range(400)]
    changes = [Conditions(delay_ms=5), CLEAR, Conditions(silence=STALL), Conditions(bytes_per_s=500_000), CLEAR]

    async def story(a: Side, b: Side) -> None:
        for number, data in enumerate(sent):
            a.net.publish(TOPIC, data, f"p{number}")
            if number % 10 == 0:
                a.put(b, changes[number // 10 % len(changes)])
            await trio.lowlevel.checkpoint()
        a.put(b, CLEAR)
        await until(lambda: len(b.delivered()) == len(sent))
        assert b.delivered() == sent
        assert b.count(PeerDisconnected) == 0

    check(story)


def test_a_stall_holds_what_one_side_says_and_lets_the_other_talk() -> None:
    async def story(a: Side, b: Side) -> None:
        a.put(b, Conditions(silence=STALL))
        a.net.publish(TOPIC, b"held", "p")
        a.net.request(b.net.node, STREAM, b"held too", "q", PATIENT_MS)
        for number in range(20):
            b.net.publish(TOPIC, b"heard %d" % number, f"h{number}")
        await until(lambda: len(a.delivered()) == 20)
        assert b.delivered() == []
        assert a.outcome("q") is None
        a.put(b, CLEAR)
        await until(lambda: b.delivered() == [b"held"] and a.outcome("q") == Answered("q", b"held too"))
        assert a.count(PeerDisconnected) == b.count(PeerDisconnected) == 0

    check(story)


def test_a_stall_holds_writers_back_instead_of_filling_memory() -> None:
    async def story(a: Side, b: Side) -> None:
        a.net.request(b.net.node, STREAM, b"opens the stream", "q", PATIENT_MS)
        await until(lambda: a.outcome("q") is not None)
        a.put(b, Conditions(silence=STALL))
        lines = [wire.detour.line for wire in a.wires()]  # type: ignore[union-attr]
        for number in range(4):
            a.net.request(b.net.node, STREAM, bytes(1_000_000), f"q{number}", PATIENT_MS)
        # Yamux lends a stream 256 KiB: what does not fit waits with its writer, and no more than that is held.
        await until(lambda: lines[0].size > 200_000)
        assert lines[0].size <= QUEUE_BYTES_MAX
        a.put(b, CLEAR)
        await until(lambda: all(isinstance(a.outcome(f"q{number}"), Answered) for number in range(4)))

    check(story)


def test_a_blackhole_swallows_in_silence_and_the_connection_ends_with_it() -> None:
    async def story(a: Side, b: Side) -> None:
        a.put(b, Conditions(silence=BLACKHOLE))
        a.net.request(b.net.node, STREAM, b"lost", "q", 300)
        await until(lambda: isinstance(a.outcome("q"), Unanswered))
        assert b.count(Asked) == 0
        assert a.count(PeerDisconnected) == b.count(PeerDisconnected) == 0
        a.put(b, CLEAR)
        await until(lambda: a.count(PeerDisconnected) == b.count(PeerDisconnected) == 1)
        await until(lambda: a.count(PeerConnected) == b.count(PeerConnected) == 2)
        a.net.request(b.net.node, STREAM, b"found", "r", PATIENT_MS)
        await until(lambda: a.outcome("r") == Answered("r", b"found"))

    check(story)


@pytest.mark.parametrize("is_refuser_dialled", [True, False])
def test_a_refusal_breaks_connections_at_once_and_lets_none_in_while_it_lasts(is_refuser_dialled: bool) -> None:
    async def story(a: Side, b: Side) -> None:
        refuser, other = (b, a) if is_refuser_dialled else (a, b)
        refuser.put(other, Conditions(silence=REFUSE))
        await until(lambda: bool(a.count(PeerDisconnected) and b.count(PeerDisconnected)))
        other.net.request(refuser.net.node, STREAM, b"x", "q", 2_000)
        await until(lambda: other.outcome("q") is not None)
        assert isinstance(other.outcome("q"), Unanswered)
        assert a.net.peers() == b.net.peers() == ()
        refuser.put(other, CLEAR)
        await until(lambda: bool(a.net.peers() and b.net.peers()))

    check(story)


@pytest.mark.parametrize("silence", [STALL, BLACKHOLE])
@pytest.mark.parametrize("is_ours", [True, False])
def test_a_dial_into_silence_hangs_whichever_way_is_cut(silence: Silence, is_ours: bool) -> None:
    async def story(a: Side, b: Side) -> None:
        one, other = (a, b) if is_ours else (b, a)
        one.put(other, Conditions(silence=silence))
        meet(a, b)
        start_s = trio.current_time()
        a.net.request(b.net.node, STREAM, b"x", "q", PATIENT_MS)
        await until(lambda: a.outcome("q") is not None)
        assert isinstance(a.outcome("q"), Unanswered)
        assert trio.current_time() - start_s >= 0.9  # the dial's own deadline, not an answer
        assert a.net.peers() == b.net.peers() == ()
        one.put(other, CLEAR)
        await until(lambda: bool(a.net.peers() and b.net.peers()))

    check(story, is_met=False)


def test_a_delay_holds_from_the_first_packet_of_a_connection_on() -> None:
    async def story(a: Side, b: Side) -> None:
        for one, other in ((a, b), (b, a)):
            one.put(other, Conditions(delay_ms=30))
        start_s = trio.current_time()
        meet(a, b)
        await until(lambda: bool(a.net.peers() and b.net.peers()))
        # One way for the dial, and at least two round trips of a handshake.
        assert trio.current_time() - start_s >= 0.150

    check(story, is_met=False)


def test_rules_about_others_and_about_everybody() -> None:
    async def story(a: Side, b: Side) -> None:
        delay, stranger = Conditions(delay_ms=5), frozenset({bytes(32)})
        a.net.link_faults.put([Rule("other", Conditions(silence=REFUSE), stranger, frozenset({"127.0.11.9"}))])
        assert a.net.link_faults.find(b.address, b.net.node) == CLEAR
        a.net.link_faults.put([Rule("one", delay, is_all_but=True), Rule("two", delay, frozenset({b.net.node}))])
        assert a.net.link_faults.find(b.address, b.net.node) == Conditions(delay_ms=10)
        assert a.net.link_faults.find(b.address, None) == delay
        a.net.link_faults.put([Rule("one", delay, frozenset({b.net.node}), is_all_but=True)])
        assert a.net.link_faults.find(b.address, b.net.node) == CLEAR
        assert a.net.link_faults.find(b.address, bytes(32)) == delay
        with pytest.raises(LocalError):
            a.net.link_faults.put([Rule(str(number), delay) for number in range(RULES_MAX + 1)])
        assert len(a.net.link_faults.rules) == 1

    check(story)


def test_who_hangs_up_still_sends_what_was_under_way_and_then_the_end() -> None:
    async def main() -> None:
        ours, theirs = (SocketWire(end) for end in socket.socketpair())
        async with trio.open_nursery() as tasks:
            faults = LinkFaults(bytes(32), tasks)
            faults.watch(ours, Passage("127.0.11.1"))
            faults.put([Rule("f", Conditions(delay_ms=100), is_all_but=True)])
            assert ours.send_some(memoryview(b"last words")) == 10
            start_s = trio.current_time()
            ours.close()
            with pytest.raises(BrokenPipeError):
                ours.send_some(memoryview(b"too late"))
            assert await theirs.receive() == b"last words"
            assert await theirs.receive() == b""
            assert trio.current_time() - start_s >= 0.1
            assert ours.is_closed
        theirs.close()

    run(main)


def test_a_peer_that_dies_behind_a_stall_is_gone_and_nothing_of_the_connection_stays() -> None:
    async def main() -> None:
        a, b = Side(1), Side(2)
        async with open_libp2p_net(bytes([71]) * 32, a.address, 0, a.take, NetOptions(seed=1)) as a.net:
            async with open_libp2p_net(bytes([72]) * 32, b.address, 0, b.take, NetOptions(seed=1)) as b.net:
                meet(a, b)
                await until(lambda: bool(a.net.peers() and b.net.peers()))
                a.put(b, Conditions(delay_ms=50))
                a.net.request(b.net.node, STREAM, b"x", "q", PATIENT_MS)
            await until(lambda: a.count(PeerDisconnected) == 1)
            await until(lambda: a.wires() == [])

    run(main)
