"""What the parts of the router share: peers, topics, scores, and the effects of the event at hand."""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from p2p.gossipsub.cache import MessageCache, Seen, Sighting
from p2p.gossipsub.events import Effect, Fault, Judge
from p2p.gossipsub.params import GossipParams, Signature, TopicParams
from p2p.gossipsub.score import Conduct, Scores, TopicConduct
from p2p.gossipsub.signing import build_id_prefix
from p2p.gossipsub.wire import write_graft
from p2p.protobuf import write_bytes


@dataclass(slots=True)
class TopicCounts:
    """What went through one topic since the start. `received` counts every copy."""

    received: int = 0
    delivered: int = 0
    duplicates: int = 0
    ignored: int = 0
    rejected: int = 0
    published: int = 0
    forwarded: int = 0
    dropped: int = 0
    throttled: int = 0
    check_errors: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


class Peer:
    """One connected peer. What is counted between two heartbeats begins anew with each."""

    __slots__ = (
        "asked_again",
        "asked_ids",
        "conduct",
        "idontwant_messages",
        "ihave_messages",
        "is_direct",
        "is_outbound",
        "node",
        "packet",
        "packet_at",
        "record",
        "resent_bytes",
        "score",
        "speaks_v12",
        "subscription_changes",
        "topics",
        "unwanted",
        "validations",
    )

    def __init__(self, node: bytes, is_outbound: bool, is_direct: bool, speaks_v12: bool, conduct: Conduct) -> None:
        self.node = node
        self.is_outbound = is_outbound
        self.is_direct = is_direct
        self.speaks_v12 = speaks_v12
        self.conduct = conduct
        self.score = 0.0
        self.topics: dict[bytes, None] = {}
        self.packet: bytes | None = None  # being worked off in slices
        self.packet_at = 0
        self.record = b""  # signed by the peer itself, for peer exchange
        self.validations = 0
        self.ihave_messages = 0
        self.asked_ids = 0
        self.resent_bytes = 0
        self.asked_again = 0
        self.subscription_changes = 0
        self.idontwant_messages = 0
        self.unwanted: dict[bytes, int] = {}

    def begin_beat(self) -> None:
        self.ihave_messages = self.asked_ids = self.resent_bytes = self.idontwant_messages = 0
        self.asked_again = self.subscription_changes = 0
        if self.unwanted:
            self.unwanted = {key: beats - 1 for key, beats in self.unwanted.items() if beats > 1}


@dataclass(slots=True)
class Feed:
    """Whether a topic's authors bring us all there is, and whom in our mesh we have choked for it (`choke`)."""

    count: int = 0  # messages that their authors have brought, since one had not been
    awaited: list[Sighting] = field(default_factory=list)  # since the last heartbeat, not brought by their authors yet
    awaited_before: list[Sighting] = field(default_factory=list)  # and before it
    is_short: bool = False  # one was not brought
    choked: dict[bytes, None] = field(default_factory=dict)
    choked_ms: int = 0  # since when
    rests_until_ms: int = 0  # nobody is choked before
    rest_ms: int = 0  # the last time


class Topic:
    """One topic we are on."""

    __slots__ = (
        "chokers",
        "counts",
        "feed",
        "field",
        "graft",
        "id_prefix",
        "is_signed",
        "judge",
        "key",
        "mesh",
        "name",
        "owed",
        "params",
        "targets",
    )

    def __init__(self, name: str, judge: Judge | None, params: TopicParams, counts: TopicCounts) -> None:
        self.name = name
        self.key = name.encode()
        self.judge = judge
        self.params = params
        self.counts = counts
        self.is_signed = params.signature is Signature.STRICT_SIGN
        self.id_prefix = build_id_prefix(self.key)
        self.field = write_bytes(4, self.key)  # as it stands in every message
        self.graft = write_graft(self.key)
        self.mesh: dict[bytes, Peer] = {}
        self.chokers: dict[bytes, Peer] = {}  # of the mesh, who want to hear from us what we have and not have it
        self.owed: dict[bytes, Peer] = {}  # who have not heard what we had when they no longer were
        self.feed = Feed()
        self.targets: list[bytes] | None = None  # whom to forward to; None when it must be made again

    def drop_choker(self, peer: Peer) -> None:
        """It is none any more, if it was one: what we did not forward to it until now it is told of at a heartbeat."""
        if self.chokers.pop(peer.node, None) is not None:
            self.owed[peer.node] = peer

    def list_owed(self) -> list[Peer]:
        """Who is to be told of what we have at this heartbeat, whatever the lot says."""
        owed = {**self.chokers, **self.owed}
        self.owed.clear()
        return list(owed.values())


@dataclass
class Fanout:
    """Whom our messages on a topic we are not on go to. Source: gossipsub v1.0, Peering State."""

    peers: dict[bytes, Peer]
    published_ms: int


@dataclass
class State:
    """The router's memory. `effects` are those of the event being handled."""

    params: GossipParams
    dice: random.Random
    direct: frozenset[bytes]
    now_ms: int = 0
    effects: list[Effect] = field(default_factory=list)
    peers: dict[bytes, Peer] = field(default_factory=dict)
    topics: dict[bytes, Topic] = field(default_factory=dict)
    subscribers: dict[bytes, dict[bytes, Peer]] = field(default_factory=dict)
    fanout: dict[bytes, Fanout] = field(default_factory=dict)
    counts: dict[str, TopicCounts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scores = Scores(self.params.score)
        self.seen = Seen(self.params.seen_ms, self.params.seen_max)
        self.cache = MessageCache(self.params.history_length, self.params.history_gossip, self.params.cache_bytes_max)

    def count(self, topic: str) -> TopicCounts:
        counts = self.counts.get(topic)
        if counts is None:
            counts = self.counts[topic] = TopicCounts()
        return counts

    def refresh(self, peer: Peer) -> float:
        """Compute a peer's score anew and keep it."""
        peer.score = self.scores.compute(peer.conduct)
        return peer.score

    def blame(self, peer: Peer, amount: float, reason: str) -> None:
        """Count a fault of behaviour. Source: gossipsub v1.1, The Score Function, P₇."""
        peer.conduct.behaviour += amount
        self.refresh(peer)
        self.effects.append(Fault(peer.node, reason))

    def get_conduct(self, peer: Peer, topic: Topic) -> TopicConduct:
        conduct = peer.conduct.topics.get(topic.key)
        if conduct is None:
            conduct = peer.conduct.topics[topic.key] = TopicConduct(topic.params.score)
        return conduct

    def blame_invalid(self, peer: Peer, topic: Topic, reason: str) -> None:
        """Count an invalid message. Source: gossipsub v1.1, P₄: Invalid Messages."""
        self.get_conduct(peer, topic).invalid += 1
        self.refresh(peer)
        self.effects.append(Fault(peer.node, reason))

    def pick(self, topic: bytes, count: int, is_fit: Callable[[Peer], bool]) -> list[Peer]:
        """At most `count` of a topic's subscribers that are fit, by lot."""
        if count <= 0:
            return []
        fit = [peer for peer in self.subscribers.get(topic, {}).values() if is_fit(peer)]
        return fit if len(fit) <= count else self.dice.sample(fit, count)
