"""The mesh: py-libp2p's own GossipSub, its message path and control handlers bounded.

Stock keeps who is in the mesh of which topic, heartbeats, back-off, fanout and the message cache. Scores, adaptive
modes, peer exchange and extensions are off: the next router is ours.
"""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol, cast

from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.mcache import CacheEntry, MessageCache
from libp2p.pubsub.pb import rpc_pb2

from p2p.packets import ID_BYTES, Outbox, Seen, compute_message_id

MESHSUB = "/meshsub/1.1.0"
DEGREE, DEGREE_LOW, DEGREE_HIGH = 4, 3, 8
FLOOD_MAX = 16  # peers our own messages go to at once, in the mesh or not: one hop on a small network
HEARTBEAT_S = 1
IDS_MAX = 64  # message ids asked for, or answered, per control message
CONTROL_MAX = 64  # entries of one kind in one control message
RESEND_MAX = 3  # times one message is sent again to one peer that asks


class Pump(Protocol):
    """What the router needs of the pump around it; the first three are named as stock GossipSub expects."""

    peers: dict[ID, Outbox]
    peer_topics: dict[str, set[ID]]
    seen_messages: Seen
    dice: random.Random

    def push(self, peer: ID, packet: bytes, is_control: bool) -> bool:
        """Queue a packet for a peer; False when it is dropped."""


class ContentCache(MessageCache):
    """Stock keys messages by sender and number, which unsigned messages have not. Ours by what they contain."""

    def put(self, msg: rpc_pb2.Message) -> None:
        topic = msg.topicIDs[0]
        key = compute_message_id(topic, msg.data)
        if key not in self.msgs:
            self.msgs[key] = msg
            self.history[0].append(CacheEntry(key, [topic]))


class GossipRouter(GossipSub):
    """Stock mesh keeping without scores, adaptive modes, peer exchange and extensions, every list bounded."""

    def __init__(self, pump: Pump) -> None:
        super().__init__(
            [TProtocol(MESHSUB)],
            DEGREE,
            DEGREE_LOW,
            DEGREE_HIGH,
            heartbeat_interval=HEARTBEAT_S,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
            max_pending_messages_per_peer=1,
        )
        self.mcache = ContentCache(self.mcache.window_size, self.mcache.history_size)
        self.scorer = None
        self.attach(cast(Any, pump))
        self._pump = pump
        self._resent: Counter[tuple[ID, bytes]] = Counter()
        self._ihave_left: Counter[ID] = Counter()

    def send_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:
        self._pump.push(peer_id, rpc.SerializeToString(), is_control=priority)

    async def beat(self) -> None:
        """One heartbeat: keep the mesh near its degree, tell others what we have, age the caches."""
        for topic, members in self.mesh.items():
            # Stock leaves a peer that unsubscribed in the mesh.
            members &= self._pump.peer_topics.get(topic, set())
        graft, prune = self.mesh_heartbeat()
        self.fanout_heartbeat()
        await self._emit_control_msgs(graft, prune, self.gossip_heartbeat())
        self.mcache.shift()
        self._resent.clear()
        self._ihave_left.clear()
        # Stock never empties this one.
        for peer in [peer for peer in self.graft_flood_tracking if peer not in self.peer_protocol]:
            del self.graft_flood_tracking[peer]

    async def take_control(self, control: rpc_pb2.ControlMessage, peer: ID) -> None:
        """Handle a peer's control message, of each list at most CONTROL_MAX entries and only topics we are on."""
        for graft in control.graft[:CONTROL_MAX]:
            if graft.topicID in self.mesh:
                await self.handle_graft(graft, peer)
        for prune in control.prune[:CONTROL_MAX]:
            if prune.topicID in self.mesh:
                del prune.peers[:]
                await self.handle_prune(prune, peer)
        for ihave in control.ihave[:CONTROL_MAX]:
            if ihave.topicID in self.mesh:
                await self.handle_ihave(ihave, peer)
        for iwant in control.iwant[:CONTROL_MAX]:
            await self.handle_iwant(iwant, peer)

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        """Ask for what we miss, at most IDS_MAX ids per peer and heartbeat. Stock asks for everything named."""
        room = IDS_MAX - self._ihave_left[sender_peer_id]
        wanted = [
            key
            for key in dict.fromkeys(_iter_ids(ihave_msg.messageIDs[: 4 * IDS_MAX]))
            if not self._pump.seen_messages.has(key)
        ][: max(room, 0)]
        self._ihave_left[sender_peer_id] += len(wanted)
        if wanted:
            await self.emit_iwant(wanted, sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        """Send again what we have, each message once per request and RESEND_MAX times per heartbeat. Stock: always."""
        for key in dict.fromkeys(_iter_ids(iwant_msg.messageIDs[:IDS_MAX])):
            message = self.mcache.get(key)
            if message is not None and self._resent[sender_peer_id, key] < RESEND_MAX:
                self._resent[sender_peer_id, key] += 1
                self.send_rpc(sender_peer_id, rpc_pb2.RPC(publish=[message]))

    def choose_peers(self, topic: str, source: ID | None) -> set[ID]:
        """Whom a message goes to: the mesh; our own also to others on the topic, FLOOD_MAX in all."""
        # Only peers we have a stream to: the others cannot be sent anything yet.
        on_topic = {peer for peer in self._pump.peer_topics.get(topic, ()) if peer in self._pump.peers}
        chosen = {peer for peer in self.mesh.get(topic, ()) if peer in on_topic}
        if source is None and len(chosen) < FLOOD_MAX:
            others = sorted(on_topic - chosen, key=ID.to_bytes)
            chosen |= set(self._pump.dice.sample(others, min(len(others), FLOOD_MAX - len(chosen))))
        chosen.discard(cast(ID, source))
        return chosen


def _iter_ids(keys: Any) -> Iterator[bytes]:
    return (key for key in keys if type(key) is bytes and len(key) == ID_BYTES)
