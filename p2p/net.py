"""The seam between a node and its network: what can be asked of it and what it reports.

Calls return at once; what comes of them arrives as events at the one sink, in order, from the network's own loop.
Two implementations pass one conformance suite: libp2p (`p2p.libp2p_net`) and simulated (`testnet.sim`).
A peer is named by its 32-byte Ed25519 node key everywhere above `p2p`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from protocol.fast_dataclass import fast_dataclass
from protocol.types import Unproven, Verdict

GOSSIP_BYTES_MAX = 64 * 1024
STREAM_BYTES_MAX = 3 * 1024 * 1024  # one 2 MiB block of a blob, or a run of ledger blocks, with its envelope


@fast_dataclass(frozen=True)
class Delivered:
    """A gossip message this node accepted, once. `forwarder` is the peer that handed it over, not its author."""

    topic: str
    data: bytes
    forwarder: bytes


@fast_dataclass(frozen=True)
class Published:
    """What became of one `publish`: how many peers it was queued for."""

    token: str
    topic: str
    peers: int


@fast_dataclass(frozen=True)
class Asked:
    """A peer's request on a stream protocol. Answer it with `reply(token, …)` before the peer's deadline.

    What a peer tells us comes as a request too: the reply ends it, and is not sent.
    """

    protocol: str
    peer: bytes
    data: bytes
    token: str


@fast_dataclass(frozen=True)
class Answered:
    """The reply to our own `request`."""

    token: str
    data: bytes


@fast_dataclass(frozen=True)
class Unanswered:
    """Our own `request` failed: no route, refused, reset, too large or late. `reason` is for people."""

    token: str
    reason: str


@fast_dataclass(frozen=True)
class PeerConnected:
    peer: bytes


@fast_dataclass(frozen=True)
class PeerDisconnected:
    peer: bytes


@fast_dataclass(frozen=True)
class Reachable:
    """Peers have found us where we say we listen, or could not. `advice` is for the operator: what to do about it."""

    is_reachable: bool
    advice: str


NetEvent = Delivered | Published | Asked | Answered | Unanswered | PeerConnected | PeerDisconnected | Reachable
# (topic, data, forwarder); cheap, synchronous, never raises. A signature may be left to the network to verify.
Check = Callable[[str, bytes, bytes], Verdict | Unproven]


class Net(Protocol):
    """One node's network. Nothing here blocks or raises for what a peer or the network does."""

    @property
    def node(self) -> bytes:
        """Our own node key, 32 bytes."""

    def subscribe(self, topic: str, check: Check) -> None:
        """Receive `topic`. Only what `check` accepts is delivered and forwarded. Own publishes are not delivered."""

    def unsubscribe(self, topic: str) -> None: ...

    def publish(self, topic: str, data: bytes, token: str) -> None:
        """Send to everyone on `topic`, at most GOSSIP_BYTES_MAX. Reported by `Published`."""

    def serve(self, protocol: str) -> None:
        """Accept requests on a stream protocol; they arrive as `Asked`."""

    def request(self, peer: bytes, protocol: str, data: bytes, token: str, timeout_ms: int) -> None:
        """Ask one peer, dialling it if its address is known. Ends in exactly one `Answered` or `Unanswered`."""

    def tell(self, peer: bytes, protocol: str, data: bytes) -> None:
        """As `request`, without an answer: what cannot be delivered is lost, and nothing is reported."""

    def reply(self, token: str, data: bytes) -> None:
        """Answer an `Asked`. A token that is unknown or expired is ignored: the asker has given up."""

    def gathering(self) -> AbstractContextManager[None]:
        """While inside, what is asked, told and replied waits: in the end each peer gets all of it in one write."""

    def learn(self, peer: bytes, addresses: tuple[str, ...], topics: tuple[str, ...] = ()) -> None:
        """Remember where a peer can be dialled (multiaddrs without /p2p); the keeper may use them.

        `topics` is what it is said to listen to: whom to dial when nobody hears us there.
        """

    def penalise(self, peer: bytes, reason: str) -> None:
        """Lower a peer's standing for breaking a rule."""

    def peers(self) -> tuple[bytes, ...]:
        """Node keys of connected peers, sorted."""

    def subscribers(self, topic: str) -> tuple[bytes, ...]:
        """Node keys of connected peers known to be on `topic`, sorted."""
