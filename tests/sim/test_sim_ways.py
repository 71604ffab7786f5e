"""Each fault a plan may hold, and that the simulated network really does it, as the delay line of real nodes does."""

from p2p.net import Answered, Asked, PeerConnected, PeerDisconnected, Unanswered
from testnet.faults import FaultPlan, LinkFault, Partition, Pause
from testnet.sim_links import SILENCE_MS
from testnet.sim_net import DIAL_MS
from tests.sim.test_sim_net import PROTOCOL, TOPIC, World, received

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
START, END = 2_000, 12_000


def make_world(*links: LinkFault, count: int = 2, **plan: object) -> World:
    """Two hosts whose ways take one millisecond, but for the faults given, from START on."""
    world = World(count, FaultPlan(latency_ms=1, jitter_ms=0, links=links, **plan))  # type: ignore[arg-type]
    world.kernel.run_until(START)
    return world


def time_gossip(world: World, data: bytes, source: str = "a", target: str = "b") -> int:
    """Virtual milliseconds from a publish to its delivery."""
    begun_ms = world.kernel.now_ms
    world.nets[source].publish(TOPIC, data, "")
    assert world.kernel.run_until(begun_ms + 60_000, lambda: data in received(world, target))
    return world.kernel.now_ms - begun_ms


def time_stream(world: World, size: int, source: str = "a", target: str = "b") -> int:
    """Virtual milliseconds until a question of so many bytes is there."""
    begun_ms, before = world.kernel.now_ms, len(world.get(target, Asked))
    world.nets[source].request(target.encode() * 32, PROTOCOL, bytes(size), f"at {begun_ms}", 60_000)
    assert world.kernel.run_until(begun_ms + 60_000, lambda: len(world.get(target, Asked)) > before)
    return world.kernel.now_ms - begun_ms


def test_delay_makes_what_is_sent_late_in_the_direction_meant_and_while_it_lasts():
    world = make_world(LinkFault(START, END, ("a",), ("b",), delay_ms=300))

    assert time_gossip(world, b"there") == 301
    assert time_stream(world, 10) == 301
    assert time_gossip(world, b"back", "b", "a") == 1
    world.kernel.run_until(END)
    assert time_gossip(world, b"afterwards") == 1


def test_both_ways_adds_the_way_back_and_no_names_mean_everybody():
    there_and_back = make_world(LinkFault(START, END, ("a",), ("b",), both_ways=True, delay_ms=50))
    everybody = make_world(LinkFault(START, END, delay_ms=50), count=3)

    assert time_gossip(there_and_back, b"back", "b", "a") == 51
    for target in "ab":
        assert time_stream(everybody, 10, "c", target) == 51


def test_jitter_draws_anew_for_each_packet_and_a_stream_keeps_its_order():
    world = make_world(LinkFault(START, 60_000, jitter_ms=100))

    late_ms = [time_gossip(world, b"%03d" % number) for number in range(40)]

    assert 0 < min(late_ms) < 20
    assert 80 < max(late_ms) <= 101
    for number in range(100, 140):
        world.nets["a"].publish(TOPIC, b"%03d" % number, "")
        world.kernel.run_until(world.kernel.now_ms + 1)
    world.kernel.run_until(world.kernel.now_ms + 200)
    assert received(world, "b") == sorted(received(world, "b"))


def test_bandwidth_is_shared_by_gossip_and_streams():
    world = make_world(LinkFault(START, 0, ("a",), ("b",), bytes_per_s=50_000))

    assert 1_000 <= time_gossip(world, bytes(50_000)) < 1_020
    assert 2_000 <= time_stream(world, 100_000) < 2_020
    begun_ms = world.kernel.now_ms
    world.nets["a"].request(B, PROTOCOL, bytes(100_000), "first", 60_000)
    assert 3_000 <= time_gossip(world, b"x" * 50_000) < 3_030
    assert world.kernel.now_ms - begun_ms < 3_030
    assert time_gossip(world, b"y" * 50_000, "b", "a") == 1


def test_a_narrow_way_sheds_what_waits_too_long_and_the_urgent_goes_first():
    world = make_world(LinkFault(START, 0, ("a",), ("b",), bytes_per_s=100_000))
    urgent, chatter = "/rolemesh/00/consensus/1", "/rolemesh/00/node/1"
    a, b = world.nets["a"], world.nets["b"]
    for topic in (urgent, chatter):
        b.subscribe(topic, lambda *_: world.verdict)
    world.kernel.run_until(world.kernel.now_ms + 100)

    for number in range(100):
        a.publish(chatter, bytes([number]) * 60_000, "")
    a.publish(urgent, b"a vote", "")
    world.kernel.run_until(world.kernel.now_ms + 6_000)

    assert b"a vote" in received(world, "b")
    assert len(received(world, "b")) < 12
    assert a.gossip.counts[chatter].dropped > 20
    assert a.gossip.counts[urgent].dropped == 0


def test_loss_on_a_way_is_delay_for_whatever_goes_over_it():
    world = make_world(LinkFault(START, 0, ("a",), ("b",), loss_bp=5_000))

    late_ms = [time_gossip(world, b"%03d" % number) for number in range(40)]
    streams_ms = [time_stream(world, 10) for _ in range(40)]

    for figures in (late_ms, streams_ms):
        assert {figure % 200 for figure in figures} == {1}
        assert 10 < figures.count(1) < 30
        assert 201 in figures
        assert 601 in figures, "twice as long the second time"
    assert time_stream(world, 100_000) > 600, "one of seventy segments is lost again and again"


def test_a_stall_keeps_what_was_sent_and_hands_it_over_at_its_end():
    world = make_world(LinkFault(START, END, ("a",), ("b",), silence="stall"))

    world.nets["a"].publish(TOPIC, b"one", "")
    world.nets["a"].publish(TOPIC, b"two", "")
    world.nets["a"].request(B, PROTOCOL, b"?", "t", 60_000)
    assert time_gossip(world, b"back", "b", "a") == 1
    world.kernel.run_until(END - 1)
    assert received(world, "b") == world.get("b", Asked) == []
    world.kernel.run_until(END + 1)

    assert received(world, "b") == [b"one", b"two"]
    assert len(world.get("b", Asked)) == 1
    assert world.get("a", PeerDisconnected) == []


def test_what_was_under_way_when_a_stall_began_waits_as_well():
    world = make_world(LinkFault(0, 0, delay_ms=500), LinkFault(START + 100, END, silence="stall"))

    world.nets["a"].publish(TOPIC, b"too late", "")
    world.kernel.run_until(END + 500)
    assert received(world, "b") == []
    world.kernel.run_until(END + 501)

    assert received(world, "b") == [b"too late"]


def test_a_blackhole_takes_everything_tells_nobody_and_ends_the_connection_when_it_ends():
    world = make_world(LinkFault(START, END, ("a",), ("b",), silence="blackhole"))

    world.nets["a"].publish(TOPIC, b"gone", "")
    world.nets["a"].request(B, PROTOCOL, b"?", "t", 60_000)
    world.kernel.run_until(END - 1)
    assert world.get("a", PeerDisconnected) == world.get("a", Unanswered) == []
    world.kernel.run_until(END + 5_000)

    assert world.get("a", PeerDisconnected) == [PeerDisconnected(B)]
    assert world.get("a", Unanswered) == [Unanswered("t", "the connection was lost")]
    assert world.nets["a"].peers() == (B,)
    assert time_gossip(world, b"on a new connection") == 1
    assert received(world, "b") == [b"on a new connection"]


def test_a_blackhole_nobody_sent_into_leaves_the_connection():
    world = World(2, FaultPlan(links=(LinkFault(START, START + 1, ("a",), ("b",), silence="blackhole"),)))

    world.kernel.run_until(END)

    assert world.get("a", PeerDisconnected) == []


def test_a_partition_one_way_cuts_what_the_first_group_sends():
    world = make_world(partitions=(Partition(START, END, (("a",),), one_way=True),))

    assert time_gossip(world, b"heard", "b", "a") == 1
    world.nets["a"].publish(TOPIC, b"not yet", "")
    world.kernel.run_until(END - 1)
    assert received(world, "b") == []
    world.kernel.run_until(END + 10)

    assert received(world, "b") == [b"not yet"]


def test_a_partition_that_refuses_breaks_connections_at_once_and_refuses_dials():
    world = make_world(partitions=(Partition(START, END, (("a",),), refuse=True),), count=3)

    assert world.nets["a"].peers() == ()
    assert world.nets["b"].peers() == (C,)
    world.nets["a"].request(B, PROTOCOL, b"?", "t", 60_000)
    world.kernel.run_until(START + 100)
    assert world.get("a", Unanswered) == [Unanswered("t", "the peer cannot be reached")]
    world.kernel.run_until(END - 1)
    assert world.nets["a"].peers() == ()
    world.kernel.run_until(END + 6_000)

    assert world.nets["a"].peers() == (B, C)


def test_a_connection_that_says_nothing_for_too_long_is_given_up_by_both():
    world = make_world(partitions=(Partition(START, START + 2 * SILENCE_MS, (("a",),), one_way=True),))

    world.kernel.run_until(START + SILENCE_MS - 1)
    assert world.nets["a"].peers() == (B,)
    world.kernel.run_until(START + SILENCE_MS)

    assert world.nets["a"].peers() == world.nets["b"].peers() == ()


def test_a_dial_into_silence_is_given_up_after_its_deadline_and_one_that_outlasts_it_succeeds():
    world = World(2, FaultPlan(latency_ms=1, jitter_ms=0, partitions=(Partition(0, 10_000, (("a",),)),)))

    world.nets["a"].request(B, PROTOCOL, b"?", "t", 60_000)
    world.kernel.run_until(DIAL_MS + 500)
    assert world.get("a", Unanswered) == [Unanswered("t", "the peer cannot be reached")]
    world.kernel.run_until(20_000)

    assert world.nets["a"].peers() == (B,)
    short = World(2, FaultPlan(latency_ms=1, jitter_ms=0, partitions=(Partition(0, 2_000, (("a",),)),)))
    short.kernel.run_until(2_300)
    assert len(short.get("a", PeerConnected)) == 1


def test_a_paused_host_handles_nothing_and_goes_on_where_it_was():
    world = make_world(pauses=(Pause("b", START, END),), count=3)
    a, b = world.nets["a"], world.nets["b"]

    a.publish(TOPIC, b"one", "")
    a.request(B, PROTOCOL, b"?", "t", 60_000)
    a.publish(TOPIC, b"two", "")
    b.request(A, PROTOCOL, b"?", "asked before the pause was noticed", 1_000)
    world.kernel.run_until(END - 1)
    assert received(world, "c") == [b"one", b"two"]
    assert received(world, "b") == world.get("b", Asked) == world.get("b", Unanswered) == []
    world.kernel.run_until(END)

    assert received(world, "b") == [b"one", b"two"]
    assert [type(event) for event in world.events["b"][-4:]].count(Asked) == 1
    assert len(world.get("b", Unanswered)) == 1
    assert world.get("a", PeerDisconnected) == []
    (asked,) = world.get("b", Asked)
    assert isinstance(asked, Asked)
    b.reply(asked.token, b"!")
    world.kernel.run_until(END + 10)
    assert world.get("a", Answered) == [Answered("t", b"!")]


def test_ways_without_a_fault_are_as_they_were():
    world = make_world(LinkFault(START, 0, ("a",), ("b",), delay_ms=300, silence="stall"), count=3)

    assert time_stream(world, 10, "a", "c") == time_stream(world, 10, "c", "b") == 1
    # What a cannot send to b itself, c passes on.
    assert time_gossip(world, b"around", "a", "b") == 2
