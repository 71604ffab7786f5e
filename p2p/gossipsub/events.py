"""What happens to the router and what it wants done. Peers are named by their node keys, 32 bytes.

Effects are carried out in order. A `packet` is fields of an RPC, ready to be put behind one another; control bodies are
put behind one another too and then wrapped once per packet (`wire.wrap_control`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from p2p.gossipsub.params import TopicParams
from protocol.types import Unproven, Verdict

# (topic, data, forwarder): what is thought of a message. None: no room for it now, forget that it came.
Judge = Callable[[str, bytes, bytes], Verdict | Unproven | None]


class PeerUp(NamedTuple):
    """A peer is connected. `group` is what P6 counts by (an address or network), empty when it is exempt."""

    peer: bytes
    is_outbound: bool = False
    group: str = ""
    speaks_v12: bool = False


class PeerDown(NamedTuple):
    """The connection to a peer is gone."""

    peer: bytes


class StreamRenewed(NamedTuple):
    """What we send to a peer goes over a new stream: it knows nothing of us."""

    peer: bytes


class StreamEnded(NamedTuple):
    """A peer's stream to us ended: what it said about its topics no longer counts."""

    peer: bytes


class Received(NamedTuple):
    """One RPC, without its length. No further one of this peer's may come before a `Continue` was answered."""

    peer: bytes
    packet: bytes


class Resumed(NamedTuple):
    """Answers `Continue`."""

    peer: bytes


class Subscribe(NamedTuple):
    """Join a topic, or change its judge. Without a judge its messages come as `Validate` and wait for `Judged`, as do
    those that it leaves unproven."""

    topic: str
    judge: Judge | None
    params: TopicParams | None = None


class Unsubscribe(NamedTuple):
    topic: str


class Publish(NamedTuple):
    """Send a message of our own. `params` are for a topic we are not on; on others those of `Subscribe` count."""

    topic: str
    data: bytes
    params: TopicParams | None = None


class Judged(NamedTuple):
    """Answers `Validate`: tickets and what is thought of their messages, in order. Unknown and expired tickets are
    ignored."""

    verdicts: Sequence[tuple[int, Verdict]]


class Blamed(NamedTuple):
    """The application saw a peer break a rule: counts as behaviour, P7."""

    peer: bytes
    amount: float = 1.0


class Rated(NamedTuple):
    """The application's own opinion of a peer, P5."""

    peer: bytes
    score: float


class Recorded(NamedTuple):
    """A connected peer's signed peer record, for peer exchange; the shell has verified it."""

    peer: bytes
    record: bytes


class Heartbeat(NamedTuple):
    """Comes every `GossipParams.heartbeat_ms`."""


Event = (
    PeerUp
    | PeerDown
    | StreamRenewed
    | StreamEnded
    | Received
    | Resumed
    | Subscribe
    | Unsubscribe
    | Publish
    | Judged
    | Blamed
    | Rated
    | Recorded
    | Heartbeat
)


class SendMessage(NamedTuple):
    """Queue one message for each of these peers. `is_answer`: one of them asked for it."""

    peers: list[bytes]
    topic: str
    packet: bytes
    priority: int
    is_own: bool = False
    is_answer: bool = False


class SendSubscriptions(NamedTuple):
    peer: bytes
    packet: bytes


class SendControl(NamedTuple):
    """A control body. `is_gossip`: IHAVE, the first to be dropped when a queue fills."""

    peer: bytes
    body: bytes
    is_gossip: bool = False


class Deliver(NamedTuple):
    """An accepted message for the application, once."""

    topic: str
    data: bytes
    forwarder: bytes


class Validate(NamedTuple):
    """Judge this message and answer with `Judged`. `unproven` is what the topic's judge, if it has one, left open."""

    ticket: int
    topic: str
    data: bytes
    forwarder: bytes
    unproven: Unproven | None = None


class Continue(NamedTuple):
    """A large packet of this peer's is not yet worked off: let others have a turn, then send `Resumed`."""

    peer: bytes


class Fault(NamedTuple):
    """A peer broke a rule; its score knows already."""

    peer: bytes
    reason: str


class ResetStream(NamedTuple):
    """What a peer sends is no gossipsub: end its stream."""

    peer: bytes
    reason: str


class Dial(NamedTuple):
    """A direct peer that is not connected, or one a good peer told us of. `record` is its signed peer record."""

    peer: bytes
    record: bytes = b""


class Seek(NamedTuple):
    """All whom we dialled have turned us away from their meshes on a topic: one more should be dialled."""

    topic: str


Effect = (
    SendMessage | SendSubscriptions | SendControl | Deliver | Validate | Continue | Fault | ResetStream | Dial | Seek
)
