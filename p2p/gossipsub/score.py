"""What we think of each peer: a number from its conduct on our topics and its behaviour towards the router.

Source: gossipsub v1.1, Peer Scoring, The Score Function, Parameter Decay.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from p2p.gossipsub.params import ScoreParams, TopicScore

RETAINED_MAX = 4_096  # peers that left, whose faults are remembered


class TopicConduct:
    """One peer's counters on one topic."""

    __slots__ = ("failure", "first", "grafted_ms", "in_mesh", "in_mesh_ms", "invalid", "is_active", "mesh", "params")

    def __init__(self, params: TopicScore) -> None:
        self.params = params
        self.in_mesh = False
        self.grafted_ms = 0
        self.in_mesh_ms = 0
        self.is_active = False  # long enough in the mesh for P3 to count
        self.first = 0.0
        self.mesh = 0.0
        self.failure = 0.0
        self.invalid = 0.0

    def compute(self) -> float:
        """This topic's share of the score: P1, P2, P3, P3b and P4, weighted."""
        params = self.params
        score = self.first * params.first_deliveries_weight
        if self.in_mesh:
            quanta = self.in_mesh_ms // params.time_in_mesh_quantum_ms
            score += min(quanta, params.time_in_mesh_cap) * params.time_in_mesh_weight
        if self.is_active and self.mesh < params.mesh_deliveries_threshold:
            score += (params.mesh_deliveries_threshold - self.mesh) ** 2 * params.mesh_deliveries_weight
        score += self.failure * params.mesh_failure_weight
        score += self.invalid**2 * params.invalid_weight
        return score * params.topic_weight

    def leave_mesh(self) -> None:
        """The deficit of a mesh peer that leaves stays with it. Source: v1.1, P₃ and P₃b: Mesh Message Delivery."""
        deficit = self.params.mesh_deliveries_threshold - self.mesh
        if self.in_mesh and self.is_active and deficit > 0:
            self.failure += deficit * deficit
        self.in_mesh = self.is_active = False

    def decay(self, zero: float, now_ms: int) -> None:
        params = self.params
        self.first = _fade(self.first, params.first_deliveries_decay, zero)
        self.mesh = _fade(self.mesh, params.mesh_deliveries_decay, zero)
        self.failure = _fade(self.failure, params.mesh_failure_decay, zero)
        self.invalid = _fade(self.invalid, params.invalid_decay, zero)
        if self.in_mesh:
            self.in_mesh_ms = now_ms - self.grafted_ms
            self.is_active = self.is_active or self.in_mesh_ms > params.mesh_deliveries_activation_ms

    def is_blank(self) -> bool:
        return not (self.in_mesh or self.first or self.mesh or self.failure or self.invalid)


@dataclass(slots=True)
class Conduct:
    """All that one peer did. It outlives the connection when it is nothing to be proud of."""

    group: str = ""
    topics: dict[bytes, TopicConduct] = field(default_factory=dict)
    behaviour: float = 0.0
    app_score: float = 0.0
    expires_ms: int = 0


class Scores:
    """Computes and ages scores. Whoever holds a peer's conduct caches the number."""

    def __init__(self, params: ScoreParams) -> None:
        self._params = params
        self._retained: OrderedDict[bytes, Conduct] = OrderedDict()
        self._groups: dict[str, dict[bytes, None]] = {}
        self._decayed_ms = 0

    def meet(self, node: bytes, group: str) -> Conduct:
        """The conduct of a peer that connects: what is remembered of it, or a blank one."""
        conduct = self._retained.pop(node, None) or Conduct()
        self._leave_group(node, conduct)
        conduct.group = group
        if group:
            self._groups.setdefault(group, {})[node] = None
        return conduct

    def part(self, node: bytes, conduct: Conduct, now_ms: int) -> None:
        """A peer is gone. Only scores of 0 and less are kept: nobody saves up credit. Source: v1.1, Peer Scoring."""
        if self.compute(conduct) > 0:
            self._leave_group(node, conduct)
            return
        for topic in conduct.topics.values():
            topic.first = 0.0
            topic.leave_mesh()
        conduct.expires_ms = now_ms + self._params.retain_ms
        self._retained[node] = conduct
        while len(self._retained) > RETAINED_MAX:
            self._leave_group(*self._retained.popitem(last=False))

    def _leave_group(self, node: bytes, conduct: Conduct) -> None:
        members = self._groups.get(conduct.group)
        if members is not None:
            members.pop(node, None)
            if not members:
                del self._groups[conduct.group]

    def compute(self, conduct: Conduct) -> float:
        """The score. Source: v1.1, The Score Function; the behaviour threshold is go-libp2p-pubsub's."""
        params = self._params
        score = 0.0
        if conduct.topics:
            for topic in conduct.topics.values():
                score += topic.compute()
            score = min(score, params.topic_score_cap)
        if conduct.app_score:
            score += conduct.app_score * params.app_weight
        if conduct.group:
            surplus = len(self._groups.get(conduct.group, ())) - params.colocation_threshold
            if surplus > 0:
                score += surplus * surplus * params.colocation_weight
        excess = conduct.behaviour - params.behaviour_threshold
        if excess > 0:
            score += excess * excess * params.behaviour_weight
        return score

    def age(self, conducts: list[Conduct], now_ms: int) -> None:
        """Let counters fade, once per decay interval. Source: v1.1, Parameter Decay.

        Retained scores do not fade, so that leaving and coming back gains nothing; they end after their time.
        """
        while self._retained and next(iter(self._retained.values())).expires_ms <= now_ms:
            self._leave_group(*self._retained.popitem(last=False))
        if now_ms - self._decayed_ms < self._params.decay_interval_ms:
            return
        self._decayed_ms = now_ms
        zero = self._params.decay_to_zero
        for conduct in conducts:
            if conduct.behaviour:
                conduct.behaviour = _fade(conduct.behaviour, self._params.behaviour_decay, zero)
            if not conduct.topics:
                continue
            for key, topic in list(conduct.topics.items()):
                topic.decay(zero, now_ms)
                if topic.is_blank():
                    del conduct.topics[key]

    def get_sizes(self) -> dict[str, int]:
        return {"retained": len(self._retained), "groups": len(self._groups)}


def _fade(value: float, factor: float, zero: float) -> float:
    value *= factor
    return value if value >= zero else 0.0
