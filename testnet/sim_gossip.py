"""The gossip of one simulated host: the router of real nodes, its heartbeat in virtual time, its packets in pipes.

The counterpart of `p2p.gossip`, which carries the same router on real streams.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from p2p.gossip_params import PARAMS, build_topic_params
from p2p.gossipsub import (
    Blamed,
    Continue,
    Deliver,
    Effect,
    Event,
    Fault,
    Heartbeat,
    Judged,
    PeerDown,
    PeerUp,
    Publish,
    Received,
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
    Unsubscribe,
    Validate,
)
from p2p.gossipsub.packets import MALFORMED
from p2p.net import GOSSIP_BYTES_MAX, Check
from p2p.protobuf import MalformedPacket
from p2p.signature_checks import verify_unproven
from protocol.errors import LocalError
from testnet.sim_pipe import Pipe

if TYPE_CHECKING:
    from testnet.sim_net import SimNet


class SimGossip:
    """One host's topics. `deliver` is called last of all that an event leads to; `fault` may hang up, but later."""

    def __init__(
        self,
        host: "SimNet",
        dice: random.Random,
        deliver: Callable[[Deliver], None],
        fault: Callable[[bytes, str], None],
    ) -> None:
        self.router = Router(PARAMS, dice)
        self.counts = self.router.get_counts()
        self._host = host
        self._kernel = host.kernel
        self._deliver = deliver
        self._fault = fault
        self._pipes: dict[bytes, Pipe] = {}  # to each peer
        self._inbound: dict[bytes, Pipe] = {}  # from each peer that has sent something
        self._handlers: dict[type, Callable[[Any], object]] = {
            SendMessage: self._send_message,
            SendControl: self._send_control,
            SendSubscriptions: self._send_subscriptions,
            Fault: lambda effect: self._fault(effect.peer, effect.reason),
            ResetStream: lambda effect: self._reset(effect.peer),
            Validate: self._validate,
            Seek: lambda effect: None,  # everybody is dialled as soon as an address is known
        }
        self._kernel.after(1 + dice.randrange(PARAMS.heartbeat_ms), self._beat)

    # The application's side

    def subscribe(self, topic: str, check: Check) -> None:
        self._do(Subscribe(topic, check, build_topic_params(topic)))

    def unsubscribe(self, topic: str) -> None:
        self._do(Unsubscribe(topic))

    def publish(self, topic: str, data: bytes) -> int:
        """Queue for peers on the topic; how many. LocalError when it is too large: the caller's mistake."""
        if len(data) > GOSSIP_BYTES_MAX:
            raise LocalError(f"a gossip message has {len(data)} bytes, at most {GOSSIP_BYTES_MAX}")
        effects = self.router.handle(Publish(topic, data, build_topic_params(topic)), self._kernel.now_ms)
        return sum(self._send_message(effect) for effect in effects if type(effect) is SendMessage)

    def blame(self, node: bytes) -> None:
        self._do(Blamed(node))

    # Connections

    def meet(self, node: bytes, is_outbound: bool, group: str, pipe: Pipe) -> None:
        """A peer is connected. `pipe` leads to it; `group` is its address."""
        self._pipes[node] = pipe
        self._do(PeerUp(node, is_outbound, group))

    def drop(self, node: bytes) -> None:
        """The peer is gone."""
        self._pipes.pop(node).close()
        self._inbound.pop(node, None)
        self._do(PeerDown(node))

    def renew(self, node: bytes) -> None:
        """What we send to a peer goes over a new stream."""
        self._do(StreamRenewed(node))

    def take_bytes(self, node: bytes, pipe: Pipe, data: bytes) -> None:
        """What arrives through a peer's pipe. A malformed packet costs it the stream and standing."""
        self._kernel.record(self._host.node, data)
        self._inbound[node] = pipe
        try:
            for packet in pipe.framer.feed(data):
                effects = self._do(Received(node, packet))
                while effects and type(effects[-1]) is Continue:
                    effects = self._do(Resumed(node))
        except MalformedPacket as error:
            self._do(Blamed(node, MALFORMED))
            self._fault(node, f"malformed gossip packet: {error}")
            self._reset(node)

    def get_pipe(self, node: bytes) -> Pipe:
        """The pipe to a connected peer."""
        return self._pipes[node]

    # Doing what the router wants

    def _do(self, event: Event) -> list[Effect]:
        if self._host.is_closed:
            return []
        effects = self.router.handle(event, self._kernel.now_ms)
        delivered: list[Deliver] = []
        handlers = self._handlers
        for effect in effects:
            if type(effect) is Deliver:
                delivered.append(effect)
            elif type(effect) is not Continue:
                handlers[type(effect)](effect)
        for message in delivered:
            self._deliver(message)
        return effects

    def _send_message(self, effect: SendMessage) -> int:
        """Queue it; for how many peers."""
        counts = self.counts.get(effect.topic) or self.counts.setdefault(effect.topic, TopicCounts())
        waiting = (effect.packet, counts)
        sent = 0
        for node in effect.peers:
            pipe = self._pipes.get(node)
            if pipe is not None and pipe.push(waiting, effect.priority):
                sent += 1
            else:
                counts.dropped += 1
        counts.bytes_sent += sent * len(effect.packet)
        return sent

    def _validate(self, effect: Validate) -> None:
        # No topic here lacks a judge, so what is asked for is a signature. It takes no time of the simulated network's.
        assert effect.unproven is not None
        self._do(Judged(((effect.ticket, verify_unproven(effect.unproven)),)))

    def _send_control(self, effect: SendControl) -> None:
        pipe = self._pipes.get(effect.peer)
        if pipe is not None:
            pipe.push_control(effect.body, effect.is_gossip)

    def _send_subscriptions(self, effect: SendSubscriptions) -> None:
        pipe = self._pipes.get(effect.peer)
        if pipe is not None:
            pipe.outbox.push_subscriptions(effect.packet)

    def _reset(self, node: bytes) -> None:
        pipe = self._inbound.pop(node, None)
        if pipe is not None:
            pipe.reset()
            self._do(StreamEnded(node))

    def _beat(self) -> None:
        if self._host.is_closed or self._host.is_standing_still(self._beat):
            return
        self._do(Heartbeat())
        self._kernel.after(PARAMS.heartbeat_ms, self._beat)
