"""Who hears authors from themselves chokes its mesh: copies end, and nothing is lost when it no longer hears them."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.gossip_params import PARAMS
from p2p.gossipsub import (
    Heartbeat,
    PeerDown,
    PeerUp,
    Publish,
    Received,
    SendControl,
    SendMessage,
    Subscribe,
    TopicParams,
    TopicScore,
    compute_message_id,
)
from p2p.gossipsub.choke import REST_MS
from p2p.gossipsub.wire import read_slice, wrap_control, write_choke, write_plain, write_subscription, write_unchoke
from p2p.protobuf import write_bytes
from protocol.types import Unproven, Verdict
from tests.p2p.gossipsub.fake_network import TOPIC, FakeNetwork, accept, lone_router, node_key

KEY = TOPIC.encode()
PARAMS_SOON = replace(PARAMS, choke_after=8)
EVERY_MS = 50  # a message
A, B, C = (node_key(i) for i in range(3))


def judge(topic, data, forwarder):
    """The first byte says whose message it is."""
    return Unproven(node_key(data[0]), b"", b"", lambda is_signed: Verdict.ACCEPT)


def on_topic(count, params=PARAMS_SOON, judge=judge, topic=None):
    network = FakeNetwork(count, params, judge_delay_ms=1)
    network.subscribe(judge=judge, params=topic)
    return network


def say(network, author, count):
    """So many messages of one author, evenly; what each is."""
    said = []
    for _ in range(count):
        said.append(bytes((author,)) + b"%d" % network.now_ms)
        network.publish(author, said[-1])
        network.run(EVERY_MS)
    return said


def count_duplicates(network):
    return sum(node.router.get_counts()[TOPIC].duplicates for node in network.nodes)


def count_choked(network):
    return sum(node.router.get_sizes()["choked"] for node in network.nodes)


def test_where_all_hear_the_authors_copies_end_and_nothing_is_missed():
    network = on_topic(6)
    network.connect_all()
    network.run(1_000)
    said = say(network, 0, 100) + say(network, 1, 100)
    before = count_duplicates(network)
    assert before > 100
    said += say(network, 0, 100) + say(network, 1, 100)
    assert count_duplicates(network) == before
    for index, node in enumerate(network.nodes):
        assert Counter(node.received()) == Counter(data for data in said if data[0] != index)


def test_while_one_author_is_heard_from_others_alone_nobody_is_choked_and_nothing_waits_for_a_heartbeat():
    network = on_topic(6)
    for a in range(6):
        for b in range(a):
            if (a, b) == (1, 0) or b != 0:
                network.connect(a, b)
    network.run(1_000)
    for _ in range(50):
        say(network, 2, 2)
        (last,) = say(network, 0, 1)
        assert all(last in node.received() for node in network.nodes[1:])
    assert [bool(node.router.get_sizes()["choked"]) for node in network.nodes] == [False, True, *[False] * 4]


def choked_network():
    network = on_topic(5)
    network.connect_all()
    network.run(1_000)
    say(network, 0, 60)
    assert count_choked(network) == sum(len(node.router.get_mesh(TOPIC)) for node in network.nodes[1:])
    return network


def part(network):
    """The author is left with one link."""
    for index in (2, 3, 4):
        network.disconnect(0, index)


def test_an_author_that_some_no_longer_hear_is_pulled_and_soon_forwarded_again():
    network = choked_network()
    part(network)
    late = say(network, 0, 22)  # a heartbeat
    for data in say(network, 0, 20):
        assert all(data in node.received() for node in network.nodes[1:])
    assert all(set(late) <= set(node.received()) for node in network.nodes[1:])


def test_an_author_that_is_there_and_no_longer_heard_is_forwarded_again_within_four_heartbeats():
    network = choked_network()
    network.lose = lambda sender, receiver: sender == 0 and receiver > 1
    late = say(network, 0, 82)
    for data in say(network, 0, 20):
        assert all(data in node.received() for node in network.nodes[1:])
    assert all(set(late) <= set(node.received()) for node in network.nodes[1:])


def test_after_a_message_was_missed_nobody_is_choked_for_a_while_and_for_longer_when_it_happens_again():
    network = choked_network()
    rests_ms = []
    for _ in range(3):
        part(network)
        say(network, 0, 80)
        assert count_choked(network) == network.nodes[1].router.get_sizes()["choked"]
        began_ms = network.now_ms
        for index in (2, 3, 4):
            network.connect(0, index)
        while network.nodes[2].router.get_sizes()["choked"] == 0:
            say(network, 0, 20)
        rests_ms.append(network.now_ms - began_ms)
    assert [round(rest_ms / REST_MS) for rest_ms in rests_ms] == [1, 2, 4]


COUNTS_COPIES = TopicScore(mesh_deliveries_weight=-1, mesh_deliveries_threshold=1, mesh_deliveries_cap=2)


@pytest.mark.parametrize(
    ("judge", "topic"),
    [(accept, None), (judge, TopicParams(score=COUNTS_COPIES))],
    ids=["authors are not known", "copies count"],
)
def test_no_choking_where(judge, topic):
    network = on_topic(5, judge=judge, topic=topic)
    network.connect_all()
    network.run(1_000)
    say(network, 0, 100)
    assert count_choked(network) == 0


def test_no_choking_unless_asked_for():
    network = on_topic(5, replace(PARAMS, choke_after=None))
    network.connect_all()
    network.run(1_000)
    say(network, 0, 100)
    assert count_choked(network) == 0


def meshed_router():
    router = lone_router()
    router.handle(Subscribe(TOPIC, accept), 0)
    for peer in (A, B, C):
        router.handle(PeerUp(peer), 0)
        router.handle(Received(peer, write_subscription(True, KEY)), 0)
    assert set(router.get_mesh(TOPIC)) == {A, B, C}
    return router


def get_receivers(effects):
    return {peer for effect in effects if isinstance(effect, SendMessage) for peer in effect.peers}


def forward(router, data):
    return get_receivers(router.handle(Received(A, write_plain(data, write_bytes(4, KEY))), 1))


def list_told(effects):
    """Who hears of what, by control message."""
    told = {}
    for effect in effects:
        if isinstance(effect, SendControl):
            (control,) = read_slice(wrap_control(effect.body), 0, 4, 1 << 20, {}).controls
            told.setdefault(effect.peer, []).extend(key for _, keys in control.ihave for key in keys)
    return told


def test_who_chokes_us_hears_what_we_have_until_it_unchokes_us_and_our_own_messages_whole():
    router = meshed_router()
    router.handle(Received(B, wrap_control(write_choke(KEY))), 1)
    assert forward(router, b"x") == {C}
    assert get_receivers(router.handle(Publish(TOPIC, b"own"), 1)) == {A, B, C}
    told = list_told(router.handle(Heartbeat(), 2))
    assert compute_message_id(TOPIC, b"x") in told[B]
    assert C not in told
    assert router.get_sizes()["chokers"] == 1
    router.handle(Received(B, wrap_control(write_unchoke(KEY))), 3)
    assert forward(router, b"y") == {B, C}
    assert compute_message_id(TOPIC, b"x") in list_told(router.handle(Heartbeat(), 4))[B]  # it may not have it
    assert B not in list_told(router.handle(Heartbeat(), 5))


def test_who_chokes_and_unchokes_by_turns_hears_what_we_have_once_a_heartbeat():
    router = meshed_router()
    assert forward(router, b"x") == {B, C}
    effects = router.handle(Received(B, wrap_control((write_choke(KEY) + write_unchoke(KEY)) * 400)), 1)
    assert list_told(effects) == {}
    for index, told in enumerate((1, 0)):
        sent = [each for each in router.handle(Heartbeat(), 2 + index) if isinstance(each, SendControl)]
        assert sum(each.peer == B for each in sent) == told


def test_choking_ends_with_the_mesh_and_only_a_mesh_peer_chokes():
    router = meshed_router()
    router.handle(Received(B, wrap_control(write_choke(KEY) + write_choke(b"another"))), 1)
    router.handle(PeerDown(B), 2)
    router.handle(PeerUp(B), 3)
    router.handle(Received(B, wrap_control(write_choke(KEY))), 3)  # not on the topic yet
    router.handle(Received(B, write_subscription(True, KEY)), 3)
    assert B in router.get_mesh(TOPIC)
    assert forward(router, b"x") == {B, C}
    assert router.get_sizes()["chokers"] == 0


@settings(max_examples=60)
@given(
    count=st.integers(3, 7),
    steps=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 30), st.integers(0, 6)), max_size=14),
    seed=st.integers(0, 2**16),
)
def test_while_links_come_and_go_everybody_hears_everything_once(count, steps, seed):
    """A ring stays; other links come and go between messages of any author."""
    network = FakeNetwork(count, replace(PARAMS, degree_high=8, choke_after=3), seed=seed, judge_delay_ms=1)
    network.subscribe(judge=judge)
    for index in range(count):
        network.connect(index, (index + 1) % count)
    network.run(2_000)
    said = []
    for a, b, messages, author in steps:
        a, b = a % count, b % count
        if (a - b) % count not in (0, 1, count - 1):
            if node_key(b) in network.nodes[a].links:
                network.disconnect(a, b)
            else:
                network.connect(a, b)
        said += say(network, author % count, messages)
    network.run(10_000)
    for index, node in enumerate(network.nodes):
        assert Counter(node.received()) == Counter(data for data in said if data[0] != index)
