"""Honest peers and sybils on the simulated network: the same router, and what each does besides.

Sybils are as greedy as the gossipsub-hardening runs' `BadBoy`: they graft everybody they reach, and again when a
backoff ends, mesh with no bound, advertise what they hear of, and send what the attack lets through. They tell each
other nothing.
Source: libp2p/gossipsub-hardening; "GossipSub: Attack-Resilient Message Propagation" (arXiv 2007.02754), section 4.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from p2p.gossipsub import (
    Effect,
    Event,
    Fault,
    GossipParams,
    Heartbeat,
    Received,
    Seek,
    SendMessage,
    Subscribe,
    TopicParams,
)
from p2p.gossipsub.wire import wrap_control, write_ihave
from testnet.gossip.network import TOPIC, Network, Node, accept

REDIAL_BEATS = 2
HEADER_BYTES = 64  # of a packet, within which the start of its message's data stands
GREEDY: dict[str, Any] = {
    "degree": 512,
    "degree_low": 256,
    "degree_high": 1_024,
    "degree_out": 0,
    "opportunistic_graft_ticks": 10**9,
    "heartbeat_ms": 5_000,  # a backoff lasts a minute: nothing is gained by looking more often
    "gossip_factor": 0.0,  # degree_lazy peers a beat: to tell everybody changes only the simulator's load
}
PROMISES = 20  # peers that are told in one beat
MESSAGE, CONTROL = 0x12, 0x1A  # the tags that packets begin with
IHAVE_BYTES_MIN = 256


@dataclass(frozen=True)
class Flood:
    """So many IHAVEs with so many made-up names each, to everybody, every so many beats of a sybil: 5 s each."""

    packets: int
    ids: int
    beats: int = 1


class Honest(Node):
    """Keeps `dials` connections of its own making, to peers of its `book`, and ends those to graylisted peers."""

    def __init__(
        self, network: Network, index: int, params: GossipParams, topic: TopicParams, dice: random.Random, dials: int
    ) -> None:
        super().__init__(network, index, params, random.Random(dice.random()))
        self._dice = dice
        self._dials = dials
        self._group = f"10.{index >> 8}.{index & 255}.1"
        self.book: Sequence[Node] = ()
        self.graylisted: set[bytes] = set()
        self.sent_bytes = 0
        self.do(Subscribe(TOPIC, accept, topic))

    def take(self, event: Event) -> None:
        super().take(event)
        if type(event) is Heartbeat:
            self._keep()

    def _keep(self) -> None:
        self._dial_some(self._dials - sum(link.is_outbound for link in self.links.values()))

    def _dial_some(self, missing: int) -> None:
        fit = [node for node in self.book if node is not self and node.key not in self.links] if missing > 0 else []
        for node in self._dice.sample(fit, min(missing, len(fit))) if fit else ():
            self.network.connect(self, node, self._group)

    def send(self, peers: list[bytes] | tuple[bytes, ...], packet: bytes) -> None:
        self.sent_bytes += len(peers) * len(packet)
        super().send(peers, packet)

    def note(self, effect: Effect) -> None:
        if type(effect) is Seek:
            self._dial_some(1)
        elif type(effect) is Fault and effect.reason.startswith("graylisted"):
            self.graylisted.add(effect.peer)
            if effect.peer in self.links:
                self.network.disconnect(self, self.links[effect.peer].far)


class Sybil(Node):
    """Forwards and answers with `keeps` of all messages from `attacks_ms` on, none that hold `censored`."""

    def __init__(
        self,
        network: Network,
        index: int,
        params: GossipParams,
        topic: TopicParams,
        dice: random.Random,
        *,
        attacks_ms: int,
        keeps: float,
        censored: bytes | None,
        flood: Flood | None,
        group: str,
    ) -> None:
        greedy = replace(params, **GREEDY)
        super().__init__(network, index, greedy, random.Random(dice.random()))
        self._dice = dice
        self._attacks_ms = attacks_ms
        self._keeps = keeps
        self._censored = censored
        self._flood = flood
        self._group = group
        self._beats = 0
        self._overheard = b""
        self.targets: list[Honest] = []
        self.do(Subscribe(TOPIC, accept, topic))

    def dial(self) -> None:
        for node in self.targets:
            self.network.connect(self, node, self._group)

    def take(self, event: Event) -> None:
        if type(event) is Received and self._overhears(event.packet):
            return
        super().take(event)
        if type(event) is Heartbeat and self.links:
            self._beats += 1
            if self._beats % REDIAL_BEATS == 0:
                self.dial()
            if self.is_attacking():
                self._promise()

    def is_attacking(self) -> bool:
        return self.network.now_ms >= self._attacks_ms

    def _overhears(self, packet: bytes) -> bool:
        """What the router need not see: what others advertise, and messages when none is let through anyway."""
        if packet[0] == CONTROL and len(packet) > IHAVE_BYTES_MIN:
            self._overheard = packet
            return True
        return packet[0] == MESSAGE and self._keeps == 0 and self._censored is None and self.is_attacking()

    def _promise(self) -> None:
        """Advertise to some what another peer has, or to all what nobody has. It is never sent."""
        if (flood := self._flood) is not None:
            for _ in range(flood.packets if self._beats % flood.beats == 0 else 0):
                ids = [self._dice.randbytes(20) for _ in range(flood.ids)]
                self.send(tuple(self.links), wrap_control(write_ihave(TOPIC.encode(), ids)))
        elif self._overheard:
            self.send(self._dice.sample(list(self.links), min(PROMISES, len(self.links))), self._overheard)

    def carry_out(self, effects: list[Effect]) -> None:
        if self.is_attacking():
            effects = [effect for effect in effects if type(effect) is not SendMessage or self._passes(effect)]
        super().carry_out(effects)

    def _passes(self, effect: SendMessage) -> bool:
        if self._censored is not None:
            return effect.packet.find(self._censored, 0, HEADER_BYTES) < 0
        return self._keeps > 0 and self._dice.random() < self._keeps
