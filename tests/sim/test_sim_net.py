"""What the simulated network adds to the conformance suite of tests/p2p: faults, and that they repeat."""

from p2p.bans import BAN_MS_MIN
from p2p.net import Answered, Asked, Delivered, NetEvent, PeerConnected, PeerDisconnected, Unanswered
from protocol.types import Verdict
from testnet.faults import FaultPlan, Partition
from testnet.kernel import Kernel
from testnet.sim_links import SILENCE_MS, Fabric
from testnet.sim_net import SimNet

TOPIC, PROTOCOL = "/topic", "/protocol"


class World:
    """Hosts a, b, c… that all know each other and run for a second."""

    def __init__(self, count: int, plan: FaultPlan | None = None, seed: int = 1) -> None:
        self.kernel = Kernel(seed, start_ms=0)
        self.fabric = Fabric(self.kernel, plan)
        self.events: dict[str, list[NetEvent]] = {}
        self.verdict = Verdict.ACCEPT
        self.nets = {name: self.attach(name) for name in "abcdefgh"[:count]}
        for net in self.nets.values():
            self.introduce(net)
        self.kernel.run_until(1_000)

    def attach(self, name: str) -> SimNet:
        self.events[name] = []
        net = self.fabric.attach(name, name.encode() * 32, self.events[name].append)
        net.subscribe(TOPIC, lambda topic, data, forwarder: self.verdict)
        net.serve(PROTOCOL)
        return net

    def introduce(self, net: SimNet) -> None:
        for name in "abcdefgh"[: len(self.nets)]:
            net.learn(name.encode() * 32, (self.fabric.assign_address(name),))

    def get(self, name: str, kind: type) -> list[NetEvent]:
        return [event for event in self.events[name] if isinstance(event, kind)]


def received(world: World, name: str) -> list[bytes]:
    return [event.data for event in world.get(name, Delivered) if isinstance(event, Delivered)]


def test_two_alone_have_nobody_to_ask_so_lost_gossip_stays_lost_and_what_arrives_is_delivered_once():
    world = World(2, FaultPlan(loss_bp=3_000, duplicate_bp=3_000, latency_ms=5, jitter_ms=20))

    for number in range(1_000):
        world.nets["a"].publish(TOPIC, number.to_bytes(2, "big"), "")
    world.kernel.run_until(5_000)

    delivered = received(world, "b")
    assert 600 < len(delivered) < 800
    assert delivered == sorted(set(delivered)), "a stream keeps its order"
    counts = world.nets["b"].gossip.counts[TOPIC]
    assert counts.duplicates > 100
    assert world.nets["a"].gossip.counts[TOPIC].dropped == 1_000 - len(delivered)


def test_paths_of_different_delays_reorder():
    world = World(8, FaultPlan(loss_bp=3_000, jitter_ms=40))

    for number in range(100):
        world.nets["a"].publish(TOPIC, bytes([number]), "")
        world.kernel.run_until(1_000 + 10 * number)
    world.kernel.run_until(10_000)

    delivered = received(world, "b")
    assert len(delivered) == 100
    assert delivered != sorted(delivered)


def test_what_the_mesh_loses_is_asked_for():
    world = World(8, FaultPlan(loss_bp=3_000))

    for number in range(100):
        world.nets["a"].publish(TOPIC, bytes([number]), "")
    world.kernel.run_until(1_020)
    before = min(len(received(world, name)) for name in "bcdefgh")
    world.kernel.run_until(8_000)

    assert before < 100
    assert [len(received(world, name)) for name in "bcdefgh"] == [100] * 7


def test_no_loss_of_messages_keeps_a_subscription_or_a_graft_from_arriving():
    world = World(6, FaultPlan(loss_bp=10_000))

    world.nets["a"].publish(TOPIC, b"x", "")
    world.kernel.run_until(5_000)

    for name, net in world.nets.items():
        assert net.subscribers(TOPIC) == tuple(other.encode() * 32 for other in "abcdef" if other != name)
        assert 3 <= len(net.gossip.router.get_mesh(TOPIC)) <= 6
        assert received(world, name) == []


def test_a_stream_resends_what_is_lost_so_loss_is_delay():
    world = World(2, FaultPlan(loss_bp=5_000))

    for number in range(50):
        world.nets["a"].request(b"b" * 32, PROTOCOL, b"?", f"t{number}", 20_000)
    world.kernel.run_until(10_000)
    for asked in world.get("b", Asked):
        assert isinstance(asked, Asked)
        world.nets["b"].reply(asked.token, b"!")
    world.kernel.run_until(20_000)

    assert len(world.get("a", Answered)) == 50


def test_a_short_cut_is_not_noticed_and_a_long_one_breaks_the_connection():
    cuts = (Partition(2_000, 3_000, (("a",),)), Partition(10_000, 60_000, (("a",),)))
    world = World(2, FaultPlan(partitions=cuts))

    world.kernel.run_until(2_500)
    world.nets["a"].request(b"b" * 32, PROTOCOL, b"?", "through", 5_000)
    world.nets["a"].publish(TOPIC, b"into the cut", "")
    world.kernel.run_until(9_000)
    assert len(world.get("b", Asked)) == 1
    assert received(world, "b") == [b"into the cut"], "the stream waited for the end of the cut"
    assert world.get("a", PeerDisconnected) == []

    world.kernel.run_until(10_500)
    world.nets["a"].request(b"b" * 32, PROTOCOL, b"?", "lost", 90_000)
    world.kernel.run_until(10_000 + SILENCE_MS)
    assert world.nets["a"].peers() == world.nets["b"].peers() == ()
    assert Unanswered("lost", "the connection was lost") in world.get("a", Unanswered)

    world.kernel.run_until(70_000)
    assert len(world.get("a", PeerConnected)) == len(world.get("b", PeerConnected)) == 2


def test_a_host_that_dies_is_missed_and_found_again_when_it_is_back():
    world = World(3)

    world.nets["a"].request(b"b" * 32, PROTOCOL, b"?", "t", 60_000)
    world.kernel.run_until(1_100)
    world.fabric.detach(world.nets["b"])
    world.nets["c"].publish(TOPIC, b"while b is away", "")
    world.kernel.run_until(4_000)
    assert world.get("a", Unanswered) == [Unanswered("t", "the connection was lost")]
    assert world.nets["a"].peers() == (b"c" * 32,)

    world.nets["b"] = world.attach("b")
    world.introduce(world.nets["b"])
    world.kernel.run_until(10_000)
    assert world.nets["a"].peers() == (b"b" * 32, b"c" * 32)
    assert world.nets["a"].subscribers(TOPIC) == (b"b" * 32, b"c" * 32)
    assert world.get("b", Delivered) == []


def test_a_host_that_is_back_before_it_was_missed_gets_a_new_connection():
    world = World(2, FaultPlan(latency_ms=200, jitter_ms=0))

    world.fabric.detach(world.nets["b"])
    world.nets["b"] = world.attach("b")
    world.introduce(world.nets["b"])
    world.kernel.run_until(5_000)

    assert world.nets["a"].peers() == (b"b" * 32,)
    assert world.nets["b"].peers() == (b"a" * 32,)
    world.nets["a"].request(b"b" * 32, PROTOCOL, b"?", "t", 5_000)
    world.kernel.run_until(6_000)
    assert len(world.get("b", Asked)) == 1


def test_a_peer_that_keeps_sending_refused_messages_is_shut_out_for_a_while():
    world = World(2)
    world.verdict = Verdict.REJECT

    for number in range(20):
        world.nets["a"].publish(TOPIC, bytes([number]), "")
    world.kernel.run_until(2_000)

    assert world.nets["b"].gossip.counts[TOPIC].rejected == 20
    assert world.nets["b"].peers() == world.nets["a"].peers() == ()
    world.kernel.run_until(2_000 + BAN_MS_MIN + 10_000)
    assert world.nets["b"].peers() == (b"a" * 32,)


def test_a_malformed_packet_costs_the_stream_and_the_next_one_carries_on():
    world = World(2)
    a, b = world.nets["a"], world.nets["b"]

    b.gossip.take_bytes(a.node, a.gossip.get_pipe(b.node), b"\x02\x07\x07")
    assert b.subscribers(TOPIC) == ()
    a.publish(TOPIC, b"too early for the new stream", "")
    world.kernel.run_until(2_000)

    assert b.subscribers(TOPIC) == (a.node,)
    assert b.peers() == (a.node,)
    a.publish(TOPIC, b"on it", "")
    world.kernel.run_until(3_000)
    assert received(world, "b")[-1] == b"on it"


def test_the_same_seed_carries_the_same_way_and_another_does_not():
    def run(seed: int) -> str:
        world = World(5, FaultPlan(loss_bp=2_000, jitter_ms=30), seed)
        for number in range(20):
            world.nets["abcde"[number % 5]].publish(TOPIC, bytes([number]), "")
        world.kernel.run_until(3_000)
        return world.kernel.trace

    assert run(1) == run(1) != run(2)
