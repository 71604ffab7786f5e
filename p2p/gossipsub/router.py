"""The gossip router: gossipsub v1.1 as a pure state machine, events in and effects out.

It opens no socket, reads no clock and rolls no dice of its own: `now_ms` and `dice` are handed in, and the same events
give the same effects. Parts: `mesh` (who gets whole messages), `lazy` (who hears of them), `score`, `cache`, `wire`.
"""

import random
from collections.abc import Callable, Iterable
from typing import Any

from p2p.gossipsub.cache import Standing
from p2p.gossipsub.events import (
    Blamed,
    Continue,
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
    ResetStream,
    Resumed,
    SendControl,
    SendMessage,
    SendSubscriptions,
    StreamEnded,
    StreamRenewed,
    Subscribe,
    Unsubscribe,
)
from p2p.gossipsub.lazy import LazyPull
from p2p.gossipsub.mesh import Mesh
from p2p.gossipsub.messages import Messages
from p2p.gossipsub.params import GossipParams, Signature, TopicParams
from p2p.gossipsub.signing import (
    Author,
    build_id_prefix,
    compute_content_id,
    get_default_id,
)
from p2p.gossipsub.state import Fanout, Peer, State, Topic, TopicCounts
from p2p.gossipsub.wire import Control, read_slice, write_message, write_plain, write_subscription
from p2p.protobuf import MalformedPacket, write_bytes
from protocol.errors import LocalError

MALFORMED = 2.5  # how much a packet that is none counts as behaviour: the second is felt
EXCESS_MAX = 4  # how many times that a control message counts that is longer than any implementation's
FLOOD = 256  # subscriptions beyond the limit that count as one fault


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
        self._author = author
        self._tick = 0
        self._messages = Messages(self._state, self._lazy, author)
        self._handlers: dict[type, Callable[[Any], None]] = {
            PeerUp: self._take_peer,
            PeerDown: self._lose_peer,
            StreamRenewed: self._greet,
            StreamEnded: self._forget_topics,
            Received: self._take_packet,
            Resumed: self._resume,
            Subscribe: self._subscribe,
            Unsubscribe: self._unsubscribe,
            Publish: self._publish,
            Judged: self._messages.take_verdict,
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

    def _forget_topics(self, event: StreamEnded | PeerDown) -> None:
        peer = self._state.peers.get(event.peer)
        if peer is not None:
            peer.packet = None
            for key in list(peer.topics):
                self._note_leave(peer, key)

    def _lose_peer(self, event: PeerDown) -> None:
        state = self._state
        self._forget_topics(event)
        peer = state.peers.pop(event.peer, None)
        if peer is None:
            return
        state.scores.part(peer.node, peer.conduct, state.now_ms)

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

    # Our messages

    def _publish(self, event: Publish) -> None:
        """Source: gossipsub v1.1, Flood Publishing; v1.0, Message Processing."""
        state = self._state
        key, data = event.topic.encode(), event.data
        topic = state.topics.get(key)
        params = topic.params if topic else event.params or TopicParams()
        if len(data) > params.data_bytes_max:
            raise LocalError(f"a gossip message has {len(data)} bytes, at most {params.data_bytes_max}")
        if params.signature is Signature.STRICT_SIGN:
            if self._author is None:
                raise LocalError(f"{event.topic} is a signed topic and this router has no author")
            message = self._author.write(key, data)
            name, packet = get_default_id(message), write_message(message)
        else:
            name = compute_content_id(topic.id_prefix if topic else build_id_prefix(key), data)
            packet = write_plain(data, topic.field if topic else write_bytes(4, key))
        state.count(event.topic).published += 1
        if name not in state.seen.sightings:
            state.seen.add(name, Standing.ACCEPTED, state.now_ms)
        state.cache.put(name, key, packet, params.priority)
        peers = self._choose_for_own(key, topic)
        if peers:
            state.effects.append(SendMessage(peers, event.topic, packet, params.priority, is_own=True))

    def _choose_for_own(self, key: bytes, topic: Topic | None) -> list[bytes]:
        state, params = self._state, self._params
        subscribers = state.subscribers.get(key, {})
        threshold = params.score.publish_threshold
        if params.flood_publish:
            fit = [node for node, peer in subscribers.items() if peer.is_direct or peer.score >= threshold]
            if len(fit) <= params.flood_peers_max:
                return fit
            certain = {node: None for node in fit if (topic and node in topic.mesh) or node in state.direct}
            others = [node for node in fit if node not in certain]
            return [*certain, *state.dice.sample(others, max(params.flood_peers_max - len(certain), 0))]
        if topic is not None:
            return list(self._messages.get_targets(topic))
        fanout = state.fanout.get(key)
        if fanout is None:
            fanout = state.fanout[key] = Fanout({}, state.now_ms)
        fanout.published_ms = state.now_ms
        if not fanout.peers:
            self._mesh.fill_fanout(key, fanout)
        return [*fanout.peers, *(node for node in subscribers if node in state.direct)]

    # What peers send

    def _take_packet(self, event: Received) -> None:
        peer = self._state.peers.get(event.peer)
        if peer is None:
            return
        if peer.packet is not None:
            raise LocalError("the last packet of this peer is not worked off yet")
        if not self._is_heard(peer):
            return
        peer.packet, peer.packet_at = event.packet, 0
        self._work_off(peer)

    def _resume(self, event: Resumed) -> None:
        peer = self._state.peers.get(event.peer)
        if peer is None or peer.packet is None:
            return
        if not self._is_heard(peer):
            peer.packet = None
            return
        self._work_off(peer)

    def _is_heard(self, peer: Peer) -> bool:
        """Source: gossipsub v1.1, Score Thresholds (GraylistThreshold), Explicit Peering Agreements."""
        return peer.score >= self._params.score.graylist_threshold or peer.is_direct

    def _work_off(self, peer: Peer) -> None:
        state, params = self._state, self._params
        packet = peer.packet
        assert packet is not None
        try:
            known = self._messages.recent
            part = read_slice(packet, peer.packet_at, params.slice_messages, params.slice_bytes, known)
        except MalformedPacket as error:
            peer.packet = None
            state.blame(peer, MALFORMED, f"malformed gossip packet: {error}")
            state.effects.append(ResetStream(peer.node, str(error)))
            return
        for joins, key in part.subscriptions:
            self._take_subscription(peer, joins, key)
        topics = state.topics
        for copy in part.copies:
            self._messages.take_copy(peer, copy)
        for message, field in part.messages:
            topic = topics.get(message.topic)  # type: ignore[arg-type]
            if topic is not None:
                self._messages.take(peer, topic, message, field)
            elif message.topic is None:
                state.blame(peer, 1.0, "a gossip message must name one topic")
        for control in part.controls:
            self._take_control(peer, control)
        if part.next_at is None:
            peer.packet = None
        else:
            peer.packet_at = part.next_at
            state.effects.append(Continue(peer.node))

    def _take_subscription(self, peer: Peer, joins: bool, key: bytes) -> None:
        params = self._params
        peer.subscription_changes += 1
        if peer.subscription_changes > params.subscription_changes_max and not peer.subscription_changes % FLOOD:
            self._state.blame(peer, 1.0, f"changed {peer.subscription_changes} subscriptions within a heartbeat")
        if not joins:
            self._note_leave(peer, key)
            return
        if key in peer.topics or len(peer.topics) >= params.topics_per_peer_max or len(key) > params.topic_bytes_max:
            return
        peer.topics[key] = None
        self._state.subscribers.setdefault(key, {})[peer.node] = peer
        topic = self._state.topics.get(key)
        if topic is not None:
            topic.targets = None
            self._mesh.welcome(topic, peer)

    def _note_leave(self, peer: Peer, key: bytes) -> None:
        state = self._state
        peer.topics.pop(key, None)
        others = state.subscribers.get(key)
        if others is not None:
            others.pop(peer.node, None)
            if not others:
                del state.subscribers[key]
        if key in state.topics:
            self._mesh.drop(state.topics[key], peer)
        if key in state.fanout:
            state.fanout[key].peers.pop(peer.node, None)

    def _take_control(self, peer: Peer, control: Control) -> None:
        """Source: gossipsub v1.0, Control Messages; v1.2, IDONTWANT Message."""
        if control.excess:
            times = min(control.excess, EXCESS_MAX)
            self._state.blame(
                peer, MALFORMED * times, f"a control message {control.excess + 1} times as long as allowed"
            )
        if control.ihave or control.iwant or control.graft:
            self._state.refresh(peer)
        self._lazy.take_ihave(peer, control)
        self._lazy.take_iwant(peer, control)
        self._mesh.take_grafts(peer, control)
        self._mesh.take_prunes(peer, control)
        self._lazy.take_idontwant(peer, control)

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
            if not self._is_heard(peer):
                state.effects.append(Fault(peer.node, f"graylisted, with a score of {peer.score:.0f}"))
        self._messages.expire()
        self._messages.forget_recent()
        if self._tick % params.direct_connect_ticks == 1:
            state.effects += [Dial(node) for node in sorted(state.direct) if node not in state.peers]
        self._mesh.beat(self._tick)
        for topic in state.topics.values():
            self._lazy.emit(topic.key, topic.mesh)
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
            **state.scores.get_sizes(),
            **self._mesh.get_sizes(),
            **self._lazy.get_sizes(),
        }
