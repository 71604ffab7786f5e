"""Many routers on links that exist only here: virtual time, one delay per link, everything repeatable from a seed."""

import hashlib
import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from p2p.gossipsub import (
    Continue,
    Deliver,
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
    Subscribe,
    TopicParams,
    Validate,
)
from p2p.gossipsub.wire import wrap_control
from protocol.types import Verdict

TOPIC = "/rolemesh/00/claims/1"


def accept(topic: str, data: bytes, forwarder: bytes) -> Verdict | None:
    return Verdict.ACCEPT


def node_key(index: int) -> bytes:
    return hashlib.sha256(b"node %d" % index).digest()


@dataclass
class Node:
    """A router and what came out of it."""

    key: bytes
    router: Router
    delivered: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    resets: list[ResetStream] = field(default_factory=list)
    waiting: dict[bytes, deque[bytes]] = field(default_factory=dict)  # packets behind one that is worked off in slices
    busy: set[bytes] = field(default_factory=set)
    sent: Counter[bytes] = field(default_factory=Counter)  # bytes, by peer
    effects: list[tuple[int, Effect]] = field(default_factory=list)

    def received(self) -> list[bytes]:
        return [data for _, data, _ in self.delivered]


class FakeNetwork:
    """Nodes 0..n-1. `lose(sender, receiver)` says of each packet whether it is lost."""

    def __init__(
        self,
        count: int,
        params: GossipParams | None = None,
        seed: int = 1,
        delay_ms: int = 10,
        judge_delay_ms: int | None = None,
    ) -> None:
        self.now_ms = 0
        self.delay_ms = delay_ms
        self.judge_delay_ms = judge_delay_ms
        self.lose: Callable[[int, int], bool] = lambda sender, receiver: False
        self.params = params or GossipParams()
        self.nodes = [Node(node_key(i), Router(self.params, random.Random(seed * 1_000 + i))) for i in range(count)]
        self.index = {node.key: i for i, node in enumerate(self.nodes)}
        self.links: set[tuple[int, int]] = set()
        self._heap: list[tuple[int, int, int, Event]] = []
        self._order = itertools.count()
        self.trace = hashlib.sha256()
        self.is_traced = True
        for i in range(count):
            self.at(self.params.heartbeat_ms + i % 7, i, Heartbeat())

    def at(self, at_ms: int, node: int, event: Event) -> None:
        heapq.heappush(self._heap, (at_ms, next(self._order), node, event))

    def connect(self, a: int, b: int, group: str = "") -> None:
        """a dials b."""
        if a == b or (a, b) in self.links:
            return
        self.links |= {(a, b), (b, a)}
        self.do(a, PeerUp(self.nodes[b].key, is_outbound=True, speaks_v12=True))
        self.do(b, PeerUp(self.nodes[a].key, group=group, speaks_v12=True))

    def disconnect(self, a: int, b: int) -> None:
        if (a, b) not in self.links:
            return
        self.links -= {(a, b), (b, a)}
        for node, other in ((a, b), (b, a)):
            self.nodes[node].busy.discard(self.nodes[other].key)
            self.nodes[node].waiting.pop(self.nodes[other].key, None)
            self.do(node, PeerDown(self.nodes[other].key))

    def connect_all(self) -> None:
        for a in range(len(self.nodes)):
            for b in range(a):
                self.connect(a, b)

    def connect_degree(self, degree: int, dice: random.Random) -> None:
        for a in range(len(self.nodes)):
            for b in dice.sample(range(len(self.nodes)), degree // 2):
                if (b, a) not in self.links:
                    self.connect(a, b)

    def subscribe(
        self,
        nodes: Iterable[int] | None = None,
        judge: Judge | None = accept,
        params: TopicParams | None = None,
        topic: str = TOPIC,
    ) -> None:
        for i in nodes if nodes is not None else range(len(self.nodes)):
            self.do(i, Subscribe(topic, judge, params))

    def publish(self, node: int, data: bytes, topic: str = TOPIC) -> list[Effect]:
        return self.do(node, Publish(topic, data))

    def run(self, for_ms: int) -> None:
        until = self.now_ms + for_ms
        while self._heap and self._heap[0][0] <= until:
            self.now_ms, _, node, event = heapq.heappop(self._heap)
            self._arrive(node, event)
        self.now_ms = until

    def _arrive(self, index: int, event: Event) -> None:
        node = self.nodes[index]
        if isinstance(event, Heartbeat):
            self.at(self.now_ms + self.params.heartbeat_ms, index, event)
        elif isinstance(event, Received):
            if (index, self.index[event.peer]) not in self.links:
                return
            if event.peer in node.busy:
                node.waiting.setdefault(event.peer, deque()).append(event.packet)
                return
        self.do(index, event)

    def do(self, index: int, event: Event) -> list[Effect]:
        """Hand an event over now, and carry out what it asks for."""
        effects = self.nodes[index].router.handle(event, self.now_ms)
        for effect in effects:
            if self.is_traced:
                self.trace.update(repr((self.now_ms, index, effect)).encode())
                self.nodes[index].effects.append((self.now_ms, effect))
            self._carry_out(index, effect)
        if isinstance(event, Received | Resumed):
            self._go_on(index, event.peer, any(isinstance(effect, Continue) for effect in effects))
        return effects

    def _go_on(self, index: int, peer: bytes, is_busy: bool) -> None:
        node = self.nodes[index]
        if is_busy:
            node.busy.add(peer)
            self.at(self.now_ms, index, Resumed(peer))
            return
        node.busy.discard(peer)
        if node.waiting.get(peer):
            self.at(self.now_ms, index, Received(peer, node.waiting[peer].popleft()))

    def _carry_out(self, index: int, effect: Effect) -> None:
        node = self.nodes[index]
        if isinstance(effect, SendMessage):
            for peer in effect.peers:
                self._send(index, peer, effect.packet)
        elif isinstance(effect, SendControl):
            self._send(index, effect.peer, wrap_control(effect.body))
        elif isinstance(effect, SendSubscriptions):
            self._send(index, effect.peer, effect.packet)
        elif isinstance(effect, Deliver):
            node.delivered.append(tuple(effect))
        elif isinstance(effect, Fault):
            node.faults.append(effect)
        elif isinstance(effect, ResetStream):
            node.resets.append(effect)
        elif isinstance(effect, Validate) and self.judge_delay_ms is not None:
            self.at(self.now_ms + self.judge_delay_ms, index, Judged(effect.ticket, Verdict.ACCEPT))

    def _send(self, index: int, peer: bytes, packet: bytes) -> None:
        self.nodes[index].sent[peer] += len(packet)
        other = self.index.get(peer)
        if other is None or (index, other) not in self.links or self.lose(index, other):
            return
        self.at(self.now_ms + self.delay_ms, other, Received(self.nodes[index].key, packet))


def lone_router(params: GossipParams | None = None, seed: int = 3) -> Router:
    return Router(params or GossipParams(), random.Random(seed))
