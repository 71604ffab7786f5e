"""The simulated network of routers, as tests want it: nodes by number, one delay, loss, and notes of everything."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable

from p2p.gossipsub import (
    Deliver,
    Effect,
    Event,
    Fault,
    GossipParams,
    Judge,
    Judged,
    Publish,
    ResetStream,
    Router,
    Subscribe,
    TopicParams,
    Validate,
)
from protocol.types import Verdict
from testnet.gossip import network as simulated
from testnet.gossip.network import TOPIC, accept, node_key

__all__ = ["TOPIC", "FakeNetwork", "Node", "accept", "lone_router", "node_key"]


class Node(simulated.Node):
    """A router and what came out of it."""

    network: "FakeNetwork"

    def __init__(self, network: "FakeNetwork", index: int, params: GossipParams, dice: random.Random) -> None:
        super().__init__(network, index, params, dice)
        self.delivered: list[tuple[str, bytes, bytes]] = []
        self.faults: list[Fault] = []
        self.resets: list[ResetStream] = []
        self.sent: Counter[bytes] = Counter()  # bytes, by peer
        self.effects: list[tuple[int, Effect]] = []

    def received(self) -> list[bytes]:
        return [data for _, data, _ in self.delivered]

    def carry_out(self, effects: list[Effect]) -> None:
        network = self.network
        for effect in effects:
            if network.is_traced:
                network.trace.update(repr((network.now_ms, self.index, effect)).encode())
                self.effects.append((network.now_ms, effect))
            if isinstance(effect, Deliver):
                self.delivered.append(tuple(effect))
        super().carry_out(effects)

    def send(self, peers: list[bytes] | tuple[bytes, ...], packet: bytes) -> None:
        network = self.network
        for peer in peers:
            self.sent[peer] += len(packet)
        super().send([peer for peer in peers if not network.lose(self.index, network.index.get(peer, -1))], packet)

    def note(self, effect: Effect) -> None:
        network = self.network
        if isinstance(effect, Fault):
            self.faults.append(effect)
        elif isinstance(effect, ResetStream):
            self.resets.append(effect)
        elif isinstance(effect, Validate) and network.judge_delay_ms is not None:
            network.at(network.now_ms + network.judge_delay_ms, self, Judged([(effect.ticket, Verdict.ACCEPT)]))


class FakeNetwork(simulated.Network):
    """Nodes 0..n-1. `lose(sender, receiver)` says of each packet whether it is lost."""

    nodes: list[Node]  # type: ignore[assignment]

    def __init__(
        self,
        count: int,
        params: GossipParams | None = None,
        seed: int = 1,
        delay_ms: int = 10,
        judge_delay_ms: int | None = None,
    ) -> None:
        super().__init__(lambda: delay_ms)
        self.judge_delay_ms = judge_delay_ms
        self.lose: Callable[[int, int], bool] = lambda sender, receiver: False
        self.params = params or GossipParams()
        self.trace = hashlib.sha256()
        self.is_traced = True
        for i in range(count):
            node = Node(self, i, self.params, random.Random(seed * 1_000 + i))
            self.add(node, self.params.heartbeat_ms + i % 7)
        self.index = {node.key: i for i, node in enumerate(self.nodes)}

    @property
    def links(self) -> set[tuple[int, int]]:
        return {(node.index, self.index[peer]) for node in self.nodes for peer in node.links}

    def connect(self, a: int, b: int, group: str = "") -> bool:  # type: ignore[override]
        """a dials b."""
        return super().connect(self.nodes[a], self.nodes[b], group)

    def disconnect(self, a: int, b: int) -> None:  # type: ignore[override]
        super().disconnect(self.nodes[a], self.nodes[b])

    def connect_all(self) -> None:
        for a in range(len(self.nodes)):
            for b in range(a):
                self.connect(a, b)

    def connect_degree(self, degree: int, dice: random.Random) -> None:
        for a in range(len(self.nodes)):
            for b in dice.sample(range(len(self.nodes)), degree // 2):
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
        self.run_until(self.now_ms + for_ms)

    def do(self, index: int, event: Event) -> list[Effect]:
        """Hand an event over now, and carry out what it asks for."""
        return self.nodes[index].do(event)


def lone_router(params: GossipParams | None = None, seed: int = 3) -> Router:
    return Router(params or GossipParams(), random.Random(seed))
