"""The simulated network of one node: the `Net` of `p2p.net` over links in virtual time.

Gossip floods what this node publishes to every subscriber and forwards what it accepts to a few; nothing repairs a
loss, as with the real one when a queue overflows. Every peer whose address is known is dialled, again and again.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from p2p.net import (
    GOSSIP_BYTES_MAX,
    STREAM_BYTES_MAX,
    Answered,
    Asked,
    Check,
    Delivered,
    NetEvent,
    PeerConnected,
    PeerDisconnected,
    Published,
    Unanswered,
)
from protocol.errors import LocalError
from protocol.types import Verdict
from testnet.sim_links import Fabric

MESH_DEGREE = 6
SEEN_MS = 120_000
SEEN_MAX = 65_536
REDIAL_MS_MIN = 500
REDIAL_MS_MAX = 5_000
PEERS_MAX = 256
STREAMS_IN_MAX = 512
PENALTIES_MAX = 20
BAN_MS = 60_000


@dataclass
class _Question:
    """One of our requests, from `request` to its one outcome."""

    peer: bytes
    protocol: str
    data: bytes
    token: str
    deadline_ms: int


class SimNet:
    """One host. Made by `Fabric.attach`; `address` is what others may dial."""

    def __init__(self, fabric: Fabric, name: str, node: bytes, address: str, sink: Callable[[NetEvent], None]) -> None:
        self.name = name
        self.address = address
        self.is_closed = False
        self.rejected = 0
        self._node = node
        self._fabric = fabric
        self._kernel = fabric.kernel
        self._sink = sink
        self._checks: dict[str, Check] = {}
        self._protocols: set[str] = set()
        self._links: dict[bytes, SimNet] = {}
        self._addresses: dict[bytes, tuple[str, ...]] = {}
        self._dialling: set[bytes] = set()
        self._topics: dict[bytes, tuple[int, frozenset[str]]] = {}  # peer -> version of its list, its topics
        self._version = 0
        self._meshes: dict[str, tuple[SimNet, ...]] = {}
        self._seen: OrderedDict[bytes, int] = OrderedDict()
        self._questions: dict[int, _Question] = {}  # ours, by number
        self._asked: dict[str, tuple[SimNet, int]] = {}  # others', by our token: who asks, its number
        self._count = 0
        self._penalties: dict[bytes, int] = {}
        self._banned: dict[bytes, int] = {}  # until when

    # The seam

    @property
    def node(self) -> bytes:
        return self._node

    def subscribe(self, topic: str, check: Check) -> None:
        self._checks[topic] = check
        self._announce()

    def unsubscribe(self, topic: str) -> None:
        self._checks.pop(topic, None)
        self._announce()

    def publish(self, topic: str, data: bytes, token: str) -> None:
        if len(data) > GOSSIP_BYTES_MAX:
            raise LocalError(f"a gossip message has {len(data)} bytes, at most {GOSSIP_BYTES_MAX}")
        targets: tuple[SimNet, ...] = ()
        if self._is_new(topic, data):
            targets = self._find_subscribers(topic)
        for target in targets:
            self._fabric.carry_gossip(self, target, topic, data)
        self._emit(Published(token, topic, len(targets)))

    def serve(self, protocol: str) -> None:
        self._protocols.add(protocol)

    def request(self, peer: bytes, protocol: str, data: bytes, token: str, timeout_ms: int) -> None:
        if len(data) > STREAM_BYTES_MAX:
            self._emit(Unanswered(token, f"{len(data)} bytes are more than a stream's {STREAM_BYTES_MAX}"))
            return
        if peer not in self._links and (peer == self._node or peer not in self._addresses):
            self._emit(Unanswered(token, "no address of that peer is known"))
            return
        self._count += 1
        number = self._count
        self._questions[number] = _Question(peer, protocol, data, token, self._kernel.now_ms + timeout_ms)
        self._kernel.after(timeout_ms, self._fail, number, f"no answer within {timeout_ms} ms")
        if peer in self._links:
            self._send_question(number)
        else:
            self._dial(peer, REDIAL_MS_MIN)

    def reply(self, token: str, data: bytes) -> None:
        asker, number = self._asked.pop(token, (None, 0))
        if asker is None:
            return
        if len(data) > STREAM_BYTES_MAX:
            reason = f"the answer's {len(data)} bytes are more than a stream's {STREAM_BYTES_MAX}"
            self._fabric.carry_stream(self, asker, lambda: asker._fail(number, reason))
            return
        self._fabric.carry_stream(self, asker, lambda: asker._finish(number, data))

    def learn(self, peer: bytes, addresses: tuple[str, ...], topics: tuple[str, ...] = ()) -> None:
        if peer == self._node or (peer not in self._addresses and len(self._addresses) >= PEERS_MAX):
            return
        self._addresses[peer] = addresses
        if peer not in self._links:
            self._dial(peer, REDIAL_MS_MIN)

    def penalise(self, peer: bytes, reason: str) -> None:
        count = self._penalties.get(peer, 0) + 1
        self._penalties[peer] = count
        if count < PENALTIES_MAX:
            return
        self._penalties[peer] = 0
        self._banned[peer] = self._kernel.now_ms + BAN_MS
        link = self._links.get(peer)
        if link is not None:
            self._kernel.after(0, self._hang_up, link)

    def peers(self) -> tuple[bytes, ...]:
        return tuple(sorted(self._links))

    def subscribers(self, topic: str) -> tuple[bytes, ...]:
        return tuple(peer for peer in sorted(self._links) if self._is_on(peer, topic))

    # What the fabric tells us

    @property
    def linked(self) -> "tuple[SimNet, ...]":
        return tuple(self._links.values())

    def is_linked(self, other: "SimNet") -> bool:
        return self._links.get(other.node) is other

    def close(self) -> None:
        """Die: nothing more is sent, received or reported; peers learn of it a link's delay later."""
        self.is_closed = True
        for peer in self.linked:
            self._kernel.after(self._fabric.draw_delay_ms(self, peer), peer.unlink, self)

    def link(self, other: "SimNet") -> None:
        self._links[other.node] = other
        self._topics[other.node] = other._version, frozenset(other._checks)
        self._meshes.clear()
        self._emit(PeerConnected(other.node))
        for number, question in tuple(self._questions.items()):
            if question.peer == other.node:
                self._send_question(number)

    def unlink(self, other: "SimNet") -> None:
        """The connection is gone: what was asked over it fails, and the keeper dials again."""
        if self.is_closed or not self.is_linked(other):
            return
        del self._links[other.node]
        self._topics.pop(other.node, None)
        self._meshes.clear()
        self._emit(PeerDisconnected(other.node))
        for number, question in tuple(self._questions.items()):
            if question.peer == other.node:
                self._fail(number, "the connection was lost")
        for token, (asker, _) in tuple(self._asked.items()):
            if asker is other:
                del self._asked[token]
        self._kernel.after(REDIAL_MS_MIN, self._dial, other.node, REDIAL_MS_MIN)

    def take_gossip(self, topic: str, data: bytes, forwarder: bytes) -> None:
        check = self._checks.get(topic)
        if check is None or self._is_banned(forwarder) or len(data) > GOSSIP_BYTES_MAX:
            return
        if not self._is_new(topic, data):
            return
        verdict = check(topic, data, forwarder)
        if verdict is Verdict.REJECT:
            self.rejected += 1
            self.penalise(forwarder, f"sent what {topic} refuses")
        if verdict is not Verdict.ACCEPT:
            return
        for target in self._get_mesh(topic):
            if target.node != forwarder:
                self._fabric.carry_gossip(self, target, topic, data)
        self._deliver(Delivered(topic, data, forwarder))

    # Connections

    def _dial(self, peer: bytes, again_ms: int) -> None:
        if self.is_closed or peer in self._links or peer in self._dialling or self._is_banned(peer):
            return
        self._dialling.add(peer)
        host = self._find_host(peer)
        delay_ms = 1
        if host is not None:
            delay_ms = self._fabric.draw_delay_ms(self, host) + self._fabric.draw_delay_ms(host, self)
        self._kernel.after(delay_ms, self._dialled, peer, again_ms)

    def _dialled(self, peer: bytes, again_ms: int) -> None:
        self._dialling.discard(peer)
        if self.is_closed or peer in self._links:
            return
        host = self._find_host(peer)
        if host is not None and not self._fabric.is_cut(self, host) and not host._is_banned(self._node):
            stale = host._links.get(self._node)
            if stale is not None:  # we died and came back before the news of it arrived
                host.unlink(stale)
            self.link(host)
            host.link(self)
            return
        for number, question in tuple(self._questions.items()):
            if question.peer == peer:
                self._fail(number, "the peer cannot be reached")
        self._kernel.after(again_ms, self._dial, peer, min(2 * again_ms, REDIAL_MS_MAX))

    def _find_host(self, peer: bytes) -> "SimNet | None":
        for address in self._addresses.get(peer, ()):
            host = self._fabric.find_host(address)
            if host is not None and host.node == peer:
                return host
        return None

    def _hang_up(self, peer: "SimNet") -> None:
        self.unlink(peer)
        peer.unlink(self)

    def _is_banned(self, peer: bytes) -> bool:
        return self._banned.get(peer, 0) > self._kernel.now_ms

    # Gossip

    def _announce(self) -> None:
        self._version += 1
        version, topics = self._version, frozenset(self._checks)
        for peer in self.linked:
            self._fabric.carry_stream(self, peer, partial(peer._hear_topics, self, version, topics))

    def _hear_topics(self, peer: "SimNet", version: int, topics: frozenset[str]) -> None:
        if version > self._topics.get(peer.node, (0, topics))[0]:
            self._topics[peer.node] = version, topics
            self._meshes.clear()

    def _is_on(self, peer: bytes, topic: str) -> bool:
        return topic in self._topics[peer][1]

    def _find_subscribers(self, topic: str) -> "tuple[SimNet, ...]":
        return tuple(self._links[peer] for peer in self.subscribers(topic))

    def _get_mesh(self, topic: str) -> "tuple[SimNet, ...]":
        mesh = self._meshes.get(topic)
        if mesh is None:
            # Ranked by a hash, so that different nodes forward to different peers and a run repeats.
            ranked = sorted(
                self._find_subscribers(topic),
                key=lambda peer: hashlib.sha256(self._node + peer.node + topic.encode()).digest(),
            )
            mesh = self._meshes[topic] = tuple(ranked[:MESH_DEGREE])
        return mesh

    def _is_new(self, topic: str, data: bytes) -> bool:
        key = hashlib.sha256(topic.encode() + b"\0" + data).digest()[:20]
        now_ms = self._kernel.now_ms
        while self._seen and (len(self._seen) >= SEEN_MAX or next(iter(self._seen.values())) <= now_ms):
            self._seen.popitem(last=False)
        if key in self._seen:
            return False
        self._seen[key] = now_ms + SEEN_MS
        return True

    # Questions and answers

    def _send_question(self, number: int) -> None:
        question = self._questions[number]
        peer = self._links[question.peer]
        self._fabric.carry_stream(self, peer, lambda: peer._take_question(self, number, question))

    def _take_question(self, asker: "SimNet", number: int, question: _Question) -> None:
        refusal = ""
        if question.protocol not in self._protocols:
            refusal = f"the peer does not serve {question.protocol}"
        elif len(self._asked) >= STREAMS_IN_MAX:
            refusal = f"the peer has {STREAMS_IN_MAX} streams open"
        if refusal:
            self._fabric.carry_stream(self, asker, lambda: asker._fail(number, refusal))
            return
        self._count += 1
        token = f"asked-{self._count}"
        self._asked[token] = asker, number
        self._kernel.at(question.deadline_ms, self._forget, token)
        self._deliver(Asked(question.protocol, asker.node, question.data, token))

    def _forget(self, token: str) -> None:
        self._asked.pop(token, None)

    def _finish(self, number: int, data: bytes) -> None:
        question = self._questions.pop(number, None)
        if question is not None:
            self._deliver(Answered(question.token, data))

    def _fail(self, number: int, reason: str) -> None:
        question = self._questions.pop(number, None)
        if question is not None:
            self._emit(Unanswered(question.token, reason))

    # Events

    def _emit(self, event: NetEvent) -> None:
        """Report later in this millisecond: no call of the seam runs the sink inside itself."""
        self._kernel.after(0, self._deliver, event)

    def _deliver(self, event: NetEvent) -> None:
        if not self.is_closed:
            self._kernel.record(self._node, event)
            self._sink(event)
