"""Gossip: py-libp2p's own GossipSub keeps the mesh, our pump around it carries the messages and stands the attacks.

The stock Pubsub dies of one malformed packet, starts a task per message, signs a peer record into every packet, reads
lengths byte by byte and drops in silence; so it is not used. `GossipRouter` is stock GossipSub with its message path
and control handlers bounded. On the wire this is `/meshsub/1.1.0`, StrictNoSign: our envelopes sign.
"""

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from google.protobuf.message import DecodeError
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import IOException
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from p2p.host import StreamRefused, to_node, to_peer
from p2p.mesh import HEARTBEAT_S, MESHSUB, GossipRouter
from p2p.net import GOSSIP_BYTES_MAX, Check
from p2p.packets import WRITE_BYTES_MAX, Outbox, Seen, TopicCounts, compute_message_id, split_packets
from protocol.errors import LocalError
from protocol.types import Verdict

logger = logging.getLogger(__name__)

SLICE = 32  # messages handled between two turns of the loop
TOPICS_PER_PEER_MAX = 64
TOPIC_BYTES_MAX = 128
RETRY_S = 0.1


class Gossip:
    """One node's topics. `peers`, `peer_topics` and `seen_messages` are named as stock GossipSub expects."""

    def __init__(
        self,
        open_stream: Callable[[bytes, str], Awaitable[NetStream]],
        deliver: Callable[[str, bytes, bytes], bool],
        fault: Callable[[bytes, str], None],
        is_refused: Callable[[bytes], bool],
        dice: random.Random,
    ) -> None:
        self.peers: dict[ID, Outbox] = {}
        self.peer_topics: dict[str, set[ID]] = {}
        self.seen_messages = Seen()
        self.dice = dice
        self.counts: dict[str, TopicCounts] = {}
        self.router = GossipRouter(self)
        self._open_stream = open_stream
        self._deliver = deliver
        self._fault = fault
        self._is_refused = is_refused
        self._checks: dict[str, Check] = {}
        self._scopes: dict[ID, trio.CancelScope] = {}
        self._inbound: dict[ID, NetStream] = {}
        self._moves: deque[tuple[bool, str]] = deque()  # bounded by the node's own topics
        self._moved = trio.Event()

    def subscribe(self, topic: str, check: Check) -> None:
        if len(topic.encode()) > TOPIC_BYTES_MAX or len(self._checks) >= TOPICS_PER_PEER_MAX:
            raise LocalError(f"at most {TOPICS_PER_PEER_MAX} topics of {TOPIC_BYTES_MAX} bytes each")
        is_new = topic not in self._checks
        self._checks[topic] = check
        if is_new:
            self._move(True, topic)

    def unsubscribe(self, topic: str) -> None:
        if self._checks.pop(topic, None) is not None:
            self._move(False, topic)

    def _move(self, joins: bool, topic: str) -> None:
        packet = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=joins, topicid=topic)]).SerializeToString()
        for peer in self.peers:
            self.push(peer, packet, is_control=True)
        self._moves.append((joins, topic))
        self._moved.set()

    def publish(self, topic: str, data: bytes) -> int:
        """Queue for peers on the topic; how many. LocalError when it is too large: the caller's mistake."""
        if len(data) > GOSSIP_BYTES_MAX:
            raise LocalError(f"a gossip message has {len(data)} bytes, at most {GOSSIP_BYTES_MAX}")
        counts = self.count(topic)
        counts.published += 1
        self.seen_messages.add(compute_message_id(topic, data))
        return self._send(topic, data, None, counts)

    def subscribers(self, topic: str) -> tuple[bytes, ...]:
        """Node keys of connected peers on the topic, sorted."""
        return tuple(sorted(to_node(peer) for peer in self.peer_topics.get(topic, ()) if peer in self._scopes))

    def count(self, topic: str) -> TopicCounts:
        return self.counts.setdefault(topic, TopicCounts())

    def push(self, peer: ID, packet: bytes, is_control: bool) -> bool:
        outbox = self.peers.get(peer)
        return outbox is not None and outbox.push(packet, is_control)

    def _send(self, topic: str, data: bytes, source: ID | None, counts: TopicCounts) -> int:
        message = rpc_pb2.Message(data=data, topicIDs=[topic])
        self.router.mcache.put(message)
        packet = rpc_pb2.RPC(publish=[message]).SerializeToString()
        sent = 0
        for peer in self.router.choose_peers(topic, source):
            if self.push(peer, packet, is_control=False):
                sent += 1
            else:
                counts.dropped += 1
        counts.bytes_sent += sent * len(packet)
        return sent

    # What runs

    async def keep_mesh(self) -> None:
        """Join and leave topics as asked and beat once a second, until cancelled."""
        next_beat = trio.current_time() + HEARTBEAT_S
        while True:
            with trio.move_on_at(next_beat):
                await self._moved.wait()
            while self._moves:
                joins, topic = self._moves.popleft()
                await (self.router.join(topic) if joins else self.router.leave(topic))
            self._moved = trio.Event()
            if trio.current_time() >= next_beat:
                next_beat = trio.current_time() + HEARTBEAT_S
                await self.router.beat()

    def meet(self, node: bytes) -> Callable[[], Awaitable[None]]:
        """A peer is connected: what to run for it, until `drop`."""
        scope = self._scopes[to_peer(node)] = trio.CancelScope()
        return partial(self._feed_until, scope, node)

    async def _feed_until(self, scope: trio.CancelScope, node: bytes) -> None:
        peer = to_peer(node)
        with scope:
            pause = RETRY_S
            while True:
                try:
                    stream = await self._open_stream(node, MESHSUB)
                except StreamRefused:
                    await trio.sleep(pause)
                    pause = min(2 * pause, 5.0)
                    continue
                pause = RETRY_S
                await self._feed(peer, stream)
                await trio.sleep(RETRY_S)

    async def _feed(self, peer: ID, stream: NetStream) -> None:
        outbox = self.peers[peer] = Outbox()
        try:
            for topic in self._checks:
                sub = rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic)
                outbox.push(rpc_pb2.RPC(subscriptions=[sub]).SerializeToString(), is_control=True)
            self.router.add_peer(peer, TProtocol(MESHSUB))
            for topic, on_topic in self.peer_topics.items():
                if peer in on_topic:
                    await self.router.on_peer_subscribed(peer, topic)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, stream, nursery.cancel_scope)
                while True:
                    await stream.write(await outbox.take())
        except* IOException as error:  # it is opened again for as long as the peer is connected
            logger.debug("gossip stream to %s ended: %r", peer, error)
        finally:
            if self.peers.get(peer) is outbox:
                del self.peers[peer]
            self.router.remove_peer(peer)
            with trio.CancelScope(shield=True):
                await stream.reset()

    async def _watch(self, stream: NetStream, scope: trio.CancelScope) -> None:
        """Nothing is ever read on this stream but its end, which stock notices only at the next message lost on it."""
        try:
            while await stream.read(1):
                pass
        finally:
            scope.cancel()

    def drop(self, node: bytes) -> None:
        """The peer is gone: stop feeding it and forget what it was on."""
        peer = to_peer(node)
        if (scope := self._scopes.pop(peer, None)) is not None:
            scope.cancel()
        self._inbound.pop(peer, None)
        self._forget_topics(peer)

    def _forget_topics(self, peer: ID) -> None:
        for topic in [topic for topic, on_topic in self.peer_topics.items() if peer in on_topic]:
            self._leave(peer, topic)

    def _leave(self, peer: ID, topic: str) -> None:
        on_topic = self.peer_topics.get(topic, set())
        on_topic.discard(peer)
        if not on_topic:
            self.peer_topics.pop(topic, None)
        self.router.mesh.get(topic, set()).discard(peer)
        self.router.fanout.get(topic, set()).discard(peer)

    async def take_stream(self, stream: NetStream) -> None:
        """Read one peer's packets until its stream ends. A malformed one costs the stream and standing, never more."""
        peer = stream.muxed_conn.peer_id
        self._inbound[peer] = stream
        buffer = bytearray()
        try:
            while data := await stream.read(WRITE_BYTES_MAX):
                buffer += data
                for packet in split_packets(buffer):
                    await self._take_packet(packet, peer)
        except IOException:
            return  # it ended, one way or another
        except (DecodeError, ValueError) as error:
            self._fault(to_node(peer), f"malformed gossip packet: {error}")
            await stream.reset()
        finally:
            # Only the newest stream speaks for the peer: an older one may end after it.
            if self._inbound.get(peer) is stream:
                del self._inbound[peer]
                self._forget_topics(peer)

    async def _take_packet(self, packet: bytes, peer: ID) -> None:
        rpc = rpc_pb2.RPC()
        rpc.ParseFromString(packet)
        for sub in rpc.subscriptions[: 4 * TOPICS_PER_PEER_MAX]:
            await self._take_subscription(sub.topicid, sub.subscribe, peer)
        for i, message in enumerate(rpc.publish):
            if i % SLICE == SLICE - 1:
                await trio.lowlevel.checkpoint()
            if self._is_refused(to_node(peer)):
                raise ValueError("the peer is refused")
            self._take_message(message, peer)
        if rpc.HasField("control"):
            await self.router.take_control(rpc.control, peer)

    async def _take_subscription(self, topic: str, joins: bool, peer: ID) -> None:
        if not joins:
            self._leave(peer, topic)
            return
        mine = sum(1 for on_topic in self.peer_topics.values() if peer in on_topic)
        if mine >= TOPICS_PER_PEER_MAX or len(topic.encode()) > TOPIC_BYTES_MAX:
            return
        self.peer_topics.setdefault(topic, set()).add(peer)
        if peer in self.peers:
            await self.router.on_peer_subscribed(peer, topic)

    def _take_message(self, message: rpc_pb2.Message, peer: ID) -> None:
        node = to_node(peer)
        if len(message.topicIDs) != 1 or message.from_id or message.seqno or message.signature or message.key:
            self._fault(node, "a gossip message must name one topic and no author")
            return
        topic, data = message.topicIDs[0], message.data
        check = self._checks.get(topic)
        if check is None:
            return
        counts = self.count(topic)
        counts.received += 1
        counts.bytes_received += len(data)
        if not self.seen_messages.add(compute_message_id(topic, data)):
            counts.duplicates += 1
            return
        verdict = self._judge(check, topic, data, node, counts)
        if verdict is Verdict.REJECT:
            counts.rejected += 1
            self._fault(node, f"a message on {topic} that every honest peer refuses")
        elif verdict is Verdict.IGNORE:
            counts.ignored += 1
        elif self._deliver(topic, data, node):
            counts.delivered += 1
            counts.forwarded += self._send(topic, data, peer, counts)
        else:
            counts.dropped += 1

    def _judge(self, check: Check, topic: str, data: bytes, node: bytes, counts: TopicCounts) -> Verdict:
        if len(data) > GOSSIP_BYTES_MAX:
            return Verdict.REJECT
        try:
            return check(topic, data, node)
        except Exception:  # a bug of ours that this message brought out: the message is lost, the node is not
            counts.check_errors += 1
            logger.exception("the check of %s failed", topic)
            return Verdict.IGNORE
