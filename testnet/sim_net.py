"""The simulated network of one node: the `Net` of `p2p.net` over links in virtual time.

Gossip is the router of real nodes (`sim_gossip`), and so are the rules about bans. Every peer whose address is known is
dialled, again and again.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from p2p.bans import Arrived, Bans, Blamed, HangUp
from p2p.delay_line import Silence
from p2p.doors import Doors, HostLimits
from p2p.gossipsub import Deliver
from p2p.net import (
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
from testnet.kernel import Callback
from testnet.sim_gossip import SimGossip
from testnet.sim_links import RESEND_MS, Fabric
from testnet.sim_pipe import Pipe
from testnet.sim_way import Way

REQUEST_BYTES = 100  # around what is asked and answered on a stream
DIAL_MS = int(HostLimits().dial_s * 1_000)  # a dial that gets no answer is given up
REDIAL_MS_MIN = 500
REDIAL_MS_MAX = 5_000
PEERS_MAX = 256
STREAMS_IN_MAX = 512
TOLD_MS = 60_000  # what a peer was told waits so long for us to be connected, and for it to be dealt with


@dataclass
class _Question:
    """One of our requests, from `request` to its one outcome; without a token, what we tell a peer until it is sent."""

    peer: bytes
    protocol: str
    data: bytes
    token: str | None
    deadline_ms: int


class SimNet:
    """One host. Made by `Fabric.attach`; `address` is what others may dial."""

    def __init__(self, fabric: Fabric, name: str, node: bytes, address: str, sink: Callable[[NetEvent], None]) -> None:
        self.name = name
        self.address = address
        self.ip = address.split("/")[2]
        self.is_closed = False
        self.kernel = fabric.kernel
        self._node = node
        self._fabric = fabric
        self._sink = sink
        self._protocols: set[str] = set()
        self._links: dict[bytes, SimNet] = {}
        self._ways: dict[bytes, Way] = {}  # to each of them
        self._addresses: dict[bytes, tuple[str, ...]] = {}
        self._dialling: set[bytes] = set()
        self._redials: dict[bytes, int] = {}  # peer -> number of the redial that counts
        self._questions: dict[int, _Question] = {}  # ours, by number
        # Others', by our token: who asks, its number; none for what we were told.
        self._asked: dict[str, tuple[SimNet, int | None]] = {}
        self._count = 0
        self._bans = Bans(Doors(HostLimits()))
        self.gossip = SimGossip(self, fabric.draw_dice(name), self._hand_over, self._blame)

    # The seam

    @property
    def node(self) -> bytes:
        return self._node

    def subscribe(self, topic: str, check: Check) -> None:
        self.gossip.subscribe(topic, check)

    def unsubscribe(self, topic: str) -> None:
        self.gossip.unsubscribe(topic)

    def publish(self, topic: str, data: bytes, token: str) -> None:
        self._emit(Published(token, topic, self.gossip.publish(topic, data)))

    def serve(self, protocol: str) -> None:
        self._protocols.add(protocol)

    def request(self, peer: bytes, protocol: str, data: bytes, token: str, timeout_ms: int) -> None:
        if len(data) > STREAM_BYTES_MAX:
            self._emit(Unanswered(token, f"{len(data)} bytes are more than a stream's {STREAM_BYTES_MAX}"))
            return
        if peer not in self._links and (peer == self._node or peer not in self._addresses):
            self._emit(Unanswered(token, "no address of that peer is known"))
            return
        self._send(peer, protocol, data, token, timeout_ms)

    def gathering(self) -> AbstractContextManager[None]:
        return nullcontext()

    def tell(self, peer: bytes, protocol: str, data: bytes) -> None:
        if len(data) <= STREAM_BYTES_MAX and (peer in self._links or peer in self._addresses):
            self._send(peer, protocol, data, None, TOLD_MS)

    def _send(self, peer: bytes, protocol: str, data: bytes, token: str | None, timeout_ms: int) -> None:
        self._count += 1
        number = self._count
        self._questions[number] = _Question(peer, protocol, data, token, self.kernel.now_ms + timeout_ms)
        self.kernel.after(timeout_ms, self._fail, number, f"no answer within {timeout_ms} ms")
        if peer in self._links:
            self._send_question(number)
        else:
            self._dial(peer, REDIAL_MS_MIN)

    def reply(self, token: str, data: bytes) -> None:
        asker, number = self._asked.pop(token, (None, None))
        if asker is None or number is None:
            return
        if len(data) > STREAM_BYTES_MAX:
            reason = f"the answer's {len(data)} bytes are more than a stream's {STREAM_BYTES_MAX}"
            self._carry(asker, b"", lambda: asker._fail(number, reason))
            return
        self._carry(asker, data, lambda: asker._finish(number, data))

    def learn(self, peer: bytes, addresses: tuple[str, ...], topics: tuple[str, ...] = ()) -> None:
        if peer == self._node or (peer not in self._addresses and len(self._addresses) >= PEERS_MAX):
            return
        self._addresses[peer] = addresses
        if peer not in self._links:
            self._dial(peer, REDIAL_MS_MIN)

    def penalise(self, peer: bytes, reason: str) -> None:
        self.gossip.blame(peer)
        self._blame(peer, reason)

    def peers(self) -> tuple[bytes, ...]:
        return tuple(sorted(self._links))

    def subscribers(self, topic: str) -> tuple[bytes, ...]:
        return self.gossip.router.get_subscribers(topic)

    # What the fabric tells us and asks

    def get_way(self, peer: bytes) -> Way:
        """The way to a connected peer."""
        return self._ways[peer]

    def is_standing_still(self, callback: Callback, *args: object) -> bool:
        """Whether this host is paused: then this is called when it goes on."""
        return self._fabric.defer(self.name, callback, *args)

    def is_linked(self, other: "SimNet") -> bool:
        return self._links.get(other.node) is other

    def close(self) -> None:
        """Die: nothing more is sent, received or reported; peers learn of it a link's delay later."""
        self.is_closed = True
        for way in tuple(self._ways.values()):
            way.send(0, partial(way.target.unlink, self), in_order=True)

    def link(self, other: "SimNet", is_outbound: bool) -> None:
        self._links[other.node] = other
        way = self._ways[other.node] = self._fabric.open_way(self, other)
        self.gossip.meet(other.node, is_outbound, other.ip, Pipe(self._fabric, way))
        self._emit(PeerConnected(other.node))
        for number, question in tuple(self._questions.items()):
            if question.peer == other.node:
                self._send_question(number)

    def unlink(self, other: "SimNet") -> None:
        """The connection is gone: what was asked over it fails, and the keeper dials again."""
        if self.is_closed or not self.is_linked(other):
            return
        del self._links[other.node]
        self._ways.pop(other.node).close()
        if other.is_closed:  # it can no longer say so itself
            other.get_way(self._node).close()
        self.gossip.drop(other.node)
        self._emit(PeerDisconnected(other.node))
        for number, question in tuple(self._questions.items()):
            if question.peer == other.node:
                self._fail(number, "the connection was lost")
        for token, (asker, _) in tuple(self._asked.items()):
            if asker is other:
                del self._asked[token]
        self._dial_later(other.node, REDIAL_MS_MIN)

    # Connections

    def _dial(self, peer: bytes, again_ms: int) -> None:
        if self.is_closed or peer in self._links or peer in self._dialling:
            return
        if self._bans.is_banned(peer, self.kernel.now_ms):
            self._dial_later(peer, again_ms)
            return
        if self.is_standing_still(self._dial, peer, again_ms):
            return
        self._dialling.add(peer)
        host = self._find_host(peer)
        delay_ms = 1
        if host is not None:
            delay_ms = self._fabric.draw_delay_ms(self, host) + self._fabric.draw_delay_ms(host, self)
        self.kernel.after(delay_ms, self._dialled, peer, again_ms, self.kernel.now_ms + DIAL_MS)

    def _dialled(self, peer: bytes, again_ms: int, until_ms: int) -> None:
        host = self._find_host(peer)
        silence = Silence.REFUSE if host is None else self._fabric.get_silence(self.name, host.name)
        if silence in (Silence.STALL, Silence.BLACKHOLE) and self.kernel.now_ms < until_ms and not self.is_closed:
            self.kernel.after(RESEND_MS, self._dialled, peer, again_ms, until_ms)
            return
        self._dialling.discard(peer)
        if self.is_closed or peer in self._links:
            return
        if host is not None and silence is Silence.NONE and host.admits(self) and self.admits(host):
            stale = host._links.get(self._node)
            if stale is not None:  # we died and came back before the news of it arrived
                host.unlink(stale)
            self.link(host, is_outbound=True)
            host.link(self, is_outbound=False)
            return
        for number, question in tuple(self._questions.items()):
            if question.peer == peer:
                self._fail(number, "the peer cannot be reached")
        self._dial_later(peer, again_ms)

    def _dial_later(self, peer: bytes, again_ms: int) -> None:
        self._count += 1
        self._redials[peer] = self._count
        self.kernel.after(again_ms, self._redial, peer, min(2 * again_ms, REDIAL_MS_MAX), self._count)

    def _redial(self, peer: bytes, again_ms: int, number: int) -> None:
        if self._redials.get(peer) == number:
            del self._redials[peer]
            self._dial(peer, again_ms)

    def admits(self, other: "SimNet") -> bool:
        """Whether nothing we remember of a host stands against a connection with it."""
        now_ms = self.kernel.now_ms
        self._bans.handle(Arrived(other.node, other.ip), now_ms)
        return not self._bans.check_peer(other.node, other.ip, other.node in self._addresses, now_ms)

    def _blame(self, peer: bytes, reason: str) -> None:
        for effect in self._bans.handle(Blamed(peer, reason), self.kernel.now_ms):
            if isinstance(effect, HangUp) and (link := self._links.get(peer)) is not None:
                self.kernel.after(0, self._hang_up, link)

    def _find_host(self, peer: bytes) -> "SimNet | None":
        for address in self._addresses.get(peer, ()):
            host = self._fabric.find_host(address)
            if host is not None and host.node == peer:
                return host
        return None

    def _hang_up(self, peer: "SimNet") -> None:
        self.unlink(peer)
        peer.unlink(self)

    # Questions and answers

    def _send_question(self, number: int) -> None:
        question = self._questions[number]
        peer = self._links[question.peer]
        if question.token is None:
            del self._questions[number]
        self._carry(peer, question.data, lambda: peer._take_question(self, number, question))

    def _carry(self, peer: "SimNet", data: bytes, arrive: Callable[[], None]) -> None:
        self._fabric.carry_stream(self, peer, len(data) + REQUEST_BYTES, arrive)

    def _take_question(self, asker: "SimNet", number: int, question: _Question) -> None:
        refusal = ""
        if question.protocol not in self._protocols:
            refusal = f"the peer does not serve {question.protocol}"
        elif len(self._asked) >= STREAMS_IN_MAX:
            refusal = f"the peer has {STREAMS_IN_MAX} streams open"
        if refusal:
            self._carry(asker, b"", lambda: asker._fail(number, refusal))
            return
        self._count += 1
        token = f"asked-{self._count}"
        self._asked[token] = asker, None if question.token is None else number
        self.kernel.at(question.deadline_ms, self._forget, token)
        self._deliver(Asked(question.protocol, asker.node, question.data, token))

    def _forget(self, token: str) -> None:
        self._asked.pop(token, None)

    def _finish(self, number: int, data: bytes) -> None:
        question = self._questions.pop(number, None)
        if question is not None and question.token is not None:
            self._deliver(Answered(question.token, data))

    def _fail(self, number: int, reason: str) -> None:
        if self.is_standing_still(self._fail, number, reason):
            return
        question = self._questions.pop(number, None)
        if question is not None and question.token is not None:
            self._emit(Unanswered(question.token, reason))

    # Events

    def _emit(self, event: NetEvent) -> None:
        """Report later in this millisecond: no call of the seam runs the sink inside itself."""
        self.kernel.after(0, self._deliver, event)

    def _hand_over(self, message: Deliver) -> None:
        self._deliver(Delivered(*message))

    def _deliver(self, event: NetEvent) -> None:
        if not self.is_closed and not self.is_standing_still(self._deliver, event):
            self.kernel.record(self._node, event)
            self._sink(event)
