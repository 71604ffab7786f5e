"""What holds after any history: meshes within bounds, one delivery, nothing before acceptance, bounded memory."""

import hashlib
import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from p2p.gossipsub import (
    Blamed,
    Deliver,
    GossipParams,
    Heartbeat,
    Judged,
    PeerDown,
    PeerUp,
    Publish,
    Rated,
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
    compute_message_id,
)
from p2p.gossipsub.events import Continue
from p2p.gossipsub.mesh import BACKOFF_SWEEP_TICKS
from p2p.gossipsub.wire import (
    Message,
    Prune,
    read_slice,
    wrap_control,
    write_choke,
    write_graft,
    write_idontwant,
    write_ihave,
    write_iwant,
    write_message,
    write_prune,
    write_subscription,
    write_unchoke,
)
from protocol.types import Verdict
from tests.p2p.gossipsub.fake_network import TOPIC, FakeNetwork, accept, node_key
from tests.support.examples import scale

KEY = TOPIC.encode()
PARAMS = GossipParams(
    degree=4,
    degree_low=3,
    degree_high=6,
    degree_score=3,
    degree_out=1,
    seen_max=16,
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
DELAY_MS = 10  # of a link
FADED_BEATS = 600  # a behaviour of 10^6 is below 0.1 after 530
peers = st.sampled_from(PEERS)
payloads = st.integers(0, 40).map(lambda i: b"%d" % i * (1 + i % 3 * 20))
verdicts = st.sampled_from(list(Verdict))


def compute_id(data):
    return compute_message_id(TOPIC, data)


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
        self.told = {}  # data -> when it was delivered or published last, and how many messages had passed by then
        self.passed = 0
        self.connected = {}  # peer -> group
        self.outbound = {}
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
                self.note_told(effect.data)
            elif isinstance(effect, SendMessage):
                assert read_slice(effect.packet, 0, 1, 1 << 20, {}).messages[0][0].data in self.accepted
                assert len(set(effect.peers)) == len(effect.peers)
            elif isinstance(effect, Validate):
                self.tickets[effect.ticket] = effect.data
            elif isinstance(effect, SendControl):
                self.note_control(effect)
        if any(isinstance(effect, Continue) for effect in effects):
            self.handle(Resumed(event.peer))
        return effects

    def note_told(self, data):
        """Nothing is delivered twice while it is remembered: for its time, and for so many messages."""
        told_ms, passed = self.told.get(data, (-PARAMS.seen_ms, 0))
        passed_since = self.passed + self.passing - passed
        assert self.now_ms - told_ms >= PARAMS.seen_ms or passed_since >= PARAMS.seen_max, "delivered twice"
        self.told[data] = self.now_ms, self.passed

    def note_control(self, effect):
        for control in read_slice(wrap_control(effect.body), 0, 4, 1 << 20, {}).controls:
            assert len(control.iwant) <= 1
            told_of = {key for _, ids in control.ihave for key in ids}
            assert told_of <= {compute_id(data) for data in self.accepted}, "told of what was not accepted"
            if control.graft and not self.renewing:
                assert self.now_ms >= self.backoff_until.get(effect.peer, 0), "grafted before the backoff ended"
            for prune in control.prune:
                until = self.now_ms + prune.backoff_s * 1_000
                self.backoff_until[effect.peer] = max(self.backoff_until.get(effect.peer, 0), until)

    renewing = False
    passing = 0  # of the packet under way, before its last message

    @rule(peer=peers, is_outbound=st.booleans(), group=st.sampled_from(["", "g", "h"]), joins=st.booleans())
    def connect(self, peer, is_outbound, group, joins):
        self.handle(PeerUp(peer, is_outbound, group, speaks_v12=True))
        if peer not in self.connected:
            self.connected[peer], self.outbound[peer] = group, is_outbound
        if joins:
            self.handle(Received(peer, write_subscription(True, KEY)))

    @rule(peer=peers)
    def disconnect(self, peer):
        self.handle(PeerDown(peer))
        self.connected.pop(peer, None)

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
        self.passing = len(data) - 1
        self.handle(Received(peer, b"".join(write_message(Message(KEY, one)) for one in data)))
        self.passing = 0
        # Afterwards: for the first of a packet the others have yet to pass.
        self.passed += len(data) if peer in self.connected else 0

    @rule(peer=peers, body=st.sampled_from([write_graft(KEY), write_graft(b"1")]))
    def graft(self, peer, body):
        before = self.router.get_mesh(TOPIC)
        self.handle(Received(peer, wrap_control(body)))
        mesh = self.router.get_mesh(TOPIC)
        if peer in mesh and peer not in before:
            # A peer of far more use may take the place of the worst, also where peers we dialled have overfilled it.
            assert len(mesh) <= max(PARAMS.degree_high, len(before)) or self.outbound[peer], "let into a full mesh"
            assert self.now_ms >= self.backoff_until.get(peer, 0), "let in before the backoff ended"

    @rule(some=st.lists(peers, min_size=4, max_size=16, unique=True), is_outbound=st.booleans())
    def flock(self, some, is_outbound):
        """Many come at once, and all want in."""
        for peer in some:
            self.connect(peer, is_outbound, "", joins=True)
            self.graft(peer, write_graft(KEY))

    @rule(which=st.integers(0, 5), amount=st.sampled_from([0, 1, 20]), score=st.sampled_from([-60, -3, -1, 0, 1, 30]))
    def judge_mesh_peer(self, which, amount, score):
        for peer in self.router.get_mesh(TOPIC)[which:]:
            self.handle(Blamed(peer, amount))
            self.handle(Rated(peer, score))
        self.beat(1)

    @rule(peer=peers, backoff_s=st.sampled_from([0, 1, 60, 2**63]))
    def prune(self, peer, backoff_s):
        self.handle(Received(peer, wrap_control(write_prune(Prune(KEY, backoff_s)))))
        if peer in self.connected and (peer == PEERS[0] or self.router.get_score(peer) > -80):
            until = self.now_ms + min(backoff_s * 1_000 or 60_000, PARAMS.backoff_ms_max)
            self.backoff_until[peer] = max(self.backoff_until.get(peer, 0), until)

    @rule(peer=peers, ids=st.lists(st.binary(min_size=20, max_size=20), max_size=30), data=st.lists(payloads))
    def gossip(self, peer, ids, data):
        known = [compute_id(one) for one in data]
        body = write_ihave(KEY, ids + known) + write_iwant(known + known + ids) + write_idontwant(known + ids)
        self.handle(Received(peer, wrap_control(body)))

    @rule(peer=peers, is_choked=st.booleans())
    def choke(self, peer, is_choked):
        self.handle(Received(peer, wrap_control(write_choke(KEY) if is_choked else write_unchoke(KEY))))

    @rule(peer=peers, packet=st.binary(max_size=60))
    def send_junk(self, peer, packet):
        self.handle(Received(peer, packet))

    @rule(data=payloads)
    def publish(self, data):
        self.accepted[data] = self.now_ms
        self.passed += 1
        # What was met before is remembered from then on, also if it is published later, or while its verdict is out.
        if compute_id(data) not in self.router._state.seen.sightings:
            self.told[data] = self.now_ms, self.passed
        self.handle(Publish(TOPIC, data))

    @rule(verdict=verdicts, which=st.integers(0, 7))
    def decide(self, verdict, which):
        if self.tickets:
            ticket = list(self.tickets)[which % len(self.tickets)]
            if verdict is Verdict.ACCEPT:
                self.accepted[self.tickets[ticket]] = self.now_ms
            self.handle(Judged([(ticket, verdict)]))
            del self.tickets[ticket]

    @rule(peer=peers, which=st.integers(0, 40))
    def send_again(self, peer, which):
        """A copy of something told before, from someone new to it."""
        self.connect(peer, False, "", joins=True)
        for data in list(self.told)[which : which + 1]:
            self.send(peer, [data])

    @rule(seed=st.integers(0, 2**32))
    def storm(self, seed):
        """Forty things at once: left to itself Hypothesis makes histories in which most peers never do anything."""
        dice = random.Random(seed)
        for _ in range(40):
            peer, data = dice.choice(PEERS[:12]), b"%d" % dice.randrange(40)
            act = dice.randrange(10)
            if act < 3:
                self.connect(peer, dice.random() < 0.2, "", joins=True)
                self.graft(peer, write_graft(KEY))
            elif act < 5:
                self.send(peer, [data])
            elif act == 5:
                self.send_again(peer, dice.randrange(40))
                self.decide(dice.choice(list(Verdict)), dice.randrange(8))
            elif act == 6:
                self.ask_for_what_waits(peer)
            elif act == 7:
                self.prune(peer, dice.choice([0, 1, 60]))
            elif act == 8:
                self.judge_mesh_peer(dice.randrange(6), dice.choice([0, 1, 20]), dice.choice([-3, -1, 0, 1, 30]))
            else:
                self.wait(dice.randrange(5_000))
                self.beat(dice.randrange(1, 20))

    @rule(peer=peers)
    def ask_for_what_waits(self, peer):
        """Whoever asks for a message gets it only once it is accepted."""
        self.connect(peer, False, "", joins=True)
        self.handle(Received(peer, wrap_control(write_iwant(map(compute_id, self.tickets.values())))))

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
            assert sizes["cache_messages"] <= PARAMS.cache_bytes_max
            assert sizes["promises"] <= 10 * 3 * len(PEERS)
            assert sizes["chokers"] <= len(self.router.get_mesh(TOPIC))

    def teardown(self):
        """Whatever was: without a mesh, and with nobody's opinion, time alone brings every score to exactly 0."""
        if not hasattr(self, "router"):
            return
        self.handle(Unsubscribe(TOPIC))
        for peer in PEERS:
            self.handle(Rated(peer, 0.0))
        for _ in range(FADED_BEATS):
            self.now_ms += PARAMS.heartbeat_ms
            self.handle(Heartbeat())
        for peer, group in self.connected.items():
            # Those that share an address owe that for as long as they do.
            assert self.router.get_score(peer) <= 0
            assert group or self.router.get_score(peer) == 0
        for peer in PEERS:
            self.handle(PeerDown(peer))
        self.now_ms += max(PARAMS.score.retain_ms, PARAMS.backoff_ms_max) + PARAMS.backoff_slack_ms
        for _ in range(BACKOFF_SWEEP_TICKS):
            self.handle(Heartbeat())
        sizes = self.router.get_sizes()
        assert sizes.pop("seen") <= PARAMS.seen_max  # those may stay until something else comes
        assert not any(sizes.values()), sizes
        for peer in PEERS:
            self.handle(PeerUp(peer))
            assert self.router.get_score(peer) == 0


TestLoneRouter = LoneRouter.TestCase
TestLoneRouter.settings = settings(max_examples=scale(30), stateful_step_count=50, deadline=None)


class Two(RuleBasedStateMachine):
    """Two routers on one link that comes and goes: while it is there they agree on everything."""

    @initialize(seed=st.integers(0, 2**32), is_async=st.booleans())
    def begin(self, seed, is_async):
        self.network = FakeNetwork(2, seed=seed, delay_ms=DELAY_MS, judge_delay_ms=40 if is_async else None)
        self.judge = None if is_async else accept
        self.network.subscribe(judge=self.judge)
        self.network.connect(0, 1)
        self.is_linked = True
        self.joined_ms = [0, 0]
        self.count = 0
        self.owed = [set(), set()]  # what each must hear: published by the other while both were there
        self.settle()

    def is_quiet(self):
        return all(self.network.now_ms - since_ms > 100 for since_ms in self.joined_ms)

    @rule(node=st.integers(0, 1), size=st.integers(1, 2_000))
    def publish(self, node, size):
        self.count += 1
        data = b"%d." % self.count + bytes(size)
        self.network.publish(node, data)
        if self.is_linked and self.is_quiet():
            self.owed[1 - node].add(data)

    @rule(node=st.integers(0, 1))
    def rejoin(self, node):
        self.settle()
        self.network.do(node, Unsubscribe(TOPIC))
        self.network.run(50)
        self.network.subscribe([node], judge=self.judge)
        self.joined_ms[node] = self.network.now_ms

    @rule(node=st.integers(0, 1))
    def break_and_mend(self, node):
        self.settle()
        self.network.disconnect(0, 1)
        self.is_linked = False
        self.network.run(500)
        self.network.connect(node, 1 - node)
        self.is_linked = True
        self.joined_ms = [self.network.now_ms] * 2

    @rule(for_ms=st.integers(0, 3_000))
    def run(self, for_ms):
        self.network.run(for_ms)

    @rule()
    def settle(self):
        """Once what is under way has arrived, they agree on what was said and on whether they mesh."""
        self.network.run(2_000)
        for node, owed in zip(self.network.nodes, self.owed, strict=True):
            assert owed <= set(node.received())
            assert len(set(node.received())) == len(node.received())
            assert not node.faults
        if not self.agree():
            self.network.run(2 * DELAY_MS)  # a heartbeat of this very moment has yet to reach the other
        assert self.agree()
        if self.count and all(self.owed):
            # Whatever one still remembers of those messages, and not too old for the other, both do.
            ids = [
                {key for key, sighting in get_seen(node) if sighting.expires_ms > self.network.now_ms + 5_000}
                for node in self.network.nodes
            ]
            both = {compute_id(data) for owed in self.owed for data in owed}
            assert ids[0] & both == ids[1] & both

    def agree(self):
        one, other = self.network.nodes
        return (other.key in one.router.get_mesh(TOPIC)) == (one.key in other.router.get_mesh(TOPIC))

    def teardown(self):
        if hasattr(self, "network"):
            self.network.run(70_000)  # past every backoff
            one, other = self.network.nodes
            assert other.key in one.router.get_mesh(TOPIC)
            assert one.key in other.router.get_mesh(TOPIC)
            self.joined_ms = [0, 0]
            self.publish(0, 10)
            self.publish(1, 10)
            self.settle()


def test_two_agree_also_where_one_is_looked_at_in_its_heartbeat():
    """A history that was found: the backoff ends at the very moment they are looked at."""
    two = Two()
    two.begin(seed=0, is_async=False)
    two.rejoin(node=0)
    for _ in range(3):
        two.settle()
    two.rejoin(node=0)
    two.run(for_ms=1_900)
    two.settle()


def get_seen(node):
    return list(node.router._state.seen.sightings.items())


TestTwo = Two.TestCase
TestTwo.settings = settings(max_examples=scale(25), stateful_step_count=25, deadline=None)


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
TestChurn.settings = settings(max_examples=scale(12), stateful_step_count=25, deadline=None)
