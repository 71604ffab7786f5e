"""Gossip routers on virtual time: links with a delay of their own, everything repeatable from a seed.

The routers are the ones nodes run; only the wire and the clock are made up. A link keeps the order of what is sent over
it, and behind a packet that is worked off in slices the peer's next ones wait, as they do in `p2p.gossip`. Nothing is
lost and bandwidth is unbounded: what a router cannot take is its own to refuse. No clock, and no dice but those handed
in.
"""

import random
from collections import deque
from collections.abc import Callable
from hashlib import sha256

from p2p.gossipsub import (
    Continue,
    Deliver,
    Effect,
    Event,
    GossipParams,
    Heartbeat,
    PeerDown,
    PeerUp,
    Received,
    Resumed,
    Router,
    SendControl,
    SendMessage,
    SendSubscriptions,
)
from p2p.gossipsub.wire import wrap_control
from protocol.types import Verdict

TOPIC = "/rolemesh/00/claims/1"


def accept(topic: str, data: bytes, forwarder: bytes) -> Verdict | None:
    return Verdict.ACCEPT


def node_key(index: int) -> bytes:
    return sha256(b"node %d" % index).digest()


class Link:
    """One direction of a connection."""

    __slots__ = ("busy", "delay_ms", "far", "is_outbound", "waiting")

    def __init__(self, far: "Node", delay_ms: int, is_outbound: bool) -> None:
        self.far = far
        self.delay_ms = delay_ms
        self.is_outbound = is_outbound
        self.busy = False  # what came from the far end is being worked off in slices
        self.waiting: deque[Received] | None = None


class Node:
    """A router, its links, and what it does with what the router wants. Subclasses cheat, or take notes."""

    def __init__(self, network: "Network", index: int, params: GossipParams, dice: random.Random) -> None:
        self.network = network
        self.index = index
        self.key = node_key(index)
        self.router = Router(params, dice)
        self.links: dict[bytes, Link] = {}
        self.beat_ms = params.heartbeat_ms

    def do(self, event: Event) -> list[Effect]:
        """Hand an event over now, and carry out what it asks for."""
        effects = self.router.handle(event, self.network.now_ms)
        if effects:
            self.carry_out(effects)
        return effects

    def take(self, event: Event) -> None:
        """An event whose time has come."""
        if type(event) is Received or type(event) is Resumed:
            self._take_packet(event)
            return
        if type(event) is Heartbeat:
            self.network.at(self.network.now_ms + self.beat_ms, self, event)
        self.do(event)

    def _take_packet(self, event: Received | Resumed) -> None:
        link = self.links.get(event.peer)
        if link is None:
            return
        if type(event) is Received and link.busy:
            link.waiting = link.waiting or deque()
            link.waiting.append(event)
            return
        effects = self.router.handle(event, self.network.now_ms)
        if effects:
            self.carry_out(effects)
        if effects and any(type(effect) is Continue for effect in effects):
            link.busy = True
            self.network.at(self.network.now_ms, self, Resumed(event.peer))
        elif link.busy:
            link.busy = False
            if link.waiting:
                self.network.at(self.network.now_ms, self, link.waiting.popleft())

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if type(effect) is SendMessage:
                self.send(effect.peers, effect.packet)
            elif type(effect) is SendControl:
                self.send((effect.peer,), wrap_control(effect.body))
            elif type(effect) is SendSubscriptions:
                self.send((effect.peer,), effect.packet)
            elif type(effect) is Deliver:
                self.network.deliver(self, effect.data)
            else:
                self.note(effect)

    def send(self, peers: "list[bytes] | tuple[bytes, ...]", packet: bytes) -> None:
        """One packet to each of these peers, as far as they are connected."""
        now_ms, due, links = self.network.now_ms, self.network.due, self.links
        event = Received(self.key, packet)
        for peer in peers:
            link = links.get(peer)
            if link is not None:
                at_ms = now_ms + link.delay_ms
                if at_ms in due:
                    due[at_ms].append((link.far, event))
                else:
                    due[at_ms] = [(link.far, event)]

    def note(self, effect: Effect) -> None:
        """Faults and the rest: nothing that moves a packet."""


class Network:
    """Nodes and virtual time. `get_delay_ms` draws the delay of a new link; both directions share it."""

    def __init__(self, get_delay_ms: Callable[[], int]) -> None:
        self.now_ms = 0
        self.nodes: list[Node] = []
        # By the millisecond, in the order of sending: a heap of millions of events costs more than the routers.
        self.due: dict[int, list[tuple[Node, Event]]] = {}
        self._get_delay_ms = get_delay_ms
        self.deliver: Callable[[Node, bytes], None] = lambda node, data: None

    def add(self, node: Node, first_beat_ms: int) -> None:
        self.nodes.append(node)
        self.at(first_beat_ms, node, Heartbeat())

    def at(self, at_ms: int, node: Node, event: Event) -> None:
        self.due.setdefault(at_ms, []).append((node, event))

    def connect(self, a: Node, b: Node, group: str = "") -> bool:
        """a dials b, who counts a's address as `group`; False when they are connected already."""
        if a is b or b.key in a.links:
            return False
        delay_ms = self._get_delay_ms()
        a.links[b.key] = Link(b, delay_ms, True)
        b.links[a.key] = Link(a, delay_ms, False)
        a.do(PeerUp(b.key, is_outbound=True, speaks_v12=True))
        b.do(PeerUp(a.key, group=group, speaks_v12=True))
        return True

    def disconnect(self, a: Node, b: Node) -> None:
        if b.key in a.links:
            del a.links[b.key], b.links[a.key]
            a.do(PeerDown(b.key))
            b.do(PeerDown(a.key))

    def run_until(self, until_ms: int) -> None:
        """Everything up to and with `until_ms`. What is due now and asked for now comes in the same millisecond."""
        due = self.due
        for now_ms in range(self.now_ms, until_ms + 1):
            bucket = due.get(now_ms)
            if bucket is None:
                continue
            self.now_ms = now_ms
            for node, event in bucket:  # grows while it is walked
                node.take(event)
            del due[now_ms]
        self.now_ms = until_ms
