"""The network over libp2p: `Net` on real sockets, run by tasks of its own.

    async with open_libp2p_net(seed, "127.0.0.1", 0, on_event) as net:
        net.subscribe(topic, check)

Methods return at once. Events reach `on_event` one at a time, in order, from tasks of this network: never from within
a call to it.
"""

import dataclasses
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from p2p import dialback
from p2p.addresses import is_wildcard
from p2p.dialback import DialBack
from p2p.doors import HostLimits
from p2p.frame_stream import Gathering
from p2p.gossip import MESHSUB, PARAMS, Gossip
from p2p.gossipsub import Author, TopicParams
from p2p.guard import Guard, verify_memory
from p2p.host import Host, open_host
from p2p.identify import fetch_record
from p2p.keeper import Keeper
from p2p.link_faults import LinkFaults
from p2p.links import Link
from p2p.net import (
    Check,
    Delivered,
    NetEvent,
    PeerConnected,
    PeerDisconnected,
    Published,
    Reachable,
    Unanswered,
)
from p2p.peer_records import read_record
from p2p.reach import Reach, Reachability
from p2p.streams import Answers, Requests
from p2p.turns import Turns
from protocol.errors import RemoteError
from protocol.keys import PrivateKey

DELIVERED_MAX = 8_192  # accepted messages waiting for the node; beyond it none is judged until there is room
BATCH = 256  # events handed over between two turns of the loop
TOPICS_MAX = 1_024
LAST_MAX = 16_384  # events handed over while closing
VOUCHED_SCORE = 100.0  # of a peer the operator vouches for: above what peer exchange asks for
CLOSING = "this node is shutting down"


@dataclass(frozen=True)
class NetOptions:
    """How this network differs from the default one. `seed` sets its jitter and mesh; by default the node key does.

    `memory` is what `Libp2pNet.remember` gave in an earlier process. `announce` are the multiaddrs others should dial,
    if not those we listen on. `dial_back` asks peers whether they reach us there; `Reachable` tells what they say.
    `topics` are those whose signatures or scores differ: of other networks, say. `direct` are peers whose operators
    have agreed to exchange everything, with multiaddrs to keep dialling: outside the mesh, always heard, never banned
    for faults. Source: gossipsub v1.1, Explicit Peering Agreements. With `peer_exchange` peers turned away from a mesh
    hear of others, and what peers the operator vouches for tell us of others is believed.
    """

    limits: HostLimits = field(default_factory=HostLimits)
    seed: int | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)
    announce: tuple[str, ...] = ()
    dial_back: bool = False
    topics: Mapping[str, TopicParams] = field(default_factory=dict)
    direct: Mapping[bytes, tuple[str, ...]] = field(default_factory=dict)
    peer_exchange: bool = False


class Libp2pNet:
    """`p2p.net.Net` over libp2p. Open with `open_libp2p_net`."""

    def __init__(self, on_event: Callable[[NetEvent], None], options: NetOptions) -> None:
        self._on_event = on_event
        self._events: deque[NetEvent] = deque()
        self._delivered_waiting = 0
        self._turns = Turns()
        self._guard = Guard(options.memory, frozenset(options.direct))
        self._topics: dict[str, None] = {}  # we listen to or speak on, oldest first
        self._options = options
        self._closed = False

    def _build(self, host: Host, tasks: trio.Nursery, author: Author) -> None:
        self._tasks = tasks
        self._host = host
        seed = self._options.seed
        dice = random.Random(host.node if seed is None else seed)
        self._keeper = Keeper(host, dice, self._guard.is_refused, self._options.direct)
        self._guard.open(host, self._keeper, tasks)
        self._gossip = Gossip(
            host.open_stream,
            self._deliver,
            self._blame,
            self._guard.is_refused,
            dice,
            self._turns,
            has_room=self._has_room,
            describe=partial(_describe, host),
            author=author,
            topics=self._options.topics,
            dial=self._dial,
            seek=self._keeper.seek,
            direct=self._options.direct,
            params=dataclasses.replace(PARAMS, peer_exchange=self._options.peer_exchange),
        )
        host.announce(self.announced)
        self._gathering = Gathering()
        self._requests = Requests(
            self._keeper.dial, host.open_stream, self._emit, self._emit_now, tasks, self._gathering
        )
        self._answers = Answers(self._emit_now, self._blame, self._gathering)
        host.serve(MESHSUB, self._gossip.take_stream)
        self._dialback = DialBack(host, self.announced, self._on_reach)
        host.serve(dialback.PROTOCOL, self._dialback.take_stream)

    # The seam

    @property
    def node(self) -> bytes:
        return self._host.node

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs this node really listens on, without /p2p."""
        return self._host.addresses

    @property
    def announced(self) -> tuple[str, ...]:
        """Multiaddrs others should dial. Empty when we listen on every address and were told none."""
        return self._options.announce or tuple(text for text in self.addresses if not is_wildcard(text))

    def subscribe(self, topic: str, check: Check) -> None:
        self._note_topic(topic)
        self._gossip.subscribe(topic, check)

    def unsubscribe(self, topic: str) -> None:
        self._gossip.unsubscribe(topic)

    def publish(self, topic: str, data: bytes, token: str) -> None:
        """As in the seam. LocalError for more than GOSSIP_BYTES_MAX: cutting it up is the caller's business."""
        self._note_topic(topic)
        peers = 0 if self._closed else self._gossip.publish(topic, data)
        if not peers:
            self._keeper.hurry(topic)
        self._events.append(Published(token, topic, peers))
        self._turns.ring()

    def serve(self, protocol: str) -> None:
        self._host.serve(protocol, partial(self._answers.take_stream, protocol))

    def request(self, peer: bytes, protocol: str, data: bytes, token: str, timeout_ms: int) -> None:
        if self._closed:
            self._emit(Unanswered(token, CLOSING))
        else:
            self._requests.ask(peer, protocol, data, token, timeout_ms)

    def tell(self, peer: bytes, protocol: str, data: bytes) -> None:
        if not self._closed:
            self._requests.tell(peer, protocol, data)

    def reply(self, token: str, data: bytes) -> None:
        self._answers.reply(token, data)

    def gathering(self) -> AbstractContextManager[None]:
        return self._gathering

    def learn(self, peer: bytes, addresses: tuple[str, ...], topics: tuple[str, ...] = ()) -> None:
        self._keeper.learn(peer, addresses)
        if not self._host.is_connected(peer):
            # Of connected ones we know it from themselves.
            self._keeper.note_topics(peer, topics)

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

    def sizes(self) -> dict[str, int]:
        """How much every part of this network remembers, as `part.name`: what an idle node must not let grow."""
        parts: dict[str, Mapping[str, int]] = {
            "gossip": self._gossip.get_sizes(),
            "host": self._host.get_sizes(),
            "bans": self._guard.bans.get_sizes(),
            "keeper": self._keeper.get_sizes(),
            "requests": self._requests.get_sizes(),
            "answers": self._answers.get_sizes(),
            "net": {"events": len(self._events), "topics": len(self._topics)},
        }
        return {f"{part}.{name}": size for part, sizes in parts.items() for name, size in sizes.items()}

    def faults(self) -> tuple[tuple[bytes, str], ...]:
        """The last faults counted against peers: node key and what it did."""
        return tuple(self._guard.faults)

    # For whoever runs the node

    @property
    def guard(self) -> Guard:
        """Bans, and who is exempt from them."""
        return self._guard

    @property
    def link_faults(self) -> LinkFaults:
        """What is done on purpose to our links. Nothing, unless whoever runs the node says so."""
        return self._host.faults

    def links(self) -> tuple[Link, ...]:
        """Every living connection."""
        return self._host.links()

    @property
    def reach(self) -> Reachability:
        """Whether peers can dial us, as far as was asked."""
        return self._dialback.reach

    def refusals(self) -> Mapping[str, int]:
        """Callers turned away since the start, by reason."""
        return dict(self._host.doors.refused)

    def remember(self) -> dict[str, Any]:
        """What a next process should be given as `NetOptions.memory`."""
        for peer in self.peers():
            self._note_topics_of(peer)
        return self._guard.remember()

    # Underneath

    def _emit(self, event: NetEvent) -> None:
        self._events.append(event)
        self._turns.hurry()

    def _emit_now(self, event: NetEvent) -> None:
        """As `_emit`, for what is no part of a call to us: without a turn of its own, but in order."""
        if self._events:
            self._emit(event)
        else:
            self._on_event(event)

    def _has_room(self) -> bool:
        return self._delivered_waiting < DELIVERED_MAX

    def _deliver(self, topic: str, data: bytes, forwarder: bytes) -> bool:
        # The router asked `_has_room` of each message before: this is over by one slice of a packet at most.
        self._delivered_waiting += 1
        self._events.append(Delivered(topic, data, forwarder))
        return True

    def _on_up(self, peer: bytes) -> None:
        self._keeper.note_up(peer)
        self._tasks.start_soon(self._gossip.meet(peer))
        if self._guard.bans.is_allowed(peer):
            self._gossip.rate(peer, VOUCHED_SCORE)
        if self._options.peer_exchange:
            self._tasks.start_soon(self._learn_record, peer)
        self._dialback.look()
        self._emit(PeerConnected(peer))

    def _on_down(self, peer: bytes) -> None:
        self._note_topics_of(peer)
        self._gossip.drop(peer)
        self._keeper.note_down(peer)
        self._emit(PeerDisconnected(peer))

    def _dial(self, node: bytes, record: bytes) -> None:
        """The router misses a direct peer, or a good peer told it of another: then its record says where that is."""
        if node in self._options.direct:
            self._tasks.start_soon(self._keeper.dial, node)
            return
        try:
            signer, addresses = read_record(record)
        except RemoteError:
            return  # whoever passed it on need not have looked
        if signer == node:
            self._keeper.learn(node, addresses)

    async def _learn_record(self, node: bytes) -> None:
        """Ask a peer who it says it is and where, signed, to tell others of it."""
        record = await fetch_record(self._host, node)
        if record:
            self._gossip.note_record(node, record)

    def _on_reach(self) -> None:
        reach = self._dialback.reach
        self._emit(Reachable(reach.state is Reach.REACHABLE, reach.advice))

    def _blame(self, peer: bytes, reason: str, is_violation: bool = False) -> None:
        self._guard.blame(peer, reason, is_violation)

    def _note_topic(self, topic: str) -> None:
        if topic not in self._topics:
            if len(self._topics) >= TOPICS_MAX:
                del self._topics[next(iter(self._topics))]
            self._topics[topic] = None

    def _note_topics_of(self, peer: bytes) -> None:
        topics = tuple(topic for topic in self._topics if peer in self._gossip.subscribers(topic))
        self._keeper.note_topics(peer, topics)

    async def _take_turns(self) -> None:
        """What peers sent, what the node is told of it, and what is to be sent."""
        while True:
            self._gossip.work()
            done = min(BATCH, len(self._events))
            for _ in range(done):
                self._hand_over_one()
            self._gossip.flush()
            await self._turns.next(done, bool(self._events) or self._gossip.has_work)

    def _hand_over_last(self) -> None:
        # Bounded: the node may answer each outcome with one more request, which has its outcome at once.
        for _ in range(LAST_MAX):
            if not self._events:
                return
            self._hand_over_one()

    def _hand_over_one(self) -> None:
        event = self._events.popleft()
        if isinstance(event, Delivered):
            self._delivered_waiting -= 1
        self._on_event(event)


def _describe(host: Host, node: bytes) -> tuple[bool, str]:
    """Whether we dialled a peer, and the network that peers of one operator would share; none for trusted ones."""
    for link in host.links():
        if link.node == node:
            is_exempt = host.doors.is_trusted(link.address) or link.address in ("127.0.0.1", "::1")
            return not link.is_inbound, "" if is_exempt else link.address
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
    port 0 for any. Raises PortInUse, CannotListen or MemoryDamaged before anything starts.
    """
    options = options or NetOptions()
    verify_memory(options.memory)
    net = Libp2pNet(on_event, options)
    async with (
        open_host(seed, host, port, options.limits, net._on_up, net._on_down, net._blame) as running,
        trio.open_nursery() as tasks,
    ):
        private = PrivateKey(seed)
        net._build(running, tasks, Author(private.public, private.sign, time.time_ns()))
        tasks.start_soon(running.accept_forever)
        tasks.start_soon(net._take_turns)
        tasks.start_soon(net._gossip.keep_mesh)
        tasks.start_soon(net._keeper.run)
        tasks.start_soon(net._requests.expire_forever)
        if options.dial_back:
            tasks.start_soon(net._dialback.run)
        try:
            yield net
        finally:
            net._closed = True
            net._guard.close()
            net._requests.end_all(CLOSING)
            net._hand_over_last()
            tasks.cancel_scope.cancel()
            # Before waiting for the tasks: a write to a peer that takes nothing ends only with its connection.
            with trio.CancelScope(shield=True):
                await running.close()


__all__ = ["Libp2pNet", "NetOptions", "open_libp2p_net"]
