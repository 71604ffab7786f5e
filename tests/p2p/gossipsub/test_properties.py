"""What holds after any history: meshes within bounds, one delivery, nothing before acceptance, bounded memory."""

import hashlib
import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from p2p.gossipsub import (
    Deliver,
    GossipParams,
    Heartbeat,
    Judged,
    PeerDown,
    PeerUp,
    Publish,
    Received,
    Resumed,
    Router,
    SendControl,
    SendMessage,
    StreamEnded,
    StreamRenewed,
    Subscribe,
    Unsubscribe,
    Validate,
)
from p2p.gossipsub.events import Continue
from p2p.gossipsub.wire import (
    Message,
    Prune,
    read_slice,
    wrap_control,
    write_graft,
    write_idontwant,
    write_ihave,
    write_iwant,
    write_message,
    write_prune,
    write_subscription,
)
from protocol.types import Verdict
from tests.p2p.gossipsub.fake_network import TOPIC, FakeNetwork, node_key

KEY = TOPIC.encode()
PARAMS = GossipParams(
    seen_max=64,
    cache_bytes_max=4_000,
    validations_max=8,
    validations_per_peer_max=4,
    topics_per_peer_max=4,
    slice_messages=4,
    opportunistic_graft_ticks=5,
    peer_exchange=True,
    idontwant_bytes_min=100,
)
PEERS = [node_key(i) for i in range(24)]
peers = st.sampled_from(PEERS)
payloads = st.integers(0, 40).map(lambda i: b"%d" % i * (1 + i % 3 * 20))
verdicts = st.sampled_from(list(Verdict))


class LoneRouter(RuleBasedStateMachine):
    """One router, any events in any order, from peers that keep no rule."""

    @initialize(seed=st.integers(0, 2**32), is_async=st.booleans())
    def begin(self, seed, is_async):
        self.router = Router(PARAMS, random.Random(seed), direct=PEERS[:1])
        self.now_ms = 0
        self.is_async = is_async
        self.tickets = {}
        self.accepted = {}
        self.backoff_until = {}
        self.told = []
        self.connected = set()
        self.judge = None if is_async else self._judge
        self.handle(Subscribe(TOPIC, self.judge))

    def _judge(self, topic, data, forwarder):
        verdict = list(Verdict)[hashlib.sha256(data).digest()[0] % 3]
        if verdict is Verdict.ACCEPT:
            self.accepted[data] = self.now_ms
        return verdict

    def handle(self, event):
        effects = self.router.handle(event, self.now_ms)
        for effect in effects:
            if isinstance(effect, Deliver):
                assert effect.data in self.accepted
                assert (effect.topic, effect.data) not in self.told or len(self.told) > PARAMS.seen_max
                self.told.append((effect.topic, effect.data))
            elif isinstance(effect, SendMessage) and not effect.is_own and not effect.is_answer:
                assert read_slice(effect.packet, 0, 1, 1 << 20, {}).messages[0][0].data in self.accepted
                assert len(set(effect.peers)) == len(effect.peers)
            elif isinstance(effect, Validate):
                self.tickets[effect.ticket] = effect.data
            elif isinstance(effect, SendControl):
                self.note_control(effect)
        if any(isinstance(effect, Continue) for effect in effects):
            self.handle(Resumed(event.peer))
        return effects

    def note_control(self, effect):
        for control in read_slice(wrap_control(effect.body), 0, 4, 1 << 20, {}).controls:
            assert len(control.iwant) <= 1
            if control.graft and not self.renewing:
                assert self.now_ms >= self.backoff_until.get(effect.peer, 0), "grafted before the backoff ended"
            for prune in control.prune:
                until = self.now_ms + prune.backoff_s * 1_000
                self.backoff_until[effect.peer] = max(self.backoff_until.get(effect.peer, 0), until)

    renewing = False

    @rule(peer=peers, is_outbound=st.booleans(), group=st.sampled_from(["", "g", "h"]), joins=st.booleans())
    def connect(self, peer, is_outbound, group, joins):
        self.handle(PeerUp(peer, is_outbound, group, speaks_v12=True))
        self.connected.add(peer)
        if joins:
            self.handle(Received(peer, write_subscription(True, KEY)))

    @rule(peer=peers)
    def disconnect(self, peer):
        self.handle(PeerDown(peer))
        self.connected.discard(peer)

    @rule(peer=peers, joins=st.booleans(), topic=st.sampled_from([KEY, b"1", b"2", b"3", b"4", b"5"]))
    def say_topics(self, peer, joins, topic):
        self.handle(Received(peer, write_subscription(joins, topic)))

    @rule(peer=peers, ends=st.booleans())
    def change_stream(self, peer, ends):
        self.renewing = True
        self.handle(StreamEnded(peer) if ends else StreamRenewed(peer))
        self.renewing = False

    @rule(peer=peers, data=st.lists(payloads, min_size=1, max_size=12))
    def send(self, peer, data):
        self.handle(Received(peer, b"".join(write_message(Message(KEY, one)) for one in data)))

    @rule(peer=peers, body=st.sampled_from([write_graft(KEY), write_graft(b"1")]))
    def graft(self, peer, body):
        self.handle(Received(peer, wrap_control(body)))

    @rule(peer=peers, backoff_s=st.sampled_from([0, 1, 60, 2**63]))
    def prune(self, peer, backoff_s):
        self.handle(Received(peer, wrap_control(write_prune(Prune(KEY, backoff_s)))))
        if peer in self.connected and (peer == PEERS[0] or self.router.get_score(peer) > -80):
            until = self.now_ms + min(backoff_s * 1_000 or 60_000, PARAMS.backoff_ms_max)
            self.backoff_until[peer] = max(self.backoff_until.get(peer, 0), until)

    @rule(peer=peers, ids=st.lists(st.binary(min_size=20, max_size=20), max_size=30), data=st.lists(payloads))
    def gossip(self, peer, ids, data):
        known = [hashlib.sha256(b"rolemesh/v1/gossip\0" + KEY + b"\0" + one).digest()[:20] for one in data]
        body = write_ihave(KEY, ids + known) + write_iwant(known + known + ids) + write_idontwant(known + ids)
        self.handle(Received(peer, wrap_control(body)))

    @rule(peer=peers, packet=st.binary(max_size=60))
    def send_junk(self, peer, packet):
        self.handle(Received(peer, packet))

    @rule(data=payloads)
    def publish(self, data):
        self.accepted[data] = self.now_ms
        self.told.append((TOPIC, data))
        self.handle(Publish(TOPIC, data))

    @rule(verdict=verdicts, which=st.integers(0, 7))
    def decide(self, verdict, which):
        if self.tickets:
            ticket = list(self.tickets)[which % len(self.tickets)]
            if verdict is Verdict.ACCEPT:
                self.accepted[self.tickets[ticket]] = self.now_ms
            self.handle(Judged(ticket, verdict))
            del self.tickets[ticket]

    @rule()
    def rejoin(self):
        self.handle(Unsubscribe(TOPIC))
        self.handle(Subscribe(TOPIC, self.judge))

    @rule(passing_ms=st.integers(0, 30_000))
    def wait(self, passing_ms):
        self.now_ms += passing_ms

    @rule(beats=st.integers(1, 5))
    def beat(self, beats):
        for _ in range(beats):
            self.now_ms += PARAMS.heartbeat_ms
            self.handle(Heartbeat())
        mesh = self.router.get_mesh(TOPIC)
        assert len(mesh) <= PARAMS.degree_high
        assert all(self.router.get_score(peer) >= 0 for peer in mesh)
        self.check_lower_bound(mesh)

    def check_lower_bound(self, mesh):
        """Below its low degree a mesh is only when nobody else could be grafted."""
        if len(mesh) < PARAMS.degree_low:
            slack_ms = PARAMS.backoff_slack_ms + PARAMS.heartbeat_ms
            for peer in set(self.router.get_subscribers(TOPIC)) - set(mesh) - set(PEERS[:1]):
                is_backed_off = self.now_ms < self.backoff_until.get(peer, -slack_ms) + slack_ms
                assert is_backed_off or self.router.get_score(peer) < 0

    @invariant()
    def the_mesh_is_made_of_subscribers(self):
        if hasattr(self, "router"):
            mesh = set(self.router.get_mesh(TOPIC))
            assert mesh <= set(self.router.get_subscribers(TOPIC))
            assert PEERS[0] not in mesh

    @invariant()
    def memory_is_bounded(self):
        if hasattr(self, "router"):
            sizes = self.router.get_sizes()
            assert sizes["peers"] <= len(PEERS)
            assert sizes["subscriptions"] <= len(PEERS) * PARAMS.topics_per_peer_max
            assert sizes["seen"] <= PARAMS.seen_max
            assert sizes["cache_bytes"] <= PARAMS.cache_bytes_max
            assert sizes["waiting"] <= PARAMS.validations_max
            assert sizes["backoffs"] <= 2 * len(PEERS)
            assert sizes["retained"] <= len(PEERS)


TestLoneRouter = LoneRouter.TestCase
TestLoneRouter.settings = settings(max_examples=30, stateful_step_count=50, deadline=None)


class Churn(RuleBasedStateMachine):
    """A network whose nodes come, go, join and leave; afterwards everyone still hears everything."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed):
        self.dice = random.Random(seed)
        self.network = FakeNetwork(14, seed=seed)
        self.network.connect_degree(8, self.dice)
        self.network.subscribe()
        self.away = set()
        self.published = 0

    @rule(node=st.integers(0, 13))
    def drop(self, node):
        if len(self.away) < 5:
            self.away.add(node)
            for _, other in sorted(link for link in self.network.links if link[0] == node):
                self.network.disconnect(node, other)

    @rule(node=st.integers(0, 13))
    def come_back(self, node):
        self.away.discard(node)
        for other in self.dice.sample(range(14), 4):
            if other not in self.away:
                self.network.connect(node, other)

    @rule(node=st.integers(0, 13))
    def rejoin(self, node):
        self.network.do(node, Unsubscribe(TOPIC))
        self.network.run(100)
        self.network.subscribe([node])

    @rule(node=st.integers(0, 13), count=st.integers(1, 5))
    def publish(self, node, count):
        for _ in range(count):
            self.published += 1
            self.network.publish(node, b"%d" % self.published)

    @rule(for_ms=st.integers(0, 5_000))
    def run(self, for_ms):
        self.network.run(for_ms)

    @invariant()
    def nobody_hears_anything_twice_or_is_blamed(self):
        if hasattr(self, "network"):
            for node in self.network.nodes:
                assert len(node.delivered) == len(set(node.delivered))
                assert len(set(node.received())) == len(node.received())
                assert not node.faults

    def teardown(self):
        network = self.network
        for node in sorted(self.away):
            for other in range(14):
                network.connect(node, other)
        for node in range(13):
            network.connect(node, node + 1)
        network.run(90_000)  # past every backoff
        high = network.params.degree_high
        assert all(len(node.router.get_mesh(TOPIC)) <= high for node in network.nodes)
        network.publish(0, b"to all")
        network.run(5_000)
        assert all(b"to all" in node.received() for node in network.nodes[1:])
        for node in network.nodes:
            for peer in node.router.get_mesh(TOPIC):
                assert node.key in network.nodes[network.index[peer]].router.get_mesh(TOPIC)


TestChurn = Churn.TestCase
TestChurn.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
