"""Who hears a topic's authors from themselves need not hear them from others: CHOKE and UNCHOKE.

Authors flood, so where they are all connected every copy that a mesh peer forwards is one too many. A peer that is
choked on a topic forwards nothing there any more; at its heartbeats it says what it has (IHAVE), as to peers outside
its mesh. As soon as a message does not come from its author as well, all are unchoked, and for a while, longer each
time, nobody is choked: what an author says that we are not connected to would come a heartbeat late.

Source: episub, and the draft "Choke extensions" of gossipsub v1.3, in their messages and what follows from them. They
choke whoever mostly brings copies, which who is quick can bring about for others; whose a message is nobody can feign.
"""

from p2p.gossipsub.cache import Sighting
from p2p.gossipsub.events import SendControl
from p2p.gossipsub.state import Feed, Peer, State, Topic
from p2p.gossipsub.wire import Control, write_choke, write_unchoke

REST_MS, REST_MS_MAX = 30_000, 3_600_000  # after a message that its author did not bring, doubled each time
AWAITED_MAX = 4_096  # messages whose author's copy may still come


class Choking:
    """Both sides of it, by topic."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._params = state.params

    def note_accepted(self, topic: Topic, sighting: Sighting, author: bytes, source: bytes) -> None:
        """A message was accepted that came first from `source`. `author` is empty where nobody knows."""
        if self._params.choke_after is None or topic.params.score.mesh_deliveries_weight:
            return  # P3 counts copies: whoever may not send them would be punished for it
        feed = topic.feed
        if author == source or (sighting.peers is not None and author in sighting.peers):
            feed.count += 1
        elif author in self._state.peers and len(feed.awaited) < AWAITED_MAX:
            sighting.awaits = author
            feed.awaited.append(sighting)
        elif feed.choked:
            self._unchoke(topic)
        else:
            feed.is_short = True

    def note_copy(self, topic: Topic, sighting: Sighting) -> None:
        """The copy of the author came as well."""
        sighting.awaits = b""
        topic.feed.count += 1

    def beat(self, topic: Topic) -> None:
        """Choke our mesh if the authors have fed us for long enough, unchoke it if one has not."""
        feed = topic.feed
        feed.is_short = feed.is_short or any(sighting.awaits for sighting in feed.awaited_before)
        feed.awaited_before = [sighting for sighting in feed.awaited if sighting.awaits]
        feed.awaited = []
        if feed.is_short:
            self._unchoke(topic)
        elif self._is_fed(feed):
            if not feed.choked:
                feed.choked_ms = self._state.now_ms
            unchoked = [node for node in topic.mesh if node not in feed.choked]
            self._tell(topic, unchoked, write_choke(topic.key))
            feed.choked.update(dict.fromkeys(unchoked))

    def _is_fed(self, feed: Feed) -> bool:
        """Whether for long enough nothing was missed, and nothing may be yet."""
        after = self._params.choke_after
        is_rested = self._state.now_ms >= feed.rests_until_ms
        return after is not None and feed.count >= after and is_rested and not feed.awaited_before

    def _unchoke(self, topic: Topic) -> None:
        """For longer than the last time, unless it went well for longer than that."""
        feed, now_ms = topic.feed, self._state.now_ms
        if feed.choked:
            is_soon = now_ms - feed.choked_ms < feed.rest_ms
            feed.rest_ms = min(2 * feed.rest_ms, REST_MS_MAX) if is_soon else REST_MS
            self._tell(topic, list(feed.choked), write_unchoke(topic.key))
            feed.choked.clear()
        feed.rest_ms = max(feed.rest_ms, REST_MS)
        feed.rests_until_ms = now_ms + feed.rest_ms
        feed.count, feed.is_short = 0, False

    def _tell(self, topic: Topic, nodes: list[bytes], body: bytes) -> None:
        self._state.effects += [SendControl(node, body) for node in nodes if node in topic.mesh]

    def take(self, peer: Peer, control: Control) -> None:
        """What a mesh peer wants of us. A later word counts more than an earlier one."""
        for key, is_choked in control.choke:
            topic = self._state.topics.get(key)
            if topic is None or peer.node not in topic.mesh:
                continue
            topic.targets = None
            if is_choked:
                topic.chokers[peer.node] = peer
            else:
                topic.drop_choker(peer)
