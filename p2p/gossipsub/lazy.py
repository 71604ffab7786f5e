"""Lazy pull: telling others what we have, asking for what we miss, and holding peers to what they told us."""

import math
from collections.abc import Iterable

from p2p.gossipsub.events import SendControl, SendMessage
from p2p.gossipsub.state import Peer, State, Topic
from p2p.gossipsub.wire import Control, write_idontwant, write_ihave, write_iwant

TRUST_BITS = 2  # for each promise broken lately a peer is asked for a quarter as much
PROMISES_MAX = 8_192  # in all; beyond it the oldest are forgiven
AGAIN_MAX = 8.0  # what one packet of repeated wishes counts as behaviour at most: enough to be graylisted


class LazyPull:
    """IHAVE, IWANT and IDONTWANT."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._params = state.params
        self._promises: dict[tuple[bytes, bytes], int] = {}  # (message, node) -> due, ms; oldest first
        self.promised: dict[bytes, list[bytes]] = {}  # message -> nodes

    def take_ihave(self, peer: Peer, control: Control) -> None:
        """Ask for what we miss. Source: gossipsub v1.0, IHAVE; v1.1, Spam Protection Measures (caps per heartbeat)."""
        state, params = self._state, self._params
        if not control.ihave or peer.score < params.score.gossip_threshold:
            return
        peer.ihave_messages += 1
        room = self._compute_ids_max(peer) - peer.asked_ids
        if peer.ihave_messages > params.ihave_messages_max or room <= 0:
            return
        sightings = state.seen.sightings
        wanted: dict[bytes, None] = {}
        for key, ids in control.ihave:
            if key in state.topics:
                wanted.update((message, None) for message in ids[: params.ihave_ids_max] if message not in sightings)
        if not wanted:
            return
        asked = list(wanted)
        state.dice.shuffle(asked)
        del asked[room:]
        peer.asked_ids += len(asked)
        self._note_promise(state.dice.choice(asked), peer.node)
        state.effects.append(SendControl(peer.node, write_iwant(asked)))

    def _compute_ids_max(self, peer: Peer) -> int:
        """How many ids a peer is asked for between two heartbeats.

        P7 forgives few broken promises, so that one every ten seconds is never punished: it must not be worth much.
        """
        return self._params.ihave_ids_max >> TRUST_BITS * math.ceil(peer.conduct.behaviour)

    def _note_promise(self, message: bytes, node: bytes) -> None:
        """Source: gossipsub v1.1, Spam Protection Measures (one id of each advertisement is followed up)."""
        if (message, node) in self._promises:
            return
        self._promises[message, node] = self._state.now_ms + self._params.iwant_followup_ms
        self.promised.setdefault(message, []).append(node)
        if len(self._promises) > PROMISES_MAX:
            self._forget(*next(iter(self._promises)))

    def _forget(self, message: bytes, node: bytes) -> None:
        del self._promises[message, node]
        nodes = self.promised[message]
        nodes.remove(node)
        if not nodes:
            del self.promised[message]

    def fulfil(self, message: bytes) -> None:
        """The message came, from whomever: all who promised it are free."""
        for node in self.promised.pop(message, ()):
            del self._promises[message, node]

    def blame_broken_promises(self) -> None:
        """Source: gossipsub v1.1, Spam Protection Measures and The Score Function, P₇."""
        now_ms = self._state.now_ms
        broken: dict[bytes, int] = {}
        for message, node in [promise for promise, due_ms in self._promises.items() if due_ms <= now_ms]:
            self._forget(message, node)
            broken[node] = broken.get(node, 0) + 1
        for node, count in broken.items():
            if (peer := self._state.peers.get(node)) is not None:
                self._state.blame(peer, count, f"did not send {count} messages it said it had")

    def take_iwant(self, peer: Peer, control: Control) -> None:
        """Send again what is asked for. Source: gossipsub v1.0, IWANT; v1.1, Spam Protection Measures.

        Each advertisement is answered once and there are as many as windows, so that nobody honest asks more often.
        """
        state, params = self._state, self._params
        if not control.iwant or peer.score < params.score.gossip_threshold:
            return
        asked = dict.fromkeys(key for ids in control.iwant for key in ids)
        again = sum(map(len, control.iwant)) - len(asked)
        for message in asked:
            cached = state.cache.messages.get(message)
            if cached is None or message in peer.unwanted:
                continue
            if cached.resent is None:
                cached.resent = {}
            count = cached.resent.get(peer.node, 0)
            if count >= params.retransmissions_max:
                again += 1
                continue
            if peer.resent_bytes > params.resend_bytes_max:
                continue
            cached.resent[peer.node] = count + 1
            peer.resent_bytes += len(cached.packet)
            topic = cached.topic.decode()
            state.effects.append(SendMessage([peer.node], topic, cached.packet, cached.priority, is_answer=True))
        before, peer.asked_again = peer.asked_again, peer.asked_again + again
        if steps := peer.asked_again // params.iwant_again_max - before // params.iwant_again_max:
            state.blame(
                peer, min(steps, AGAIN_MAX), f"asked for messages again, {peer.asked_again} times in a heartbeat"
            )

    def take_idontwant(self, peer: Peer, control: Control) -> None:
        """Source: gossipsub v1.2, IDONTWANT Message."""
        params = self._params
        if params.idontwant_bytes_min is None or not control.idontwant:
            return
        if peer.idontwant_messages >= params.idontwant_messages_max:
            return
        peer.idontwant_messages += 1
        ids = [key for some in control.idontwant for key in some][: params.idontwant_ids_max]
        room = params.idontwant_ids_max * params.idontwant_messages_max - len(peer.unwanted)
        peer.unwanted.update((key, params.idontwant_ttl_beats) for key in ids[: max(room, 0)])

    def send_idontwant(self, topic: Topic, message: bytes, source: bytes) -> None:
        """A large message is here: mesh peers need not send theirs. Source: gossipsub v1.2, IDONTWANT Message."""
        body = write_idontwant([message])
        for node, peer in topic.mesh.items():
            if node != source and peer.speaks_v12:
                self._state.effects.append(SendControl(node, body))

    def emit(self, topic: bytes, exclude: dict[bytes, Peer], owed: Iterable[Peer] = ()) -> None:
        """Tell some peers outside the mesh what we have, and all that are `owed` it.

        Source: gossipsub v1.0, Gossip Emission; v1.1, Adaptive Gossip Dissemination.
        """
        state, params = self._state, self._params
        ids = state.cache.get_ids(topic)
        if not ids:
            return
        threshold = params.score.gossip_threshold
        fit = [
            peer
            for node, peer in state.subscribers.get(topic, {}).items()
            if node not in exclude and not peer.is_direct and peer.score >= threshold
        ]
        count = max(params.degree_lazy, int(params.gossip_factor * len(fit)))
        chosen = fit if len(fit) <= count else state.dice.sample(fit, count)
        chosen += [peer for peer in owed if topic in peer.topics and peer.score >= threshold and peer not in chosen]
        if len(ids) <= params.ihave_ids_max:
            body = write_ihave(topic, ids)  # the same for all
            state.effects += [SendControl(peer.node, body, is_gossip=True) for peer in chosen]
            return
        for peer in chosen:
            start = state.dice.randrange(len(ids))
            some = ids[start : start + params.ihave_ids_max]
            some += ids[: params.ihave_ids_max - len(some)]
            state.effects.append(SendControl(peer.node, write_ihave(topic, some), is_gossip=True))

    def get_sizes(self) -> dict[str, int]:
        return {"promises": len(self._promises)}
