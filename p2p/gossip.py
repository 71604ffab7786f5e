"""Gossip on real streams: the pure router of `p2p.gossipsub`, one task per direction and peer, and a clock.

A peer's packets go to the router as they come, and what it wants done is done here: messages into bounded queues, most
urgent first, from which each peer's writer sends many per packet. Whatever a peer sends costs it a penalty or its
stream, never more. On the wire this is `/meshsub/1.1.0`; our own topics are StrictNoSign: the envelopes sign.
"""

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import trio
from libp2p.io.exceptions import IOException
from libp2p.network.stream.net_stream import NetStream

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
    Judged,
    PeerDown,
    PeerUp,
    Publish,
    Received,
    ResetStream,
    Resumed,
    Router,
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
from p2p.gossipsub.params import NODE_PARAMS as PARAMS
from p2p.gossipsub.router import MALFORMED
from p2p.gossipsub.wire import Framer, MalformedPacket
from p2p.host import StreamRefused, to_node
from p2p.net import GOSSIP_BYTES_MAX, Check
from p2p.outbox import Outbox
from protocol.errors import LocalError
from protocol.types import Verdict

logger = logging.getLogger(__name__)

MESHSUB = "/meshsub/1.1.0"
READ_BYTES = 64 * 1024
PACKETS_PER_TURN = 32  # small packets of one peer handled between two turns of the loop
WRITE_BEATS_MAX = 30  # heartbeats one write may take: a peer that reads nothing for so long loses the stream
RETRY_S = 0.1
RETRY_S_MAX = 5.0
VALIDATORS = 4  # slow verdicts sought at once

# What a topic carries, by the short name that begins it: the lower goes first when a peer is slow.
PRIORITIES = {"consensus": 0, "heads": 0, "proofs": 0, "claims": 1, "txs": 1, "oracle": 2, "infer": 2}
CHATTER = 3

SlowCheck = Callable[[str, bytes, bytes], Awaitable[Verdict]]  # as `Check`, in its own time


def get_priority(topic: str) -> int:
    """How urgent a topic's messages are.

    >>> get_priority("/rolemesh/00/proofs/1"), get_priority("/rolemesh/00/node/1"), get_priority("/eth2/x")
    (0, 3, 3)
    """
    parts = topic.split("/")
    return PRIORITIES.get(parts[3], CHATTER) if len(parts) > 3 and parts[1] == "rolemesh" else CHATTER


class Gossip:
    """One node's topics. `describe` says of a connected peer whether we dialled it and what P6 counts it by."""

    def __init__(
        self,
        open_stream: Callable[[bytes, str], Awaitable[NetStream]],
        deliver: Callable[[str, bytes, bytes], bool],
        fault: Callable[[bytes, str], None],
        is_refused: Callable[[bytes], bool],
        dice: random.Random,
        *,
        has_room: Callable[[], bool] = lambda: True,
        describe: Callable[[bytes], tuple[bool, str]] = lambda node: (False, ""),
        dial: Callable[[bytes], None] = lambda node: None,
        author: Author | None = None,
        topics: Mapping[str, TopicParams] | None = None,
        params: GossipParams = PARAMS,
    ) -> None:
        self.router = Router(params, dice, author)
        self.counts = self.router.get_counts()
        self._params = params
        self._topics = dict(topics or {})
        self._open_stream = open_stream
        self._deliver = deliver
        self._fault = fault
        self._is_refused = is_refused
        self._has_room = has_room
        self._describe = describe
        self._dial = dial
        self._outboxes: dict[bytes, Outbox] = {}
        self._scopes: dict[bytes, trio.CancelScope] = {}
        self._inbound: dict[bytes, trio.CancelScope] = {}
        self._slow: dict[str, SlowCheck] = {}
        self._to_validate: deque[Validate] = deque()  # bounded by the router's validations_max
        self._validate_wake = trio.Event()
        self._handlers: dict[type, Callable[[Any], object]] = {
            SendMessage: self._send_message,
            SendControl: self._send_control,
            SendSubscriptions: self._send_subscriptions,
            Deliver: self._hand_over,
            Validate: self._queue_validation,
            Fault: lambda effect: self._fault(effect.peer, effect.reason),
            ResetStream: self._end_inbound,
            Dial: lambda effect: self._dial(effect.peer),
        }

    # The application's side

    def subscribe(self, topic: str, check: Check) -> None:
        self._slow.pop(topic, None)
        self._do(Subscribe(topic, self._guard(check), self._get_params(topic)))

    def subscribe_slowly(self, topic: str, check: SlowCheck) -> None:
        """As `subscribe`, for a check that has to wait for something; the router bounds how many are under way."""
        self._slow[topic] = check
        self._do(Subscribe(topic, None, self._get_params(topic)))

    def unsubscribe(self, topic: str) -> None:
        self._slow.pop(topic, None)
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

    def _get_params(self, topic: str) -> TopicParams:
        found = self._topics.get(topic)
        if found is None:
            found = TopicParams(priority=get_priority(topic), data_bytes_max=GOSSIP_BYTES_MAX)
            if self.router.is_subscribed(topic) or len(self._topics) < self._params.topics_max:
                self._topics[topic] = found
        return found

    def _guard(self, check: Check) -> Judge:
        def judge(topic: str, data: bytes, forwarder: bytes) -> Verdict | None:
            if not self._has_room():
                return None
            try:
                return check(topic, data, forwarder)
            except Exception:  # a bug of ours that this message brought out: the message is lost, the node is not
                self.counts[topic].check_errors += 1
                logger.exception("the check of %s failed", topic)
                return Verdict.IGNORE

        return judge

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

    def _queue_validation(self, effect: Validate) -> None:
        self._to_validate.append(effect)
        self._validate_wake.set()

    def _end_inbound(self, effect: ResetStream) -> None:
        scope = self._inbound.get(effect.peer)
        if scope is not None:
            scope.cancel()

    # What runs

    async def keep_mesh(self) -> None:
        """Beat and see to slow verdicts, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(VALIDATORS):
                nursery.start_soon(self._validate_forever)
            next_beat = trio.current_time()
            while True:
                next_beat = max(next_beat + self._params.heartbeat_ms / 1_000, trio.current_time())
                await trio.sleep_until(next_beat)
                self._do(Heartbeat())
                self._stop_stuck_writes()

    def _stop_stuck_writes(self) -> None:
        # A deadline around every write would cost as much as routing what is written.
        for outbox in self._outboxes.values():
            if outbox.is_writing:
                outbox.writing_beats += 1
                if outbox.writing_beats > WRITE_BEATS_MAX:
                    outbox.stop_writing()

    async def _validate_forever(self) -> None:
        while True:
            while not self._to_validate:
                self._validate_wake = trio.Event() if self._validate_wake.is_set() else self._validate_wake
                await self._validate_wake.wait()
            ticket, topic, data, forwarder = self._to_validate.popleft()
            self._do(Judged(ticket, await self._seek_verdict(topic, data, forwarder)))

    async def _seek_verdict(self, topic: str, data: bytes, forwarder: bytes) -> Verdict:
        check = self._slow.get(topic)
        if check is None:
            return Verdict.IGNORE
        try:
            with trio.move_on_after(self._params.validation_ms_max / 1_000):
                return await check(topic, data, forwarder)
        except Exception:  # a bug of ours that this message brought out: the message is lost, the node is not
            self.counts[topic].check_errors += 1
            logger.exception("the check of %s failed", topic)
        return Verdict.IGNORE

    def meet(self, node: bytes) -> Callable[[], Awaitable[None]]:
        """A peer is connected: what to run for it, until `drop`."""
        scope = self._scopes[node] = trio.CancelScope()
        self._outboxes[node] = Outbox()
        is_outbound, group = self._describe(node)
        self._do(PeerUp(node, is_outbound, group))
        return partial(self._feed_until, scope, node)

    def drop(self, node: bytes) -> None:
        """The peer is gone: stop feeding it and forget what it was on."""
        for scopes in (self._scopes, self._inbound):
            if (scope := scopes.pop(node, None)) is not None:
                scope.cancel()
        self._outboxes.pop(node, None)
        self._do(PeerDown(node))

    async def _feed_until(self, scope: trio.CancelScope, node: bytes) -> None:
        with scope:
            outbox = self._outboxes[node]
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
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, stream, nursery.cancel_scope)
                outbox.stop_writing = nursery.cancel_scope.cancel
                while True:
                    packet = await outbox.take()
                    outbox.writing_beats = 0
                    outbox.is_writing = True
                    await stream.write(packet)
                    outbox.is_writing = False
        except* IOException as error:  # it is opened again for as long as the peer is connected
            logger.debug("a gossip stream ended: %r", error.exceptions[0])
        finally:
            outbox.is_writing = False
            with trio.CancelScope(shield=True):
                await stream.reset()

    async def _watch(self, stream: NetStream, scope: trio.CancelScope) -> None:
        """Nothing is ever read on this stream but its end, which stock notices only at the next message lost on it."""
        try:
            while await stream.read(1):
                pass
        finally:
            scope.cancel()

    async def take_stream(self, stream: NetStream) -> None:
        """Read one peer's packets until its stream ends. A malformed one costs the stream and standing, never more."""
        node = to_node(stream.muxed_conn.peer_id)
        # Only the newest stream speaks for the peer: an older one may end after it.
        if (older := self._inbound.get(node)) is not None:
            older.cancel()
            self._do(StreamEnded(node))
        with trio.CancelScope() as scope:
            self._inbound[node] = scope
            try:
                await self._read(node, stream)
            except IOException:
                pass  # it ended, one way or another
            except MalformedPacket as error:
                self._do(Blamed(node, MALFORMED))
                self._fault(node, f"malformed gossip packet: {error}")
            finally:
                if self._inbound.get(node) is scope:
                    del self._inbound[node]
                    self._do(StreamEnded(node))
                with trio.CancelScope(shield=True):
                    await stream.reset()

    async def _read(self, node: bytes, stream: NetStream) -> None:
        framer = Framer()
        while data := await stream.read(READ_BYTES):
            for i, packet in enumerate(framer.feed(data), 1):
                if self._is_refused(node):
                    raise MalformedPacket("the peer is refused")
                effects = self._do(Received(node, packet))
                while effects and type(effects[-1]) is Continue:
                    await trio.lowlevel.checkpoint()
                    effects = self._do(Resumed(node))
                if i % PACKETS_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()


def _now_ms() -> int:
    return int(trio.current_time() * 1_000)


__all__ = ["MESHSUB", "PARAMS", "Gossip", "TopicCounts", "compute_message_id", "get_priority"]
