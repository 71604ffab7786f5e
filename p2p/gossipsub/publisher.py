"""Our own messages: named, signed where the topic asks for it, and to whom they go."""

from p2p.gossipsub.cache import Standing
from p2p.gossipsub.events import Publish, SendMessage
from p2p.gossipsub.mesh import Mesh
from p2p.gossipsub.messages import Messages
from p2p.gossipsub.params import Signature, TopicParams
from p2p.gossipsub.signing import Author, build_id_prefix, compute_content_id, get_default_id
from p2p.gossipsub.state import Fanout, State, Topic
from p2p.gossipsub.wire import write_message, write_plain
from p2p.protobuf import write_bytes
from protocol.errors import LocalError


class Publisher:
    """`author` signs on StrictSign topics; without one nothing can be said there."""

    def __init__(self, state: State, mesh: Mesh, messages: Messages, author: Author | None) -> None:
        self._state = state
        self._params = state.params
        self._mesh = mesh
        self._messages = messages
        self.author = author

    def publish(self, event: Publish) -> None:
        """Source: gossipsub v1.1, Flood Publishing; v1.0, Message Processing."""
        state = self._state
        key, data = event.topic.encode(), event.data
        topic = state.topics.get(key)
        params = topic.params if topic else event.params or TopicParams()
        if len(data) > params.data_bytes_max:
            raise LocalError(f"a gossip message has {len(data)} bytes, at most {params.data_bytes_max}")
        if params.signature is Signature.STRICT_SIGN:
            if self.author is None:
                raise LocalError(f"{event.topic} is a signed topic and this router has no author")
            message = self.author.write(key, data)
            name, packet = get_default_id(message), write_message(message)
        else:
            name = compute_content_id(topic.id_prefix if topic else build_id_prefix(key), data)
            packet = write_plain(data, topic.field if topic else write_bytes(4, key))
        state.count(event.topic).published += 1
        if name not in state.seen.sightings:
            state.seen.add(name, Standing.ACCEPTED, state.now_ms)
        state.cache.put(name, key, packet, params.priority)
        peers = self._choose_peers(key, topic)
        if peers:
            state.effects.append(SendMessage(peers, event.topic, packet, params.priority, is_own=True))

    def _choose_peers(self, key: bytes, topic: Topic | None) -> list[bytes]:
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
            return [*topic.mesh, *(node for node in subscribers if node in state.direct)]
        fanout = state.fanout.get(key)
        if fanout is None:
            fanout = state.fanout[key] = Fanout({}, state.now_ms)
        fanout.published_ms = state.now_ms
        if not fanout.peers:
            self._mesh.fill_fanout(key, fanout)
        return [*fanout.peers, *(node for node in subscribers if node in state.direct)]
