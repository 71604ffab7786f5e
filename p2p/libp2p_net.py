"""The network over libp2p: `Net` on real sockets, run by tasks of its own.

    async with open_libp2p_net(seed, "127.0.0.1", 0, on_event) as net:
        net.subscribe(topic, check)

Methods return at once. Events reach `on_event` one at a time, in order, from a task of this network: never from within
a call to it.
"""

import dataclasses
import ipaddress
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import trio

from p2p.gossip import MESHSUB, Gossip
from p2p.gossipsub import Author, TopicParams
from p2p.hardening import SafeYamux
from p2p.host import Host, HostLimits, open_host, to_peer
from p2p.keeper import Keeper
from p2p.net import (
    Check,
    Delivered,
    NetEvent,
    PeerConnected,
    PeerDisconnected,
    Published,
)
from p2p.standing import Standings
from p2p.streams import Answers, Requests
from protocol.keys import PrivateKey

DELIVERED_MAX = 8_192  # accepted messages waiting for the node; beyond it none is judged until there is room
BATCH = 64  # events handed over between two turns of the loop
FAULTS_KEPT = 64


@dataclass(frozen=True)
class NetOptions:
    """How this network differs from the default one. `seed` makes the keeper's jitter and the mesh repeatable."""

    limits: HostLimits = field(default_factory=HostLimits)
    seed: int = 0
    topics: Mapping[str, TopicParams] = field(default_factory=dict)  # those that differ, of other networks say


class Libp2pNet:
    """`p2p.net.Net` over libp2p. Open with `open_libp2p_net`."""

    def __init__(self, on_event: Callable[[NetEvent], None], options: NetOptions) -> None:
        self._on_event = on_event
        self._options = options
        self._dice = random.Random(options.seed)
        self._events: deque[NetEvent] = deque()
        self._delivered_waiting = 0
        self._wake = trio.Event()
        self._standings = Standings(trio.current_time)
        self._faults: deque[tuple[bytes, str]] = deque(maxlen=FAULTS_KEPT)
        self._closed = False

    def _build(self, host: Host, tasks: trio.Nursery, author: Author) -> None:
        self._tasks = tasks
        self._host = host
        self._keeper = Keeper(host, self._dice, self._standings.is_refused)
        self._gossip = Gossip(
            host.open_stream,
            self._deliver,
            self._blame,
            self._standings.is_refused,
            self._dice,
            has_room=self._has_room,
            describe=partial(_describe, host),
            author=author,
            topics=self._options.topics,
        )
        self._requests = Requests(self._keeper.dial, host.open_stream, self._emit, tasks)
        self._answers = Answers(self._emit, self._blame)
        host.refuse(self._standings.is_refused)
        host.serve(MESHSUB, self._gossip.take_stream)

    # The seam

    @property
    def node(self) -> bytes:
        return self._host.node

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs this node really listens on, without /p2p."""
        return self._host.addresses

    def subscribe(self, topic: str, check: Check) -> None:
        self._gossip.subscribe(topic, check)

    def unsubscribe(self, topic: str) -> None:
        self._gossip.unsubscribe(topic)

    def publish(self, topic: str, data: bytes, token: str) -> None:
        """As in the seam. LocalError for more than GOSSIP_BYTES_MAX: cutting it up is the caller's business."""
        peers = 0 if self._closed else self._gossip.publish(topic, data)
        if not peers:
            self._keeper.hurry()
        self._emit(Published(token, topic, peers))

    def serve(self, protocol: str) -> None:
        self._host.serve(protocol, partial(self._answers.take_stream, protocol))

    def request(self, peer: bytes, protocol: str, data: bytes, token: str, timeout_ms: int) -> None:
        self._requests.ask(peer, protocol, data, token, timeout_ms)

    def reply(self, token: str, data: bytes) -> None:
        self._answers.reply(token, data)

    def learn(self, peer: bytes, addresses: tuple[str, ...]) -> None:
        self._keeper.learn(peer, addresses)

    def penalise(self, peer: bytes, reason: str) -> None:
        self._gossip.blame(peer)
        self._blame(peer, reason)

    def peers(self) -> tuple[bytes, ...]:
        return self._host.peers()

    def subscribers(self, topic: str) -> tuple[bytes, ...]:
        return self._gossip.subscribers(topic)

    # For reports

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Per topic, what went through since the start; the names are those of `TopicCounts`."""
        return {topic: dataclasses.asdict(counts) for topic, counts in sorted(self._gossip.counts.items())}

    def gossip_sizes(self) -> Mapping[str, int]:
        """How much the gossip router remembers, by name."""
        return self._gossip.router.get_sizes()

    def faults(self) -> tuple[tuple[bytes, str], ...]:
        """The last faults counted against peers: node key and what it did."""
        return tuple(self._faults)

    # Underneath

    def _emit(self, event: NetEvent) -> None:
        self._events.append(event)
        self._wake.set()

    def _has_room(self) -> bool:
        return self._delivered_waiting < DELIVERED_MAX

    def _deliver(self, topic: str, data: bytes, forwarder: bytes) -> bool:
        # The router asked `_has_room` of each message before: this is over by one slice of a packet at most.
        self._delivered_waiting += 1
        self._emit(Delivered(topic, data, forwarder))
        return True

    def _on_up(self, peer: bytes) -> None:
        self._keeper.note_up(peer)
        self._tasks.start_soon(self._gossip.meet(peer))
        self._emit(PeerConnected(peer))

    def _on_down(self, peer: bytes) -> None:
        self._gossip.drop(peer)
        self._keeper.note_down(peer)
        self._emit(PeerDisconnected(peer))

    def _blame(self, peer: bytes, reason: str) -> None:
        self._faults.append((peer, reason))
        if self._standings.blame(peer) and not self._closed:
            self._tasks.start_soon(self._host.hang_up, peer)

    async def _hand_over(self) -> None:
        while True:
            for _ in range(min(BATCH, len(self._events))):
                self._hand_over_one()
            if not self._events:
                self._wake = trio.Event()
                await self._wake.wait()
            else:
                await trio.lowlevel.checkpoint()

    def _hand_over_one(self) -> None:
        event = self._events.popleft()
        if isinstance(event, Delivered):
            self._delivered_waiting -= 1
        self._on_event(event)


def _describe(host: Host, node: bytes) -> tuple[bool, str]:
    """Whether we dialled a peer, and the network that peers of one operator would share; none for trusted ones."""
    for conn in host.swarm.connections.get(to_peer(node), ()):
        muxed = cast(SafeYamux, conn.muxed_conn)
        remote = muxed.get_remote_address()
        if remote is None:
            continue
        address = ipaddress.ip_address(remote[0])
        is_trusted = any(address in ipaddress.ip_network(text) for text in host.limits.trusted)
        # The one loopback address everything local has; nodes of a local network have one each.
        is_local = str(address) in ("127.0.0.1", "::1")
        group = str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
        return bool(muxed.is_initiator), "" if is_trusted or is_local else group
    return False, ""


@asynccontextmanager
async def open_libp2p_net(
    seed: bytes,
    host: str,
    port: int,
    on_event: Callable[[NetEvent], None],
    options: NetOptions | None = None,
) -> AsyncIterator[Libp2pNet]:
    """A running network inside trio; on leaving, every request has had its outcome and every task has ended.

    seed: 32 bytes, the Ed25519 seed of the node key, which is the libp2p identity. host and port: where to listen,
    port 0 for any. Raises PortInUse or CannotListen before anything starts.
    """
    options = options or NetOptions()
    net = Libp2pNet(on_event, options)
    async with (
        open_host(seed, host, port, options.limits, net._on_up, net._on_down, net._blame) as running,
        trio.open_nursery() as tasks,
    ):
        private = PrivateKey(seed)
        net._build(running, tasks, Author(private.public, private.sign, time.time_ns()))
        tasks.start_soon(running.accept_forever)
        tasks.start_soon(net._hand_over)
        tasks.start_soon(net._gossip.keep_mesh)
        tasks.start_soon(net._keeper.run)
        tasks.start_soon(net._requests.expire_forever)
        try:
            yield net
        finally:
            net._closed = True
            net._requests.end_all("this node is shutting down")
            while net._events:
                net._hand_over_one()
            tasks.cancel_scope.cancel()


__all__ = ["Libp2pNet", "NetOptions", "open_libp2p_net"]
