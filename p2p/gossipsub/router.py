"""The gossip router: gossipsub v1.1 as a pure state machine, events in and effects out.

It opens no socket, reads no clock and rolls no dice of its own: `now_ms` and `dice` are handed in, and the same events
give the same effects. Parts: `packets` and `messages` (what peers send), `publisher` (what we say), `mesh` (who gets
whole messages), `lazy` (who hears of them), `choke` (who need not send them), `score`, `cache`, `wire`.
"""

import random
from collections.abc import Callable, Iterable
from typing import Any

from p2p.gossipsub.choke import Choking
from p2p.gossipsub.events import (
    Blamed,
    Dial,
    Effect,
    Event,
    Fault,
    Heartbeat,
    Judged,
    PeerDown,
    PeerUp,
    Publish,
    Rated,
    Received,
    Recorded,
    Resumed,
    SendControl,
    SendSubscriptions,
    StreamEnded,
    StreamRenewed,
    Subscribe,
    Unsubscribe,
)
from p2p.gossipsub.lazy import LazyPull
from p2p.gossipsub.mesh import Mesh
from p2p.gossipsub.messages import Messages
from p2p.gossipsub.packets import Packets
from p2p.gossipsub.params import GossipParams, TopicParams
from p2p.gossipsub.publisher import Publisher
from p2p.gossipsub.signing import Author
from p2p.gossipsub.state import Peer, State, Topic, TopicCounts
from p2p.gossipsub.wire import write_subscription
from protocol.errors import LocalError


class Router:
    """One node's gossip. `author` signs on StrictSign topics; without one such topics can only be heard."""

    def __init__(
        self,
        params: GossipParams,
        dice: random.Random,
        author: Author | None = None,
        direct: Iterable[bytes] = (),
    ) -> None:
        self._state = State(params, dice, frozenset(direct))
        self._mesh = Mesh(self._state)
        self._lazy = LazyPull(self._state)
        self._params = params
        self._tick = 0
        self._choking = Choking(self._state)
        self._messages = Messages(self._state, self._lazy, self._choking, author)
        self._packets = Packets(self._state, self._mesh, self._lazy, self._messages, self._choking)
        self._publisher = Publisher(self._state, self._mesh, self._messages, author)
        self._handlers: dict[type, Callable[[Any], None]] = {
            PeerUp: self._take_peer,
            PeerDown: self._lose_peer,
            StreamRenewed: self._greet,
            StreamEnded: self._packets.forget,
            Received: self._packets.take,
            Resumed: self._packets.resume,
            Subscribe: self._subscribe,
            Unsubscribe: self._unsubscribe,
            Publish: self._publisher.publish,
            Judged: self._messages.take_verdicts,
            Blamed: self._take_blame,
            Rated: self._rate,
            Recorded: self._note_record,
            Heartbeat: self._beat,
        }

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """What is to be done, in order. Raises LocalError for a mistake of the caller, nothing for a peer's."""
        state = self._state
        state.now_ms = now_ms
        effects: list[Effect] = []
        state.effects = effects
        self._handlers[type(event)](event)
        return effects

    # Peers

    def _take_peer(self, event: PeerUp) -> None:
        """Source: gossipsub v1.0, Peering State; v1.1, Peer Scoring (a score outlives the connection)."""
        state = self._state
        if event.peer in state.peers:
            return
        conduct = state.scores.meet(event.peer, event.group)
        is_direct = event.peer in state.direct
        peer = Peer(event.peer, event.is_outbound, is_direct, event.speaks_v12, conduct)
        state.peers[event.peer] = peer
        state.refresh(peer)
        self._say_hello(peer)

    def _say_hello(self, peer: Peer) -> None:
        topics = self._state.topics
        if topics:
            hello = b"".join([write_subscription(True, key) for key in topics])
            self._state.effects.append(SendSubscriptions(peer.node, hello))

    def _greet(self, event: StreamRenewed) -> None:
        peer = self._state.peers.get(event.peer)
        if peer is None:
            return
        self._say_hello(peer)
        for topic in self._state.topics.values():
            if peer.node in topic.mesh:
                self._state.effects.append(SendControl(peer.node, topic.graft))

    def _lose_peer(self, event: PeerDown) -> None:
        state = self._state
        self._packets.forget(event)
        peer = state.peers.pop(event.peer, None)
        if peer is None:
            return
        state.scores.part(peer.node, peer.conduct, state.now_ms)
        self._mesh.part(peer.node)

    def _take_blame(self, event: Blamed) -> None:
        if (peer := self._state.peers.get(event.peer)) is not None:
            peer.conduct.behaviour += event.amount
            self._state.refresh(peer)

    def _rate(self, event: Rated) -> None:
        if (peer := self._state.peers.get(event.peer)) is not None:
            peer.conduct.app_score = event.score
            self._state.refresh(peer)

    def _note_record(self, event: Recorded) -> None:
        """Source: gossipsub v1.1, PRUNE Backoff and Peer Exchange."""
        if (peer := self._state.peers.get(event.peer)) is not None:
            peer.record = event.record

    # Our topics

    def _subscribe(self, event: Subscribe) -> None:
        """Source: gossipsub v1.0, Topic Membership."""
        state, params = self._state, self._params
        key = event.topic.encode()
        found = state.topics.get(key)
        if found is not None:
            found.judge = event.judge
            return
        if len(key) > params.topic_bytes_max or len(state.topics) >= params.topics_max:
            raise LocalError(f"at most {params.topics_max} topics of {params.topic_bytes_max} bytes each")
        topic = Topic(event.topic, event.judge, event.params or TopicParams(), state.count(event.topic))
        state.topics[key] = topic
        self._tell_all(True, key)
        self._mesh.join(topic)

    def _unsubscribe(self, event: Unsubscribe) -> None:
        topic = self._state.topics.pop(event.topic.encode(), None)
        if topic is not None:
            self._messages.forget_recent()
            self._tell_all(False, topic.key)
            self._mesh.leave(topic)

    def _tell_all(self, joins: bool, key: bytes) -> None:
        packet = write_subscription(joins, key)
        self._state.effects += [SendSubscriptions(node, packet) for node in self._state.peers]

    # Heartbeat

    def _beat(self, event: Heartbeat) -> None:
        """Source: gossipsub v1.0, Heartbeat; v1.1, Heartbeat Maintenance."""
        state, params = self._state, self._params
        self._tick += 1
        peers = list(state.peers.values())
        state.scores.age([peer.conduct for peer in peers], state.now_ms)
        self._lazy.blame_broken_promises()
        for peer in peers:
            peer.begin_beat()
            state.refresh(peer)
            # Every beat anew, so that whoever keeps the connections sees that it is of no use.
            if not self._packets.is_heard(peer):
                state.effects.append(Fault(peer.node, f"graylisted, with a score of {peer.score:.0f}"))
        self._messages.expire()
        self._messages.forget_recent()
        if self._tick % params.direct_connect_ticks == 1:
            state.effects += [Dial(node) for node in sorted(state.direct) if node not in state.peers]
        self._mesh.beat(self._tick)
        for topic in state.topics.values():
            self._choking.beat(topic)
            self._lazy.emit(topic.key, topic.mesh, topic.list_owed())
        for key, fanout in state.fanout.items():
            self._lazy.emit(key, fanout.peers)
        state.cache.shift()
        state.seen.expire(state.now_ms)

    # For reports and tests

    def get_score(self, node: bytes) -> float:
        """What a connected peer's score is now; 0 for others."""
        peer = self._state.peers.get(node)
        return self._state.refresh(peer) if peer else 0.0

    def is_subscribed(self, topic: str) -> bool:
        return topic.encode() in self._state.topics

    def get_mesh(self, topic: str) -> tuple[bytes, ...]:
        """Our mesh on a topic, sorted."""
        found = self._state.topics.get(topic.encode())
        return tuple(sorted(found.mesh)) if found else ()

    def get_subscribers(self, topic: str) -> tuple[bytes, ...]:
        """Connected peers that said they are on a topic, sorted."""
        return tuple(sorted(self._state.subscribers.get(topic.encode(), ())))

    def get_counts(self) -> dict[str, TopicCounts]:
        """What went through each of our topics; the shell adds what it drops and sends."""
        return self._state.counts

    def get_sizes(self) -> dict[str, int]:
        """How much is remembered, by name: everything here has a bound."""
        state = self._state
        return {
            "peers": len(state.peers),
            "subscriptions": sum(map(len, state.subscribers.values())),
            "fanout": len(state.fanout),
            "seen": len(state.seen.sightings),
            "cache_messages": len(state.cache.messages),
            "cache_bytes": state.cache.size,
            "waiting": self._messages.count_waiting(),
            "choked": sum(len(topic.feed.choked) for topic in state.topics.values()),
            "chokers": sum(len(topic.chokers) for topic in state.topics.values()),
            "awaited": sum(len(topic.feed.awaited) + len(topic.feed.awaited_before) for topic in state.topics.values()),
            **state.scores.get_sizes(),
            **self._mesh.get_sizes(),
            **self._lazy.get_sizes(),
        }
