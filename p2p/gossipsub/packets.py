"""What a peer sends: its packets worked off in slices, its subscriptions noted, the rest handed to whom it is for."""

from p2p.gossipsub.choke import Choking
from p2p.gossipsub.events import Continue, PeerDown, Received, ResetStream, Resumed, StreamEnded
from p2p.gossipsub.lazy import LazyPull
from p2p.gossipsub.mesh import Mesh
from p2p.gossipsub.messages import Messages
from p2p.gossipsub.state import Peer, State
from p2p.gossipsub.wire import Control, read_slice
from p2p.protobuf import MalformedPacket
from protocol.errors import LocalError

MALFORMED = 2.5  # how much a packet that is none counts as behaviour: the second is felt
EXCESS_MAX = 4  # how many times that a control message counts that is longer than any implementation's
FLOOD = 256  # subscriptions beyond the limit that count as one fault


class Packets:
    """One packet of a peer's at a time."""

    def __init__(self, state: State, mesh: Mesh, lazy: LazyPull, messages: Messages, choking: Choking) -> None:
        self._state = state
        self._params = state.params
        self._mesh = mesh
        self._lazy = lazy
        self._messages = messages
        self._choking = choking

    def take(self, event: Received) -> None:
        peer = self._state.peers.get(event.peer)
        if peer is None:
            return
        if peer.packet is not None:
            raise LocalError("the last packet of this peer is not worked off yet")
        if not self.is_heard(peer):
            return
        peer.packet, peer.packet_at = event.packet, 0
        self._work_off(peer)

    def resume(self, event: Resumed) -> None:
        peer = self._state.peers.get(event.peer)
        if peer is None or peer.packet is None:
            return
        if not self.is_heard(peer):
            peer.packet = None
            return
        self._work_off(peer)

    def is_heard(self, peer: Peer) -> bool:
        """Source: gossipsub v1.1, Score Thresholds (GraylistThreshold), Explicit Peering Agreements."""
        return peer.score >= self._params.score.graylist_threshold or peer.is_direct

    def forget(self, event: StreamEnded | PeerDown) -> None:
        """What a peer had begun to say, and what it has said of its topics, counts no more."""
        peer = self._state.peers.get(event.peer)
        if peer is not None:
            peer.packet = None
            for key in list(peer.topics):
                self._note_leave(peer, key)

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
        self._choking.take(peer, control)
