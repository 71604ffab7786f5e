"""Gossip on real streams: the pure router of `p2p.gossipsub`, the peers' streams, and a clock.

What peers send is gathered as it arrives and handed to the router once per turn of the loop, peer by peer and for a
bounded time (`work`); what the router wants sent waits in bounded queues, most urgent first, and leaves at the end of
the turn as few packets and one write per connection (`flush`). Whatever a peer sends costs it a penalty or its stream,
never more. On the wire this is `/meshsub/1.1.0`; our own topics are StrictNoSign: the envelopes sign.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

import trio
from libp2p.network.stream.net_stream import NetStream

from p2p.gossip_params import PARAMS, build_topic_params, get_priority
from p2p.gossipsub import (
    Author,
    Blamed,
    Continue,
    Deliver,
    Dial,
    Effect,
    Event,
    Fault,
    GossipParams,
    Heartbeat,
    Judge,
    PeerDown,
    PeerUp,
    Publish,
    Rated,
    Received,
    Recorded,
    ResetStream,
    Resumed,
    Router,
    Seek,
    SendControl,
    SendMessage,
    SendSubscriptions,
    StreamEnded,
    StreamRenewed,
    Subscribe,
    TopicCounts,
    TopicParams,
    Unsubscribe,
    Validate,
    compute_message_id,
)
from p2p.gossipsub.router import MALFORMED
from p2p.host import StreamRefused, to_node
from p2p.inbound import Inbound
from p2p.muxed_stream import MuxedStream
from p2p.net import GOSSIP_BYTES_MAX, Check
from p2p.outbox import Outbox
from p2p.signature_checks import SignatureChecks
from p2p.slow_checks import SlowCheck, SlowChecks
from p2p.turns import Turns
from protocol.errors import LocalError
from protocol.types import Unproven, Verdict

logger = logging.getLogger(__name__)

MESHSUB = "/meshsub/1.1.0"
WORK_S_MAX = 0.01  # given to what peers sent, between two turns of the loop
PACKETS_IN_A_ROW = 32  # of one peer, before the next one's
WRITE_BEATS_MAX = 30  # a peer that reads nothing for so many heartbeats loses the stream
RETRY_S = 0.1
RETRY_S_MAX = 5.0


class Gossip:
    """One node's topics. `work` and `flush` are to be called in each of its `turns`.

    `describe` says of a connected peer whether we dialled it and what P6 counts it by.
    """

    def __init__(
        self,
        open_stream: Callable[[bytes, str], Awaitable[NetStream]],
        deliver: Callable[[str, bytes, bytes], bool],
        fault: Callable[[bytes, str], None],
        is_refused: Callable[[bytes], bool],
        dice: random.Random,
        turns: Turns,
        *,
        has_room: Callable[[], bool] = lambda: True,
        describe: Callable[[bytes], tuple[bool, str]] = lambda node: (False, ""),
        dial: Callable[[bytes, bytes], None] = lambda node, record: None,
        seek: Callable[[], None] = lambda: None,
        direct: Iterable[bytes] = (),
        author: Author | None = None,
        topics: Mapping[str, TopicParams] | None = None,
        params: GossipParams = PARAMS,
    ) -> None:
        self.router = Router(params, dice, author, direct)
        self.counts = self.router.get_counts()
        self._params = params
        self._topics = dict(topics or {})
        self._open_stream = open_stream
        self._deliver = deliver
        self._fault = fault
        self._is_refused = is_refused
        self._turns = turns
        self._has_room = has_room
        self._describe = describe
        self._dial = dial
        self._seek = seek
        self._outboxes: dict[bytes, Outbox] = {}
        self._scopes: dict[bytes, trio.CancelScope] = {}
        self._streams: dict[Outbox, MuxedStream] = {}  # on which an outbox is sent
        self._stirred: list[Outbox] = []
        self._inbound: dict[bytes, Inbound] = {}
        self._ready: deque[Inbound] = deque()
        self._held_back: list[Inbound] = []  # until some of their messages are verified
        self._slow = SlowChecks(self._do, self._note_check_error, params.validation_ms_max / 1_000)
        self._signatures = SignatureChecks(self._do, self._note_check_error)
        self._handlers: dict[type, Callable[[Any], object]] = {
            SendMessage: self._send_message,
            SendControl: self._send_control,
            SendSubscriptions: self._send_subscriptions,
            Deliver: self._hand_over,
            Validate: self._validate,
            Fault: lambda effect: self._fault(effect.peer, effect.reason),
            ResetStream: self._end_inbound,
            Dial: lambda effect: self._dial(effect.peer, effect.record),
            Seek: lambda effect: self._seek(),
        }

    # The application's side

    def subscribe(self, topic: str, check: Check) -> None:
        self._slow.by_topic.pop(topic, None)
        self._do(Subscribe(topic, self._guard(check), self._get_params(topic)))

    def subscribe_slowly(self, topic: str, check: SlowCheck) -> None:
        """As `subscribe`, for a check that has to wait for something; the router bounds how many are under way."""
        self._slow.by_topic[topic] = check
        self._do(Subscribe(topic, None, self._get_params(topic)))

    def unsubscribe(self, topic: str) -> None:
        self._slow.by_topic.pop(topic, None)
        self._do(Unsubscribe(topic))

    def publish(self, topic: str, data: bytes) -> int:
        """Queue for peers on the topic; how many. LocalError when it is too large: the caller's mistake."""
        if len(data) > GOSSIP_BYTES_MAX:
            raise LocalError(f"a gossip message has {len(data)} bytes, at most {GOSSIP_BYTES_MAX}")
        effects = self.router.handle(Publish(topic, data, self._get_params(topic)), _now_ms())
        return sum(self._send_message(effect) for effect in effects if type(effect) is SendMessage)

    def subscribers(self, topic: str) -> tuple[bytes, ...]:
        """Node keys of connected peers on the topic, sorted."""
        return self.router.get_subscribers(topic)

    def blame(self, node: bytes) -> None:
        """The application saw a peer break a rule."""
        self._do(Blamed(node))

    def rate(self, node: bytes, score: float) -> None:
        """What the application thinks of a peer, P5."""
        self._do(Rated(node, score))

    def note_record(self, node: bytes, record: bytes) -> None:
        """A peer's verified record, to tell others of it."""
        self._do(Recorded(node, record))

    def get_sizes(self) -> dict[str, int]:
        """How much is remembered, by name: the router's and this shell's own."""
        return {
            **self.router.get_sizes(),
            "outboxes": len(self._outboxes),
            "feeders": len(self._scopes),
            "inbound": len(self._inbound),
            "topics": len(self._topics),
            "queued": sum(map(len, self._outboxes.values())),
            "to_validate": len(self._slow),
            "to_verify": len(self._signatures),
        }

    def _get_params(self, topic: str) -> TopicParams:
        found = self._topics.get(topic)
        if found is None:
            found = build_topic_params(topic)
            if self.router.is_subscribed(topic) or len(self._topics) < self._params.topics_max:
                self._topics[topic] = found
        return found

    def _guard(self, check: Check) -> Judge:
        def judge(topic: str, data: bytes, forwarder: bytes) -> Verdict | Unproven | None:
            if not self._has_room():
                return None
            try:
                return check(topic, data, forwarder)
            except Exception:  # a bug of ours that this message brought out: the message is lost, the node is not
                self._note_check_error(topic)
                logger.exception("the check of %s failed", topic)
                return Verdict.IGNORE

        return judge

    def _note_check_error(self, topic: str) -> None:
        self.counts[topic].check_errors += 1

    # Doing what the router wants

    def _do(self, event: Event) -> list[Effect]:
        effects = self.router.handle(event, _now_ms())
        handlers = self._handlers
        for effect in effects:
            if type(effect) is not Continue:
                handlers[type(effect)](effect)
        return effects

    def _send_message(self, effect: SendMessage) -> int:
        """Queue it; for how many peers."""
        counts = self.counts.get(effect.topic) or self.counts.setdefault(effect.topic, TopicCounts())
        waiting = (effect.packet, counts)
        sent = 0
        for node in effect.peers:
            outbox = self._outboxes.get(node)
            if outbox is not None and outbox.push(waiting, effect.priority):
                sent += 1
                if outbox.is_plenty:
                    self._turns.hurry()
            else:
                counts.dropped += 1
        counts.bytes_sent += sent * len(effect.packet)
        return sent

    def _send_control(self, effect: SendControl) -> None:
        outbox = self._outboxes.get(effect.peer)
        if outbox is not None:
            outbox.push_control(effect.body, effect.is_gossip)

    def _send_subscriptions(self, effect: SendSubscriptions) -> None:
        outbox = self._outboxes.get(effect.peer)
        if outbox is not None:
            outbox.push_subscriptions(effect.packet)

    def _hand_over(self, effect: Deliver) -> None:
        if not self._deliver(effect.topic, effect.data, effect.forwarder):
            self.counts[effect.topic].dropped += 1

    def _validate(self, effect: Validate) -> None:
        (self._slow if effect.unproven is None else self._signatures).queue(effect)

    def _end_inbound(self, effect: ResetStream) -> None:
        if (inbound := self._inbound.get(effect.peer)) is not None:
            inbound.end()

    # Each turn of the loop

    @property
    def has_work(self) -> bool:
        """Whether anything waits for `work` or `flush`."""
        return bool(self._ready or self._stirred or self._signatures)

    def work(self) -> None:
        """Hand the router what peers sent, each in turn, for WORK_S_MAX seconds at most."""
        until_s = time.perf_counter() + WORK_S_MAX
        ready = self._ready
        while ready and self._has_room():
            inbound = ready.popleft()
            if self._signatures.is_full(inbound.node):
                self._held_back.append(inbound)
                continue
            self._work_off(inbound)
            if inbound.has_work:
                ready.append(inbound)
            else:
                inbound.is_ready = False
            if time.perf_counter() > until_s:
                break
        self._signatures.settle()
        ready.extend(self._held_back)
        self._held_back.clear()

    def _finish(self, inbound: Inbound) -> None:
        """A peer or its stream is gone: what came before still counts, as far as there is time for it."""
        until_s = time.perf_counter() + WORK_S_MAX
        while inbound.has_work and time.perf_counter() < until_s:
            self._work_off(inbound)
            self._signatures.settle()
        inbound.end()

    def _work_off(self, inbound: Inbound) -> None:
        node, packets = inbound.node, inbound.packets
        if self._is_refused(node):
            inbound.end("the peer is refused")
        for _ in range(PACKETS_IN_A_ROW):
            if self._signatures.is_full(node):
                break
            if inbound.is_cut:
                effects = self._do(Resumed(node))
            elif packets:
                effects = self._do(Received(node, inbound.take_packet()))
            else:
                break
            inbound.is_cut = bool(effects) and type(effects[-1]) is Continue
        inbound.settle()

    def flush(self) -> None:
        """Send what has gathered: one write per connection."""
        stirred, self._stirred = self._stirred, []
        for outbox in stirred:
            outbox.is_stirred = False
            if (stream := self._streams.get(outbox)) is not None:
                stream.flush()

    def _note_ready(self, inbound: Inbound) -> None:
        if not inbound.is_ready:
            inbound.is_ready = True
            self._ready.append(inbound)
            self._turns.ring()
        if inbound.is_plenty:
            self._turns.hurry()

    def _note_stirred(self, outbox: Outbox) -> None:
        self._stirred.append(outbox)
        self._turns.ring()

    # What runs

    async def keep_mesh(self) -> None:
        """Beat and see to slow verdicts, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._slow.run)
            next_beat = trio.current_time()
            while True:
                next_beat = max(next_beat + self._params.heartbeat_ms / 1_000, trio.current_time())
                await trio.sleep_until(next_beat)
                self._do(Heartbeat())
                self._reset_stuck()

    def _reset_stuck(self) -> None:
        """End streams on which a peer takes nothing, or for too long sends no whole packet."""
        for outbox, stream in list(self._streams.items()):
            outbox.idle_beats += outbox.is_waiting
            if outbox.idle_beats > WRITE_BEATS_MAX:
                stream.reset_now()
        for inbound in list(self._inbound.values()):
            inbound.note_beat()

    def meet(self, node: bytes) -> Callable[[], Awaitable[None]]:
        """A peer is connected: what to run for it, until `drop`."""
        scope = self._scopes[node] = trio.CancelScope()
        outbox = self._outboxes[node] = Outbox(self._note_stirred)
        is_outbound, group = self._describe(node)
        self._do(PeerUp(node, is_outbound, group))
        # Handed over: by the time the task starts the peer may be gone again, and its outbox with it.
        return partial(self._feed_until, scope, node, outbox)

    def drop(self, node: bytes) -> None:
        """The peer is gone: stop feeding it and forget what it was on."""
        if (scope := self._scopes.pop(node, None)) is not None:
            scope.cancel()
        if (inbound := self._inbound.pop(node, None)) is not None:
            self._finish(inbound)
        self._outboxes.pop(node, None)
        self._do(PeerDown(node))

    async def _feed_until(self, scope: trio.CancelScope, node: bytes, outbox: Outbox) -> None:
        with scope:
            await trio.lowlevel.checkpoint()  # the peer may have gone before this task had its first turn
            pause = RETRY_S
            is_first = True
            while True:
                try:
                    stream = await self._open_stream(node, MESHSUB)
                except StreamRefused:
                    await trio.sleep(pause)
                    pause = min(2 * pause, RETRY_S_MAX)
                    continue
                pause = RETRY_S
                if not is_first:
                    outbox.clear()
                    self._do(StreamRenewed(node))
                is_first = False
                await self._feed(outbox, stream)
                await trio.sleep(RETRY_S)

    async def _feed(self, outbox: Outbox, stream: NetStream) -> None:
        """Send an outbox on a stream for as long as that lasts. Nothing is ever read on it but its end."""
        ended = trio.Event()
        muxed = cast(MuxedStream, stream.muxed_stream)
        muxed.push_to(lambda data: None, lambda reason: ended.set())
        muxed.feed_from(outbox.produce)
        self._streams[outbox] = muxed
        muxed.has_more()
        try:
            await ended.wait()  # it is opened again for as long as the peer is connected
        finally:
            del self._streams[outbox]
            with trio.CancelScope(shield=True):
                await stream.reset()

    async def take_stream(self, stream: NetStream) -> None:
        """Hear one peer until its stream ends. A malformed packet costs the stream and standing, never more."""
        node = to_node(stream.muxed_conn.peer_id)
        # Only the newest stream speaks for the peer: an older one may end after it.
        if (older := self._inbound.get(node)) is not None:
            older.end()
            self._do(StreamEnded(node))
        inbound = self._inbound[node] = Inbound(node, cast(MuxedStream, stream.muxed_stream), self._note_ready)
        try:
            inbound.begin()
            await inbound.ended.wait()
            if inbound.fault:
                self._do(Blamed(node, MALFORMED))
                self._fault(node, f"malformed gossip packet: {inbound.fault}")
        finally:
            if self._inbound.get(node) is inbound:
                self._finish(inbound)
                del self._inbound[node]
                self._do(StreamEnded(node))
            with trio.CancelScope(shield=True):
                await stream.reset()


def _now_ms() -> int:
    return int(trio.current_time() * 1_000)


__all__ = ["MESHSUB", "PARAMS", "Gossip", "TopicCounts", "compute_message_id", "get_priority"]
