"""Messages as they come: named, met before or not, judged, then delivered and forwarded once, or blamed."""

from typing import NamedTuple

from p2p.gossipsub.cache import Sighting, Standing
from p2p.gossipsub.choke import Choking
from p2p.gossipsub.events import Deliver, Judged, SendMessage, Validate
from p2p.gossipsub.lazy import LazyPull
from p2p.gossipsub.signing import ED25519_HEAD, Author, compute_content_id, get_default_id, verify_author
from p2p.gossipsub.state import Peer, State, Topic
from p2p.gossipsub.wire import HINT_BYTES_MIN, Message, count_plain, get_hint, write_message, write_plain
from protocol.errors import NotForUs, RemoteError
from protocol.types import Unproven, Verdict

RECENT_MAX = 8_192  # messages recognised by their bytes alone
RECENT_BYTES_MAX = 8 * 1024 * 1024
_ACCEPTED, _REJECTED, _IGNORED, _PENDING = Standing.ACCEPTED, Standing.REJECTED, Standing.IGNORED, Standing.PENDING


class Waiting(NamedTuple):
    """A message whose verdict is awaited."""

    peer: Peer
    topic: Topic
    message: Message
    field: bytes
    key: bytes
    due_ms: int
    author: bytes  # empty while nobody knows


class Recent(NamedTuple):
    """A message that has just come, for its copies."""

    topic: Topic
    sighting: Sighting
    data_bytes: int
    field: bytes


class Messages:
    """What becomes of peers' messages."""

    def __init__(self, state: State, lazy: LazyPull, choking: Choking, author: Author | None) -> None:
        self._state = state
        self._params = state.params
        self._lazy = lazy
        self._choking = choking
        self._own_id = ED25519_HEAD + author.node if author else None
        self._waiting: dict[int, Waiting] = {}  # oldest first
        self._tickets = 0
        self.recent: dict[bytes, Recent] = {}
        self._recent_bytes = 0

    def get_targets(self, topic: Topic) -> list[bytes]:
        """Whom messages on a topic go to: its mesh but for who has choked us, and direct peers that are on it.

        Source: v1.1, Explicit Peering Agreements.
        """
        if topic.targets is None:
            subscribers = self._state.subscribers.get(topic.key, {})
            direct = [node for node in subscribers if node in self._state.direct]
            topic.targets = [*(node for node in topic.mesh if node not in topic.chokers), *direct]
        return topic.targets

    def take_copy(self, peer: Peer, copy: Recent) -> None:
        """Byte for byte what came before."""
        topic, sighting, data_bytes, _ = copy
        counts = topic.counts
        counts.received += 1
        counts.bytes_received += data_bytes
        counts.duplicates += 1
        self._note_copy(peer, topic, sighting)

    def forget_recent(self) -> None:
        self.recent.clear()
        self._recent_bytes = 0

    def _note(self, key: bytes, standing: Standing, topic: Topic, message: Message, field: bytes) -> Sighting:
        sighting = self._state.seen.add(key, standing, self._state.now_ms)
        self._recent_bytes += len(field)
        if len(self.recent) >= RECENT_MAX or self._recent_bytes > RECENT_BYTES_MAX:
            self.forget_recent()
        hint = field if len(field) <= HINT_BYTES_MIN else get_hint(field)
        self.recent[hint] = Recent(topic, sighting, len(message.data or b""), field)
        return sighting

    def take(self, peer: Peer, topic: Topic, message: Message, field: bytes) -> None:
        """Source: gossipsub v1.0, Message Processing; v1.1, Extended Validators; pubsub, Topic Validation."""
        state = self._state
        counts = topic.counts
        data = message.data or b""
        counts.received += 1
        counts.bytes_received += len(data)
        if topic.is_signed:
            key = self._get_signed_id(peer, topic, message)
            if key is None:
                return
        elif message[2:] != (None, None, None, None):
            counts.rejected += 1
            state.blame_invalid(peer, topic, "a gossip message on an unsigned topic must not name an author")
            return
        else:
            key = compute_content_id(topic.id_prefix, data)
        sighting = state.seen.sightings.get(key)
        if sighting is not None:
            counts.duplicates += 1
            self._note_copy(peer, topic, sighting)
            return
        if topic.is_signed and not self._is_author_proven(peer, topic, message):
            return
        if len(data) > topic.params.data_bytes_max:
            verdict: Verdict | Unproven | None = Verdict.REJECT
        elif topic.judge is None:
            self._ask_for_verdict(peer, topic, message, field, key, None)
            return
        else:
            verdict = topic.judge(topic.name, data, peer.node)
            if verdict is None:
                counts.throttled += 1
                return
            if type(verdict) is Unproven:
                self._ask_for_verdict(peer, topic, message, field, key, verdict)
                return
        if self._lazy.promised:
            self._lazy.fulfil(key)
        if verdict is Verdict.ACCEPT:
            sighting = self._note(key, _ACCEPTED, topic, message, field)
            self._accept(peer, topic, message, field, key, sighting)
        elif verdict is Verdict.REJECT:
            self._note(key, _REJECTED, topic, message, field)
            self._reject(peer, topic)
        else:
            self._note(key, _IGNORED, topic, message, field)
            counts.ignored += 1

    def _get_signed_id(self, peer: Peer, topic: Topic, message: Message) -> bytes | None:
        try:
            key = get_default_id(message)
        except RemoteError as error:
            topic.counts.rejected += 1
            self._state.blame_invalid(peer, topic, str(error))
            return None
        if message.from_id == self._own_id:
            topic.counts.duplicates += 1  # our own, coming back
            return None
        return key

    def _is_author_proven(self, peer: Peer, topic: Topic, message: Message) -> bool:
        """A forged copy is never noted as met: it has the honest one's name. Source: pubsub, Message Signing."""
        try:
            verify_author(message)
        except NotForUs:
            topic.counts.ignored += 1
            return False
        except RemoteError as error:
            topic.counts.rejected += 1
            self._state.blame_invalid(peer, topic, str(error))
            return False
        return True

    def _note_copy(self, peer: Peer, topic: Topic, sighting: Sighting) -> None:
        """One more copy of a message met before. Source: gossipsub v1.1, P₃ and P₃b, P₄: Invalid Messages."""
        standing = sighting.standing
        if sighting.awaits == peer.node:
            self._choking.note_copy(topic, sighting)
        if standing == _REJECTED:
            self._reject(peer, topic)
        elif standing == _PENDING or (standing == _ACCEPTED and topic.params.score.mesh_deliveries_weight):
            if sighting.peers is None:
                sighting.peers = {}
            if peer.node in sighting.peers:
                return
            sighting.peers[peer.node] = None
            window_ms = topic.params.score.mesh_deliveries_window_ms
            if standing == _ACCEPTED and self._state.now_ms <= sighting.judged_ms + window_ms:
                self._reward_copy(peer, topic)

    def _reward_copy(self, peer: Peer, topic: Topic) -> None:
        conduct = self._state.get_conduct(peer, topic)
        if conduct.in_mesh:
            conduct.mesh = min(conduct.mesh + 1, conduct.params.mesh_deliveries_cap)

    def _accept(self, peer: Peer, topic: Topic, message: Message, field: bytes, key: bytes, sighting: Sighting) -> None:
        """Deliver and forward. Source: gossipsub v1.0, Message Processing; v1.1, P₂: First Message Deliveries."""
        state = self._state
        conduct = peer.conduct.topics.get(topic.key) or state.get_conduct(peer, topic)
        params = conduct.params
        conduct.first = min(conduct.first + 1, params.first_deliveries_cap)
        if conduct.in_mesh and params.mesh_deliveries_cap:
            conduct.mesh = min(conduct.mesh + 1, params.mesh_deliveries_cap)
            if params.mesh_deliveries_weight:
                sighting.peers = sighting.peers or {}
                sighting.peers[peer.node] = None
        data = message.data or b""
        if topic.is_signed:
            packet = write_message(message)
        else:
            # As long as what we would write, it holds nothing else and goes on as it came: copies of large ones cost.
            packet = field if len(field) == count_plain(data, topic.field) else write_plain(data, topic.field)
        state.cache.put(key, topic.key, packet, topic.params.priority)
        topic.counts.delivered += 1
        state.effects.append(Deliver(topic.name, data, peer.node))
        targets = topic.targets if topic.targets is not None else self.get_targets(topic)
        source = peer.node
        peers = [node for node in targets if node != source]
        if message.from_id is not None:
            peers = [node for node in peers if ED25519_HEAD + node != message.from_id]
        if sighting.peers:
            peers = [node for node in peers if node not in sighting.peers]
        smallest = self._params.idontwant_bytes_min
        if smallest is not None:
            peers = [node for node in peers if key not in state.peers[node].unwanted]
            if len(data) >= smallest:
                self._lazy.send_idontwant(topic, key, source)
        if peers:
            topic.counts.forwarded += len(peers)
            state.effects.append(SendMessage(peers, topic.name, packet, topic.params.priority))

    def _reject(self, peer: Peer, topic: Topic) -> None:
        topic.counts.rejected += 1
        self._state.blame_invalid(peer, topic, f"a message on {topic.name} that every honest peer refuses")

    # Verdicts that take their time

    def _ask_for_verdict(
        self, peer: Peer, topic: Topic, message: Message, field: bytes, key: bytes, unproven: Unproven | None
    ) -> None:
        """Source: gossipsub v1.1, Extended Validators. Beyond the bounds a message is let go, and may come again."""
        state, params = self._state, self._params
        if len(self._waiting) >= params.validations_max or peer.validations >= params.validations_per_peer_max:
            topic.counts.throttled += 1
            return
        if self._lazy.promised:
            self._lazy.fulfil(key)
        self._note(key, _PENDING, topic, message, field)
        self._tickets += 1
        peer.validations += 1
        due_ms = state.now_ms + params.validation_ms_max
        author = unproven.public if unproven is not None else b""
        self._waiting[self._tickets] = Waiting(peer, topic, message, field, key, due_ms, author)
        state.effects.append(Validate(self._tickets, topic.name, message.data or b"", peer.node, unproven))

    def take_verdicts(self, event: Judged) -> None:
        for ticket, verdict in event.verdicts:
            waiting = self._waiting.pop(ticket, None)
            if waiting is not None:
                self._settle(waiting, verdict)

    def _settle(self, waiting: Waiting, verdict: Verdict) -> None:
        peer, topic, message, field, key, _, author = waiting
        state = self._state
        peer.validations -= 1
        sighting = state.seen.sightings.get(key)
        if sighting is None or state.topics.get(topic.key) is not topic:
            return  # so much came meanwhile that it is forgotten, or we left the topic
        others = [state.peers[node] for node in sighting.peers if node in state.peers] if sighting.peers else []
        sighting.judged_ms = state.now_ms
        if verdict is Verdict.ACCEPT:
            sighting.standing = _ACCEPTED
            for other in others:
                self._reward_copy(other, topic)
            self._choking.note_accepted(topic, sighting, author, peer.node)
            self._accept(peer, topic, message, field, key, sighting)
        elif verdict is Verdict.REJECT:
            sighting.standing = _REJECTED
            for sender in (peer, *others):
                self._reject(sender, topic)
        else:
            sighting.standing = _IGNORED
            topic.counts.ignored += 1
        sighting.peers = sighting.peers if sighting.standing == _ACCEPTED else None

    def expire(self) -> None:
        while self._waiting:
            ticket = next(iter(self._waiting))
            if self._waiting[ticket].due_ms > self._state.now_ms:
                break
            self._settle(self._waiting.pop(ticket), Verdict.IGNORE)

    def count_waiting(self) -> int:
        return len(self._waiting)
