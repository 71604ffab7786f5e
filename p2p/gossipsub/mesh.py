"""The mesh: with whom whole messages are exchanged on each topic, and how that is kept near its degree."""

from typing import NamedTuple

from p2p.gossipsub.events import Dial, Seek, SendControl
from p2p.gossipsub.signing import ED25519_HEAD
from p2p.gossipsub.state import Fanout, Peer, State, Topic
from p2p.gossipsub.wire import Control, Prune, write_prune

BACKOFFS_MAX = 4_096  # remembered per topic
BACKOFF_SWEEP_TICKS = 15


class _Backoff(NamedTuple):
    """No grafting of a peer before `until_ms`, nor by it once it has been told: whoever has left may come back as
    another process, which remembers nothing."""

    until_ms: int
    is_told: bool = True


class _Refusal(NamedTuple):
    """For how long a peer that asks is turned away, and whether it is told of others."""

    backoff_ms: int
    shares_peers: bool = False


class Mesh:
    """Grafts, prunes and their backoff."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._params = state.params
        self._backoffs: dict[bytes, dict[bytes, _Backoff]] = {}  # topic -> node

    # Membership

    def add(self, topic: Topic, peer: Peer) -> None:
        topic.mesh[peer.node] = peer
        topic.targets = None
        conduct = self._state.get_conduct(peer, topic)
        conduct.in_mesh = True
        conduct.grafted_ms = self._state.now_ms
        conduct.in_mesh_ms = 0
        conduct.is_active = False

    def drop(self, topic: Topic, peer: Peer) -> None:
        """Take a peer out, if it is in, without telling it."""
        topic.targets = None
        topic.drop_choker(peer)
        topic.feed.choked.pop(peer.node, None)
        if topic.mesh.pop(peer.node, None) is not None:
            self._state.get_conduct(peer, topic).leave_mesh()

    def graft(self, topic: Topic, peer: Peer) -> None:
        """Source: gossipsub v1.0, GRAFT."""
        self.add(topic, peer)
        self._state.effects.append(SendControl(peer.node, topic.graft))

    def prune(self, topic: Topic, peer: Peer, *, shares_peers: bool = True) -> None:
        """Source: gossipsub v1.0, PRUNE; v1.1, PRUNE Backoff and Peer Exchange."""
        self.drop(topic, peer)
        self.back_off(topic.key, peer.node, self._params.prune_backoff_ms)
        self.send_prune(topic.key, peer, self._params.prune_backoff_ms, shares_peers=shares_peers)

    def send_prune(self, topic: bytes, peer: Peer, backoff_ms: int, *, shares_peers: bool) -> None:
        others: tuple[tuple[bytes, bytes], ...] = ()
        if self._params.peer_exchange and shares_peers and peer.score >= 0:
            fit = self._state.pick(topic, 16, lambda other: other is not peer and other.score >= 0)
            others = tuple((ED25519_HEAD + other.node, other.record) for other in fit)
        body = write_prune(Prune(topic, backoff_ms // 1_000, others))
        self._state.effects.append(SendControl(peer.node, body))

    def join(self, topic: Topic) -> None:
        """A topic we are now on: its mesh begins with the fanout's peers. Source: gossipsub v1.0, Topic Membership."""
        fanout = self._state.fanout.pop(topic.key, None)
        for peer in list(fanout.peers.values()) if fanout else ():
            if len(topic.mesh) < self._params.degree and self._is_fit(topic, peer):
                self.graft(topic, peer)
        for peer in self._pick(topic, self._params.degree - len(topic.mesh)):
            self.graft(topic, peer)

    def leave(self, topic: Topic) -> None:
        """A topic we are no longer on. Source: gossipsub v1.1, PRUNE Backoff (UnsubscribeBackoff)."""
        backoff_ms = self._params.unsubscribe_backoff_ms
        for peer in list(topic.mesh.values()):
            self.drop(topic, peer)
            self.back_off(topic.key, peer.node, backoff_ms)
            self.send_prune(topic.key, peer, backoff_ms, shares_peers=True)

    def welcome(self, topic: Topic, peer: Peer) -> None:
        """A peer came to a topic whose mesh is short: it need not wait for the heartbeat."""
        if len(topic.mesh) < self._get_low(topic) and self._is_fit(topic, peer):
            self.graft(topic, peer)

    # Backoff

    def back_off(self, topic: bytes, node: bytes, backoff_ms: int) -> None:
        """No grafting either way until then; only ever prolonged."""
        until = self._state.now_ms + min(backoff_ms, self._params.backoff_ms_max)
        backoffs = self._backoffs.setdefault(topic, {})
        before = backoffs.pop(node, None)
        backoffs[node] = _Backoff(until if before is None else max(until, before.until_ms))
        if len(backoffs) > BACKOFFS_MAX:
            del backoffs[next(iter(backoffs))]

    def is_backed_off(self, topic: bytes, node: bytes) -> bool:
        """Whether we may not graft a peer yet: with slack, so that our clocks need not agree."""
        backoff = self._backoffs.get(topic, {}).get(node)
        return backoff is not None and self._state.now_ms < backoff.until_ms + self._params.backoff_slack_ms

    def part(self, node: bytes) -> None:
        """Its connection has ended."""
        for backoffs in self._backoffs.values():
            if node in backoffs:
                backoffs[node] = _Backoff(backoffs[node].until_ms, is_told=False)

    def _sweep_backoffs(self) -> None:
        before = self._state.now_ms - self._params.backoff_slack_ms
        for topic, backoffs in list(self._backoffs.items()):
            self._backoffs[topic] = {node: kept for node, kept in backoffs.items() if kept.until_ms > before}
            if not self._backoffs[topic]:
                del self._backoffs[topic]

    # What peers ask

    def take_grafts(self, peer: Peer, control: Control) -> None:
        """Source: gossipsub v1.1, PRUNE Backoff and Peer Exchange, Outbound Mesh Quotas, Spam Protection Measures."""
        refused: dict[bytes, _Refusal] = {}
        for key in dict.fromkeys(control.graft):
            topic = self._state.topics.get(key)
            # Unknown topics are passed over in silence: an answer would be a way to make us work.
            if topic is None or peer.node in topic.mesh:
                continue
            if (refusal := self._judge_graft(topic, peer)) is None:
                self.add(topic, peer)
            else:
                refused[key] = refusal
        for key, refusal in refused.items():
            self.back_off(key, peer.node, refusal.backoff_ms)
            self.send_prune(key, peer, refusal.backoff_ms, shares_peers=refusal.shares_peers)

    def _judge_graft(self, topic: Topic, peer: Peer) -> _Refusal | None:
        """None to let the peer in."""
        until_ms, is_told = self._backoffs.get(topic.key, {}).get(peer.node, _Backoff(0))
        now_ms, backoff_ms = self._state.now_ms, self._params.prune_backoff_ms
        if peer.is_direct or topic.key not in peer.topics:
            return _Refusal(backoff_ms)
        if now_ms < until_ms:
            if not is_told:
                return _Refusal(-(-(until_ms - now_ms) // 1_000) * 1_000)  # whole seconds, as they are sent
            is_flood = now_ms < until_ms + self._params.graft_flood_ms - backoff_ms
            self._state.blame(peer, 2.0 if is_flood else 1.0, f"a GRAFT on {topic.name} before its backoff ended")
            return _Refusal(backoff_ms)
        if peer.score < 0:
            return _Refusal(backoff_ms)
        if len(topic.mesh) >= self._params.degree_high and not peer.is_outbound and not self._displace(topic, peer):
            return _Refusal(backoff_ms, shares_peers=True)
        return None

    def _displace(self, topic: Topic, peer: Peer) -> bool:
        """Whether a full mesh makes room for a peer that asks, having been of far more use than one that is in it."""
        worst = min(topic.mesh.values(), key=lambda other: other.score)
        if not self._is_better(peer, worst):
            return False
        self.prune(topic, worst)
        return True

    def _is_better(self, peer: Peer, other: Peer) -> bool:
        """Whether the difference is worth a change: half as much again would be noise."""
        return peer.score >= self._params.score.opportunistic_graft_threshold and peer.score > 2 * other.score

    def take_prunes(self, peer: Peer, control: Control) -> None:
        """Source: gossipsub v1.0, PRUNE; v1.1, PRUNE Backoff and Peer Exchange, Score Thresholds."""
        for key, backoff_s, others in control.prune:
            topic = self._state.topics.get(key)
            if topic is None:
                continue
            self.drop(topic, peer)
            self.back_off(key, peer.node, backoff_s * 1_000 or self._params.prune_backoff_ms)
            if self._params.peer_exchange and peer.score >= self._params.score.accept_px_threshold:
                self._dial(others)

    def _dial(self, others: tuple[tuple[bytes, bytes], ...]) -> None:
        for peer_id, record in others:
            node = peer_id[len(ED25519_HEAD) :]
            if peer_id.startswith(ED25519_HEAD) and len(node) == 32 and node not in self._state.peers:
                self._state.effects.append(Dial(node, record))

    # Upkeep

    def beat(self, tick: int) -> None:
        """Source: gossipsub v1.0, Mesh Maintenance and Fanout Maintenance; v1.1, Heartbeat Maintenance."""
        if tick % BACKOFF_SWEEP_TICKS == 0:
            self._sweep_backoffs()
        for topic in self._state.topics.values():
            self._mend(topic)
            if tick % self._params.opportunistic_graft_ticks == 0:
                self._graft_opportunistically(topic)
        self._mend_fanouts()

    def _mend(self, topic: Topic) -> None:
        params, mesh = self._params, topic.mesh
        for peer in [peer for peer in mesh.values() if peer.score < 0]:
            self.prune(topic, peer, shares_peers=False)
        if len(mesh) < self._get_low(topic):
            for peer in self._pick(topic, params.degree - len(mesh)):
                self.graft(topic, peer)
        if len(mesh) > params.degree_high:
            for peer in self._choose_surplus(topic):
                self.prune(topic, peer)
        missing = params.degree_out - sum(peer.is_outbound for peer in mesh.values())
        if missing > 0 and len(mesh) >= params.degree_low:
            fit = self._state.pick(topic.key, missing, lambda peer: peer.is_outbound and self._is_fit(topic, peer))
            self._make_room(topic, len(fit))
            for peer in fit:
                self.graft(topic, peer)
        if self._is_turned_away(topic):
            self._state.effects.append(Seek(topic.name))

    def _is_turned_away(self, topic: Topic) -> bool:
        """Whether none of the peers we dialled is in our mesh because of their backoffs.

        Where sybils fill everybody's mesh in the first moment, some are turned away by all they know: for a minute only
        peers they have not asked yet can take them in, and among those they choose themselves no sybil pushes in.
        """
        dialled = [peer for peer in self._state.subscribers.get(topic.key, {}).values() if peer.is_outbound]
        return not any(peer.node in topic.mesh for peer in dialled) and any(
            self.is_backed_off(topic.key, peer.node) for peer in dialled
        )

    def _make_room(self, topic: Topic, count: int) -> None:
        """Let `count` more in: where the mesh is full, the inbound peers that were of least use leave.

        go-libp2p-pubsub grafts beyond degree_high and prunes a heartbeat later; ours is never beyond it.
        """
        surplus = len(topic.mesh) + count - self._params.degree_high
        if surplus > 0:
            inbound = sorted(
                (peer for peer in topic.mesh.values() if not peer.is_outbound), key=lambda peer: peer.score
            )
            for peer in inbound[:surplus]:
                self.prune(topic, peer)

    def _choose_surplus(self, topic: Topic) -> list[Peer]:
        """Whom to prune: all but the best degree_score and some by lot, degree_out of them dialled by us.

        Source: gossipsub v1.1, Outbound Mesh Quotas and Heartbeat Maintenance.
        """
        params = self._params
        peers = list(topic.mesh.values())
        self._state.dice.shuffle(peers)
        peers.sort(key=lambda peer: -peer.score)  # stable: equals stay in the order of the lot
        rest = peers[params.degree_score :]
        self._state.dice.shuffle(rest)
        peers[params.degree_score :] = rest
        kept, surplus = peers[: params.degree], peers[params.degree :]
        missing = params.degree_out - sum(peer.is_outbound for peer in kept)
        outbound = [peer for peer in surplus if peer.is_outbound][: max(missing, 0)]
        # The last kept are those of the lot and the lowest scores: they make room first.
        inbound = [peer for peer in reversed(kept) if not peer.is_outbound][: len(outbound)]
        return [peer for peer in surplus if peer not in outbound] + inbound

    def _graft_opportunistically(self, topic: Topic) -> None:
        """Source: gossipsub v1.1, Opportunistic Grafting.

        The specification grafts beside a mesh that is poor as a whole. Sybils leave no room for that, so whatever the
        median the best from outside also take the places of those that are of far less use.
        """
        params, mesh = self._params, topic.mesh
        if len(mesh) < 2:
            return
        others = self._state.subscribers.get(topic.key, {}).values()
        better = [peer for peer in others if peer.score > 0 and self._is_fit(topic, peer)]
        better.sort(key=lambda peer: -peer.score)
        worst = sorted(mesh.values(), key=lambda peer: peer.score)
        median = worst[len(worst) // 2].score
        is_poor = median < params.score.opportunistic_graft_threshold
        for peer, other in zip(better[: params.opportunistic_graft_peers], worst, strict=False):
            if self._is_better(peer, other):
                if len(mesh) >= params.degree:
                    self.prune(topic, other)
            elif not is_poor or peer.score <= median or len(mesh) >= params.degree_high:
                return
            self.graft(topic, peer)

    def _mend_fanouts(self) -> None:
        state = self._state
        for key, fanout in list(state.fanout.items()):
            if fanout.published_ms + self._params.fanout_ttl_ms < state.now_ms:
                del state.fanout[key]
                continue
            for peer in [peer for peer in fanout.peers.values() if not self._may_fan_out(key, peer)]:
                del fanout.peers[peer.node]
            self.fill_fanout(key, fanout)

    def fill_fanout(self, key: bytes, fanout: Fanout) -> None:
        """Source: gossipsub v1.0, Fanout Maintenance."""
        missing = self._params.degree - len(fanout.peers)
        for peer in self._state.pick(
            key, missing, lambda peer: peer.node not in fanout.peers and self._may_fan_out(key, peer)
        ):
            fanout.peers[peer.node] = peer

    def _may_fan_out(self, key: bytes, peer: Peer) -> bool:
        is_there = key in peer.topics and peer.node in self._state.peers
        return is_there and not peer.is_direct and peer.score >= self._params.score.publish_threshold

    def _get_low(self, topic: Topic) -> int:
        # On a topic with no more subscribers than the degree the mesh is all of them: min(D, subscribers).
        others = len(self._state.subscribers.get(topic.key, ()))
        return others if others <= self._params.degree else self._params.degree_low

    def _pick(self, topic: Topic, count: int) -> list[Peer]:
        """By lot, but first from those that strangers cannot be among: peers we dialled ourselves."""
        picked = self._state.pick(topic.key, count, lambda peer: peer.is_outbound and self._is_fit(topic, peer))
        return picked + self._state.pick(
            topic.key, count - len(picked), lambda peer: not peer.is_outbound and self._is_fit(topic, peer)
        )

    def _is_fit(self, topic: Topic, peer: Peer) -> bool:
        return (
            peer.node not in topic.mesh
            and topic.key in peer.topics
            and not peer.is_direct
            and peer.score >= 0
            and not self.is_backed_off(topic.key, peer.node)
        )

    def get_sizes(self) -> dict[str, int]:
        return {"backoffs": sum(map(len, self._backoffs.values()))}
