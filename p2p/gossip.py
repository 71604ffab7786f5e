"""Gossip: py-libp2p's own GossipSub keeps the mesh, our pump around it carries the messages and stands the attacks.

The stock Pubsub dies of one malformed packet, starts a task per message, signs a peer record into every packet, reads
lengths byte by byte and drops in silence; so it is not used. `GossipRouter` is stock GossipSub with its message path
and control handlers bounded. On the wire this is `/meshsub/1.1.0`, StrictNoSign: our envelopes sign.
"""

import hashlib
import logging
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import trio
from google.protobuf.message import DecodeError
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import IOException
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.mcache import CacheEntry, MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_uvarint

from p2p.host import StreamRefused, to_node, to_peer
from p2p.net import GOSSIP_BYTES_MAX, Check
from protocol.errors import LocalError
from protocol.types import Verdict

logger = logging.getLogger(__name__)

MESHSUB = "/meshsub/1.1.0"
DEGREE, DEGREE_LOW, DEGREE_HIGH = 4, 3, 8
FLOOD_MAX = 16  # peers our own messages go to at once, in the mesh or not: one hop on a small network
HEARTBEAT_S = 1
RPC_BYTES_MAX = 256 * 1024
WRITE_BYTES_MAX = 64 * 1024  # packets for one peer are merged up to this into one write
WRITE_FRAMES_MAX = 64
SLICE = 32  # messages handled between two turns of the loop
IDS_MAX = 64  # message ids asked for, or answered, per control message
CONTROL_MAX = 64  # entries of one kind in one control message
RESEND_MAX = 3  # times one message is sent again to one peer that asks
OUT_FRAMES_MAX = 1_024  # packets waiting for one peer
OUT_BYTES_MAX = 4 * 1024 * 1024
SEEN_MAX = 65_536
SEEN_S = 120
TOPICS_PER_PEER_MAX = 64
TOPIC_BYTES_MAX = 128
RETRY_S = 0.1
ID_BYTES = 20
_ID_DOMAIN = b"rolemesh/v1/gossip\0"


def compute_message_id(topic: str, data: bytes) -> bytes:
    """20 bytes over everything sent, so that a forged copy has an id of its own and cannot silence the honest one."""
    return hashlib.sha256(_ID_DOMAIN + topic.encode() + b"\0" + data).digest()[:ID_BYTES]


@dataclass
class TopicCounts:
    """What went through one topic since the start. `received` counts every copy."""

    received: int = 0
    delivered: int = 0
    duplicates: int = 0
    ignored: int = 0
    rejected: int = 0
    published: int = 0
    forwarded: int = 0
    dropped: int = 0
    check_errors: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0


class Seen:
    """Ids met before, bounded by count and age. Stock's grows without bound and keeps a thread."""

    def __init__(self) -> None:
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def add(self, key: bytes) -> bool:
        """Note the id; True if it is new."""
        now = trio.current_time()
        while self._until and (len(self._until) > SEEN_MAX or next(iter(self._until.values())) < now):
            self._until.popitem(last=False)
        if key in self._until:
            return False
        self._until[key] = now + SEEN_S
        return True

    def has(self, key: bytes) -> bool:
        return key in self._until


@dataclass
class Outbox:
    """Packets waiting for one peer: control first, then messages in order. A full box drops the newest and says so."""

    control: deque[bytes] = field(default_factory=deque)
    messages: deque[bytes] = field(default_factory=deque)
    size: int = 0
    wake: trio.Event = field(default_factory=trio.Event)

    def push(self, packet: bytes, is_control: bool) -> bool:
        if len(self.control) + len(self.messages) >= OUT_FRAMES_MAX or self.size + len(packet) > OUT_BYTES_MAX:
            return False
        (self.control if is_control else self.messages).append(packet)
        self.size += len(packet)
        self.wake.set()
        return True

    async def take(self) -> bytes:
        """Wait for packets; as many as fit one write, merged: protobuf messages concatenate into their union."""
        while not self.control and not self.messages:
            self.wake = trio.Event()
            await self.wake.wait()
        parts: list[bytes] = []
        total = 0
        while (queue := self.control or self.messages) and len(parts) < WRITE_FRAMES_MAX:
            if parts and total + len(queue[0]) > WRITE_BYTES_MAX:
                break
            parts.append(queue.popleft())
            total += len(parts[-1])
        self.size -= total
        return encode_uvarint(total) + b"".join(parts)


class ContentCache(MessageCache):
    """Stock keys messages by sender and number, which unsigned messages have not. Ours by what they contain."""

    def put(self, msg: rpc_pb2.Message) -> None:
        topic = msg.topicIDs[0]
        key = compute_message_id(topic, msg.data)
        if key not in self.msgs:
            self.msgs[key] = msg
            self.history[0].append(CacheEntry(key, [topic]))


class GossipRouter(GossipSub):
    """Stock mesh keeping without scores, adaptive modes, peer exchange and extensions, every list bounded."""

    def __init__(self, pump: "Gossip") -> None:
        super().__init__(
            [TProtocol(MESHSUB)],
            DEGREE,
            DEGREE_LOW,
            DEGREE_HIGH,
            heartbeat_interval=HEARTBEAT_S,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
            max_pending_messages_per_peer=1,
        )
        self.mcache = ContentCache(self.mcache.window_size, self.mcache.history_size)
        self.scorer = None
        self.attach(cast(Any, pump))
        self._pump = pump
        self._resent: Counter[tuple[ID, bytes]] = Counter()
        self._ihave_left: Counter[ID] = Counter()

    def send_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:
        self._pump.push(peer_id, rpc.SerializeToString(), is_control=priority)

    async def beat(self) -> None:
        """One heartbeat: keep the mesh near its degree, tell others what we have, age the caches."""
        for topic, members in self.mesh.items():
            # Stock leaves a peer that unsubscribed in the mesh.
            members &= self._pump.peer_topics.get(topic, set())
        graft, prune = self.mesh_heartbeat()
        self.fanout_heartbeat()
        await self._emit_control_msgs(graft, prune, self.gossip_heartbeat())
        self.mcache.shift()
        self._resent.clear()
        self._ihave_left.clear()
        # Stock never empties this one.
        for peer in [peer for peer in self.graft_flood_tracking if peer not in self.peer_protocol]:
            del self.graft_flood_tracking[peer]

    async def take_control(self, control: rpc_pb2.ControlMessage, peer: ID) -> None:
        """Handle a peer's control message, of each list at most CONTROL_MAX entries and only topics we are on."""
        for graft in control.graft[:CONTROL_MAX]:
            if graft.topicID in self.mesh:
                await self.handle_graft(graft, peer)
        for prune in control.prune[:CONTROL_MAX]:
            if prune.topicID in self.mesh:
                del prune.peers[:]
                await self.handle_prune(prune, peer)
        for ihave in control.ihave[:CONTROL_MAX]:
            if ihave.topicID in self.mesh:
                await self.handle_ihave(ihave, peer)
        for iwant in control.iwant[:CONTROL_MAX]:
            await self.handle_iwant(iwant, peer)

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        """Ask for what we miss, at most IDS_MAX ids per peer and heartbeat. Stock asks for everything named."""
        room = IDS_MAX - self._ihave_left[sender_peer_id]
        wanted = [
            key
            for key in dict.fromkeys(_iter_ids(ihave_msg.messageIDs[: 4 * IDS_MAX]))
            if not self._pump.seen_messages.has(key)
        ][: max(room, 0)]
        self._ihave_left[sender_peer_id] += len(wanted)
        if wanted:
            await self.emit_iwant(wanted, sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        """Send again what we have, each message once per request and RESEND_MAX times per heartbeat. Stock: always."""
        for key in dict.fromkeys(_iter_ids(iwant_msg.messageIDs[:IDS_MAX])):
            message = self.mcache.get(key)
            if message is not None and self._resent[sender_peer_id, key] < RESEND_MAX:
                self._resent[sender_peer_id, key] += 1
                self.send_rpc(sender_peer_id, rpc_pb2.RPC(publish=[message]))

    def choose_peers(self, topic: str, source: ID | None) -> set[ID]:
        """Whom a message goes to: the mesh; our own also to others on the topic, FLOOD_MAX in all."""
        # Only peers we have a stream to: the others cannot be sent anything yet.
        on_topic = {peer for peer in self._pump.peer_topics.get(topic, ()) if peer in self._pump.peers}
        chosen = {peer for peer in self.mesh.get(topic, ()) if peer in on_topic}
        if source is None and len(chosen) < FLOOD_MAX:
            others = sorted(on_topic - chosen, key=ID.to_bytes)
            chosen |= set(self._pump.dice.sample(others, min(len(others), FLOOD_MAX - len(chosen))))
        chosen.discard(cast(ID, source))
        return chosen


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
                for packet in _split(buffer):
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


def _split(buffer: bytearray) -> Iterator[bytes]:
    """Take the whole packets out of buffer."""
    used = 0
    while (head := _parse_length(buffer, used)) is not None:
        start, length = head
        if length > RPC_BYTES_MAX:
            raise ValueError(f"a packet of {length} bytes, at most {RPC_BYTES_MAX}")
        if len(buffer) < start + length:
            break
        yield bytes(buffer[start : start + length])
        used = start + length
    del buffer[:used]


def _parse_length(buffer: bytearray, start: int) -> tuple[int, int] | None:
    """Where the packet begins and how long it is; None while that is incomplete. ValueError if endless."""
    value = 0
    for i in range(4):
        if start + i >= len(buffer):
            return None
        value |= (buffer[start + i] & 0x7F) << (7 * i)
        if not buffer[start + i] & 0x80:
            return start + i + 1, value
    raise ValueError("a packet length of more than four bytes")


def _iter_ids(keys: Any) -> Iterator[bytes]:
    return (key for key in keys if type(key) is bytes and len(key) == ID_BYTES)
