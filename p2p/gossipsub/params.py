"""What can be set about the router, with safe defaults. Times are milliseconds, decay factors are per decay interval.

Source: gossipsub v1.0, Parameters; v1.1, Overview of New Parameters; the caps are go-libp2p-pubsub's.
"""

import enum
from dataclasses import dataclass, field

from protocol.errors import LocalError


class Signature(enum.Enum):
    """Who answers for a message. Source: pubsub specification, Signature Policy Options."""

    STRICT_NO_SIGN = "the content is its own name; signatures are the application's"
    STRICT_SIGN = "author, number and signature on every message"


@dataclass(frozen=True)
class TopicScore:
    """How conduct on one topic counts. Defaults suit a low-rate topic: P3 and P3b are off, silence is no fault.

    Source: gossipsub v1.1, The Score Function.
    """

    topic_weight: float = 1.0
    time_in_mesh_weight: float = 0.01  # P1
    time_in_mesh_quantum_ms: int = 1_000
    time_in_mesh_cap: float = 60.0
    first_deliveries_weight: float = 0.25  # P2
    first_deliveries_decay: float = 0.9  # who stops delivering has lost half of the credit after seven beats
    first_deliveries_cap: float = 20.0
    mesh_deliveries_weight: float = 0.0  # P3
    mesh_deliveries_decay: float = 0.95
    mesh_deliveries_threshold: float = 0.0
    mesh_deliveries_cap: float = 0.0
    mesh_deliveries_activation_ms: int = 30_000
    mesh_deliveries_window_ms: int = 10
    mesh_failure_weight: float = 0.0  # P3b
    mesh_failure_decay: float = 0.95
    invalid_weight: float = -5.0  # P4: the fifth within seconds is graylisted
    invalid_decay: float = 0.99

    def __post_init__(self) -> None:
        rewards = (self.topic_weight, self.time_in_mesh_weight, self.first_deliveries_weight)
        faults = (self.mesh_deliveries_weight, self.mesh_failure_weight, self.invalid_weight)
        decays = (
            self.first_deliveries_decay,
            self.mesh_deliveries_decay,
            self.mesh_failure_decay,
            self.invalid_decay,
        )
        if min(rewards) < 0 or max(faults) > 0 or not all(0 < decay < 1 for decay in decays):
            raise LocalError("rewards weigh 0 or more, faults 0 or less, and decay factors lie between 0 and 1")
        if self.mesh_deliveries_weight and not 0 < self.mesh_deliveries_threshold <= self.mesh_deliveries_cap:
            raise LocalError("P3 needs a threshold above 0 and a cap no lower")


def expect_rate(messages_per_s: float, heartbeat_ms: int = 1_000) -> TopicScore:
    """A topic's score when every mesh peer can be expected to carry about that many messages a second.

    Below one message a second P3 stays off: on a quiet topic honest peers would be punished for silence.
    """
    if messages_per_s < 1:
        return TopicScore()
    # A counter that decays by 5 % a beat settles at 20 beats' worth; a fifth of that tells a mute peer from a slow one.
    settled = messages_per_s * heartbeat_ms / 1_000 / (1 - 0.95)
    threshold = min(settled / 5, 20.0)
    return TopicScore(
        mesh_deliveries_weight=-20 / threshold**2,
        mesh_deliveries_threshold=threshold,
        mesh_deliveries_cap=4 * threshold,
        mesh_failure_weight=-10 / threshold**2,
    )


@dataclass(frozen=True)
class TopicParams:
    """One topic. `priority` 0 goes first. An asynchronous topic has its messages judged by `Judged` events."""

    signature: Signature = Signature.STRICT_NO_SIGN
    score: TopicScore = field(default_factory=TopicScore)
    priority: int = 3
    data_bytes_max: int = 64 * 1024


@dataclass(frozen=True)
class ScoreParams:
    """What counts across topics, and what follows from a score. Source: gossipsub v1.1, Score Thresholds."""

    topic_score_cap: float = 20.0
    app_weight: float = 1.0  # P5
    colocation_weight: float = -1.0  # P6
    colocation_threshold: int = 8
    behaviour_weight: float = -10.0  # P7
    behaviour_threshold: float = 4.0
    behaviour_decay: float = 0.97
    decay_interval_ms: int = 1_000
    decay_to_zero: float = 0.1
    retain_ms: int = 3_600_000
    gossip_threshold: float = -10.0
    publish_threshold: float = -40.0
    graylist_threshold: float = -80.0
    accept_px_threshold: float = 50.0  # above what deliveries alone can earn
    opportunistic_graft_threshold: float = 1.0

    def __post_init__(self) -> None:
        if not 0 > self.gossip_threshold >= self.publish_threshold > self.graylist_threshold:
            raise LocalError("thresholds fall: 0 > gossip >= publish > graylist")
        if self.accept_px_threshold < 0 or self.opportunistic_graft_threshold < 0 or self.topic_score_cap < 0:
            raise LocalError("these thresholds and caps are 0 or more")
        if self.app_weight < 0 or self.colocation_weight > 0 or self.behaviour_weight > 0:
            raise LocalError("P5 weighs 0 or more, P6 and P7 weigh 0 or less")
        if not 0 < self.behaviour_decay < 1 or not 0 < self.decay_to_zero < 1:
            raise LocalError("decay factors lie between 0 and 1")


@dataclass(frozen=True)
class GossipParams:
    """The whole router. Degrees are per topic: what a mesh should have, and where it is mended."""

    degree: int = 6
    degree_low: int = 4
    degree_high: int = 12
    degree_score: int = 4
    degree_out: int = 2
    degree_lazy: int = 6
    gossip_factor: float = 0.25
    history_length: int = 5
    history_gossip: int = 3
    heartbeat_ms: int = 1_000
    fanout_ttl_ms: int = 60_000
    flood_publish: bool = True
    flood_peers_max: int = 256
    prune_backoff_ms: int = 60_000
    unsubscribe_backoff_ms: int = 10_000
    backoff_slack_ms: int = 2_000
    backoff_ms_max: int = 3_600_000
    graft_flood_ms: int = 10_000
    opportunistic_graft_ticks: int = 2
    opportunistic_graft_peers: int = 2
    direct_connect_ticks: int = 300
    retransmissions_max: int = 3
    ihave_messages_max: int = 10
    ihave_ids_max: int = 5_000
    iwant_followup_ms: int = 3_000
    iwant_again_max: int = 256  # ids asked for more often than they are sent again, between two heartbeats
    resend_bytes_max: int = 4 * 1024 * 1024  # answers to one peer's IWANTs between two heartbeats
    seen_ms: int = 120_000
    seen_max: int = 131_072
    cache_bytes_max: int = 32 * 1024 * 1024
    validations_per_peer_max: int = 256
    validations_max: int = 1_024
    validation_ms_max: int = 5_000
    topics_max: int = 64  # our own
    topics_per_peer_max: int = 256
    topic_bytes_max: int = 128
    subscription_changes_max: int = 1_024  # of one peer between two heartbeats
    slice_messages: int = 32
    slice_bytes: int = 256 * 1024
    peer_exchange: bool = False
    idontwant_bytes_min: int | None = None  # v1.2, off: it costs a packet per mesh peer and message
    idontwant_ids_max: int = 10
    idontwant_messages_max: int = 1_000
    idontwant_ttl_beats: int = 3
    choke_after: int | None = None  # messages in a row that their authors brought themselves; off
    score: ScoreParams = field(default_factory=ScoreParams)

    def __post_init__(self) -> None:
        """Source: gossipsub v1.1, Outbound Mesh Quotas. A bootstrapper keeps no mesh: all degrees 0."""
        if self.history_gossip > self.history_length or self.history_gossip < 1:
            raise LocalError("history_gossip is between 1 and history_length")
        if self.degree == self.degree_low == self.degree_high == self.degree_out == 0:
            return
        if not 0 < self.degree_low <= self.degree <= self.degree_high or self.degree_score > self.degree:
            raise LocalError("degrees rise: 0 < low <= degree <= high, and degree_score is at most degree")
        if self.degree_out >= self.degree_low or 2 * self.degree_out > self.degree:
            raise LocalError("degree_out is below degree_low and at most half of degree")
