"""The router's rules, one by one, over links that exist only here."""

import random

import pytest

from p2p.gossipsub import (
    Author,
    Blamed,
    Deliver,
    Dial,
    GossipParams,
    Heartbeat,
    Judged,
    PeerDown,
    PeerUp,
    Publish,
    Rated,
    Received,
    ResetStream,
    Resumed,
    Router,
    ScoreParams,
    Seek,
    SendControl,
    SendMessage,
    SendSubscriptions,
    Signature,
    StreamEnded,
    StreamRenewed,
    Subscribe,
    TopicParams,
    Unsubscribe,
    Validate,
    compute_message_id,
)
from p2p.gossipsub.events import Continue, Fault
from p2p.gossipsub.signing import ED25519_HEAD
from p2p.gossipsub.wire import (
    Control,
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
from protocol.errors import LocalError
from protocol.keys import PrivateKey
from protocol.types import Verdict
from tests.p2p.gossipsub.fake_network import TOPIC, FakeNetwork, accept, lone_router, node_key

KEY = TOPIC.encode()
SIGNED = TopicParams(signature=Signature.STRICT_SIGN)
A, B, C = node_key(1), node_key(2), node_key(3)


def plain(data, topic=KEY):
    return write_message(Message(topic, data))


def control_of(effects, peer):
    """Everything a router tells one peer, as one control message."""
    body = b"".join(effect.body for effect in effects if isinstance(effect, SendControl) and effect.peer == peer)
    control = Control()
    for some in read_slice(wrap_control(body), 0, 10, 1 << 20, {}).controls:
        control = some
    return control


def select(effects, kind):
    return [effect for effect in effects if isinstance(effect, kind)]


def on_topic(*peers, params=None, judge=accept, topic_params=None, outbound=()):
    """A router on TOPIC with these peers on it too."""
    router = lone_router(params)
    router.handle(Subscribe(TOPIC, judge, topic_params), 0)
    for peer in peers:
        router.handle(PeerUp(peer, is_outbound=peer in outbound), 0)
        router.handle(Received(peer, write_subscription(True, KEY)), 0)
    return router


def send_control(router, peer, body, now_ms):
    return router.handle(Received(peer, wrap_control(body)), now_ms)


# Topics and messages


def test_a_new_peer_is_told_our_topics_and_everyone_hears_of_a_change():
    router = lone_router()
    router.handle(Subscribe(TOPIC, accept), 0)
    assert router.handle(PeerUp(A), 0) == [SendSubscriptions(A, write_subscription(True, KEY))]
    assert SendSubscriptions(A, write_subscription(False, KEY)) in router.handle(Unsubscribe(TOPIC), 0)


def test_an_accepted_message_is_delivered_and_forwarded_once_to_the_mesh_but_its_sender():
    router = on_topic(A, B, C)
    assert router.get_mesh(TOPIC) == tuple(sorted((A, B, C)))
    effects = router.handle(Received(A, plain(b"x")), 5)
    assert select(effects, Deliver) == [Deliver(TOPIC, b"x", A)]
    (sent,) = select(effects, SendMessage)
    assert sorted(sent.peers) == sorted((B, C))
    assert sent.packet == plain(b"x")
    assert router.handle(Received(B, plain(b"x")), 6) == []
    assert router.get_counts()[TOPIC].duplicates == 1


@pytest.mark.parametrize("verdict", [Verdict.IGNORE, Verdict.REJECT])
def test_what_is_not_accepted_goes_nowhere_and_only_a_rejected_message_is_held_against_its_senders(verdict):
    router = on_topic(A, B, judge=lambda *_: verdict)
    effects = router.handle(Received(A, plain(b"x")), 5) + router.handle(Received(B, plain(b"x")), 5)
    assert not select(effects, Deliver)
    assert not select(effects, SendMessage)
    is_blamed = verdict is Verdict.REJECT
    assert [bool(router.get_score(peer) < 0) for peer in (A, B)] == [is_blamed, is_blamed]


def test_a_message_there_is_no_room_for_may_come_again():
    verdicts = iter([None, Verdict.ACCEPT])
    router = on_topic(A, B, judge=lambda *_: next(verdicts))
    assert router.handle(Received(A, plain(b"x")), 1) == []
    assert select(router.handle(Received(B, plain(b"x")), 2), Deliver)
    assert router.get_counts()[TOPIC].throttled == 1


def test_a_message_larger_than_its_topic_allows_is_refused_before_it_is_judged():
    def judge(topic, data, forwarder):
        raise AssertionError("nobody is asked")

    router = on_topic(A, judge=judge, topic_params=TopicParams(data_bytes_max=100))
    assert not select(router.handle(Received(A, plain(bytes(101))), 1), Deliver)
    assert router.get_score(A) < 0


def test_messages_on_topics_we_are_not_on_are_passed_over():
    router = on_topic(A)
    assert router.handle(Received(A, plain(b"x", b"other")), 1) == []


def test_own_messages_flood_to_everyone_on_the_topic_above_the_publish_threshold():
    peers = [node_key(i) for i in range(30)]
    router = on_topic(*peers)
    assert len(router.get_mesh(TOPIC)) < 30
    router.handle(Rated(peers[0], -1_000.0), 0)
    (sent,) = router.handle(Publish(TOPIC, b"mine"), 1)
    assert sorted(sent.peers) == sorted(peers[1:])
    assert sent.is_own


def test_without_flooding_own_messages_go_to_the_mesh_or_to_a_fanout_that_stays():
    params = GossipParams(flood_publish=False)
    peers = [node_key(i) for i in range(30)]
    router = on_topic(*peers, params=params)
    (sent,) = router.handle(Publish(TOPIC, b"mine"), 1)
    assert sorted(sent.peers) == list(router.get_mesh(TOPIC))
    outsider = lone_router(params)
    for peer in peers:
        outsider.handle(PeerUp(peer), 0)
        outsider.handle(Received(peer, write_subscription(True, KEY)), 0)
    first, second = (outsider.handle(Publish(TOPIC, data), 1)[0] for data in (b"1", b"2"))
    assert len(first.peers) == params.degree
    assert first.peers == second.peers
    outsider.handle(Heartbeat(), params.fanout_ttl_ms + 2)
    assert outsider.get_sizes()["fanout"] == 0


def test_a_large_packet_is_worked_off_in_slices_and_nothing_of_it_is_punished():
    router = on_topic(A, B)
    packet = b"".join(plain(b"%d" % i) for i in range(1_000))
    effects = router.handle(Received(A, packet), 1)
    delivered = select(effects, Deliver)
    turns = 1
    while effects[-1] == Continue(A):
        effects = router.handle(Resumed(A), 1)
        assert len(select(effects, Deliver)) <= GossipParams().slice_messages
        delivered += select(effects, Deliver)
        turns += 1
    assert [event.data for event in delivered] == [b"%d" % i for i in range(1_000)]
    assert turns == 1 + 1_000 // GossipParams().slice_messages
    assert router.get_score(A) > 0


def test_a_packet_that_is_none_costs_the_stream_and_standing_and_a_second_is_felt():
    router = on_topic(A)
    effects = router.handle(Received(A, b"\xff" * 6), 1)
    assert [effect.peer for effect in select(effects, ResetStream)] == [A]
    assert router.get_score(A) == 0
    router.handle(Received(A, b"\xff" * 6), 2)
    assert router.get_score(A) < 0
    for i in range(4):
        router.handle(Received(A, b"\xff" * 6), 3 + i)
    assert router.handle(Received(A, plain(b"graylisted")), 9) == []
    assert [effect.peer for effect in select(router.handle(Heartbeat(), 10), Fault)] == [A]


def test_a_peer_that_renews_its_stream_is_told_everything_again_and_one_that_ends_it_is_off_our_topics():
    router = on_topic(A)
    effects = router.handle(StreamRenewed(A), 1)
    assert effects == [SendSubscriptions(A, write_subscription(True, KEY)), SendControl(A, write_graft(KEY))]
    router.handle(StreamEnded(A), 2)
    assert router.get_subscribers(TOPIC) == router.get_mesh(TOPIC) == ()


# Asynchronous verdicts


def test_a_verdict_may_take_its_time_and_nothing_is_forwarded_before_it():
    router = on_topic(A, B, C, judge=None)
    (asked,) = router.handle(Received(A, plain(b"x")), 1)
    assert asked == Validate(asked.ticket, TOPIC, b"x", A)
    assert router.handle(Received(B, plain(b"x")), 2) == []
    effects = router.handle(Judged([(asked.ticket, Verdict.ACCEPT)]), 3)
    assert select(effects, Deliver) == [Deliver(TOPIC, b"x", A)]
    # Who sent a copy meanwhile has it already.
    assert [effect.peers for effect in select(effects, SendMessage)] == [[C]]
    assert router.handle(Judged([(asked.ticket, Verdict.ACCEPT)]), 4) == []


def test_several_verdicts_at_once_are_carried_out_in_order_and_unknown_ones_passed_over():
    router = on_topic(A, B, judge=None)
    x, y, z = [router.handle(Received(A, plain(data)), 1)[0].ticket for data in (b"x", b"y", b"z")]
    verdicts = [(z, Verdict.ACCEPT), (99, Verdict.ACCEPT), (x, Verdict.REJECT), (y, Verdict.ACCEPT)]
    effects = router.handle(Judged(verdicts), 2)
    assert [effect.data for effect in select(effects, Deliver)] == [b"z", b"y"]
    assert [effect.peer for effect in select(effects, Fault)] == [A]


def test_a_late_reject_is_held_against_all_who_sent_it():
    router = on_topic(A, B, C, judge=None)
    (asked,) = router.handle(Received(A, plain(b"x")), 1)
    router.handle(Received(B, plain(b"x")), 2)
    router.handle(Judged([(asked.ticket, Verdict.REJECT)]), 3)
    assert [router.get_score(peer) < 0 for peer in (A, B, C)] == [True, True, False]


def test_waiting_verdicts_are_bounded_per_peer_and_in_all_and_expire():
    params = GossipParams(validations_per_peer_max=3, validations_max=5)
    router = on_topic(A, B, params=params, judge=None)
    asked = [router.handle(Received(A, plain(b"a%d" % i)), 1) for i in range(4)]
    asked += [router.handle(Received(B, plain(b"b%d" % i)), 1) for i in range(4)]
    assert [len(effects) for effects in asked] == [1, 1, 1, 0, 1, 1, 0, 0]
    assert router.get_counts()[TOPIC].throttled == 3
    assert router.get_sizes()["waiting"] == 5
    router.handle(Heartbeat(), 1 + params.validation_ms_max)
    assert router.get_sizes()["waiting"] == 0
    assert select(router.handle(Received(A, plain(b"a3")), 6_000), Validate)


# Mesh


def test_on_a_small_topic_the_mesh_is_everyone_at_once_and_on_a_large_one_it_has_its_degree():
    peers = [node_key(i) for i in range(40)]
    small = on_topic(*peers[:5])
    assert small.get_mesh(TOPIC) == tuple(sorted(peers[:5]))
    large = on_topic(*peers)
    large.handle(Heartbeat(), 1_000)
    assert GossipParams().degree_low <= len(large.get_mesh(TOPIC)) <= GossipParams().degree


def test_an_oversubscribed_mesh_keeps_the_best_and_enough_that_we_dialled():
    params = GossipParams()
    peers = [node_key(i) for i in range(30)]
    outbound = peers[-3:]
    router = on_topic(*peers, outbound=outbound)
    best = peers[5:9]
    for peer in best:
        router.handle(Rated(peer, 50.0), 0)
    for peer in peers:
        send_control(router, peer, write_graft(KEY), 10)
    assert len(router.get_mesh(TOPIC)) > params.degree_high
    effects = router.handle(Heartbeat(), 1_000)
    mesh = router.get_mesh(TOPIC)
    assert len(mesh) == params.degree
    assert len([peer for peer in outbound if peer in mesh]) >= params.degree_out
    assert len([peer for peer in best if peer in mesh]) >= min(len(best), params.degree - params.degree_out)
    assert control_of(effects, next(peer for peer in peers if peer not in mesh)).prune[0].backoff_s in (0, 60)


def test_a_full_mesh_turns_a_graft_away_unless_we_dialled_that_peer():
    peers = [node_key(i) for i in range(20)]
    router = on_topic(*peers, outbound=peers[-1:])
    for peer in peers[:-2]:
        send_control(router, peer, write_graft(KEY), 1)
    assert len(router.get_mesh(TOPIC)) == GossipParams().degree_high
    turned_away = next(peer for peer in peers[:-1] if peer not in router.get_mesh(TOPIC))
    effects = send_control(router, turned_away, write_graft(KEY), 2)
    assert control_of(effects, turned_away).prune == [Prune(KEY, 60)]
    assert send_control(router, peers[-1], write_graft(KEY), 3) == []
    assert peers[-1] in router.get_mesh(TOPIC)


def test_whom_all_it_dialled_turned_away_seeks_one_more_each_heartbeat_until_one_lets_it_in():
    strangers, dialled = [node_key(i) for i in range(10, 16)], [A, B]
    router = on_topic(*strangers, *dialled, outbound=dialled)
    for peer in strangers:
        send_control(router, peer, write_graft(KEY), 1)
    assert not select(router.handle(Heartbeat(), 1_000), Seek)
    send_control(router, A, write_prune(Prune(KEY, 60)), 1_001)
    assert not select(router.handle(Heartbeat(), 2_000), Seek), "there is still B"
    send_control(router, B, write_prune(Prune(KEY, 60)), 2_001)
    for second in (3, 4):
        assert select(router.handle(Heartbeat(), second * 1_000), Seek) == [Seek(TOPIC)]
    router.handle(PeerUp(C, is_outbound=True), 4_001)
    router.handle(Received(C, write_subscription(True, KEY)), 4_001)
    assert not select(router.handle(Heartbeat(), 5_000), Seek)
    assert C in router.get_mesh(TOPIC)


def test_who_has_dialled_nobody_or_nobody_on_the_topic_seeks_nothing():
    router = on_topic(A, B)
    for peer in (A, B):
        send_control(router, peer, write_prune(Prune(KEY, 60)), 1)
    router.handle(PeerUp(C, is_outbound=True), 2)
    assert not select(router.handle(Heartbeat(), 1_000), Seek)


def test_a_graft_before_its_backoff_ended_is_a_fault_and_prolongs_it():
    router = on_topic(A, B)
    send_control(router, A, write_prune(Prune(KEY, 60)), 0)
    assert A not in router.get_mesh(TOPIC)
    for i in range(3):
        effects = send_control(router, A, write_graft(KEY), 20_000 + i)
        assert control_of(effects, A).prune == [Prune(KEY, 60)]
        assert select(effects, Fault)
    assert router.get_score(A) < 0
    for second in range(21, 80):
        router.handle(Heartbeat(), second * 1_000)
        assert A not in router.get_mesh(TOPIC)


def test_a_peer_that_comes_back_before_its_backoff_ended_is_told_of_it_again_and_has_done_nothing_wrong():
    router = on_topic(A, B)
    send_control(router, A, write_prune(Prune(KEY, 10)), 0)
    for end_ms in (3_000, 3_500):
        router.handle(PeerDown(A), end_ms)
        router.handle(PeerUp(A), end_ms + 100)
        router.handle(Received(A, write_subscription(True, KEY)), end_ms + 100)
        effects = send_control(router, A, write_graft(KEY), end_ms + 200)
        assert not select(effects, Fault)
        assert control_of(effects, A).prune == [Prune(KEY, 7)], "what is left, in whole seconds"
        assert A not in router.get_mesh(TOPIC)
    assert router.get_score(A) == 0

    effects = send_control(router, A, write_graft(KEY), 3_800)

    assert select(effects, Fault), "it has been told"
    assert control_of(effects, A).prune == [Prune(KEY, 60)]


def test_a_peer_with_a_negative_score_is_pruned_and_not_grafted():
    router = on_topic(A, B)
    router.handle(Rated(A, -1.0), 1)
    effects = router.handle(Heartbeat(), 1_000)
    assert control_of(effects, A).prune == [Prune(KEY, 60)]
    effects = send_control(router, A, write_graft(KEY), 70_000)
    assert control_of(effects, A).prune == [Prune(KEY, 60)]
    assert router.get_mesh(TOPIC) == (B,)


def test_a_graft_for_an_unknown_topic_is_passed_over_in_silence():
    assert send_control(on_topic(A), A, write_graft(b"unknown"), 1) == []


def test_leaving_a_topic_prunes_with_the_shorter_backoff():
    router = on_topic(A)
    effects = router.handle(Unsubscribe(TOPIC), 1)
    assert control_of(effects, A).prune == [Prune(KEY, 10)]
    router.handle(Subscribe(TOPIC, accept), 2)
    assert router.get_mesh(TOPIC) == ()


def test_a_poor_mesh_is_improved_with_better_peers_from_outside():
    params = GossipParams(opportunistic_graft_ticks=3)
    peers = [node_key(i) for i in range(12)]
    router = on_topic(*peers, params=params)
    outside = [peer for peer in peers if peer not in router.get_mesh(TOPIC)]
    for peer in outside:
        router.handle(Rated(peer, 0.5), 1)
    size = len(router.get_mesh(TOPIC))
    for tick in range(1, 4):
        router.handle(Heartbeat(), tick * 1_000)
    assert len(router.get_mesh(TOPIC)) >= min(size + 2, params.degree)
    assert set(router.get_mesh(TOPIC)) & set(outside)


@pytest.mark.parametrize(("score", "are_let_in"), [(9.0, False), (11.0, True)])
def test_peers_of_more_than_twice_the_use_take_the_places_of_the_worst_and_no_others_do(score, are_let_in):
    params = GossipParams()
    peers = [node_key(i) for i in range(12)]
    router = on_topic(*peers, params=params)
    mesh = router.get_mesh(TOPIC)
    outside = [peer for peer in peers if peer not in mesh]
    assert len(mesh) == params.degree
    for peer in peers:
        router.handle(Rated(peer, score if peer in outside[:3] else 5.0), 1)
    for tick in range(1, params.opportunistic_graft_ticks + 1):
        router.handle(Heartbeat(), tick * 1_000)
    let_in = set(router.get_mesh(TOPIC)) & set(outside)
    assert let_in <= set(outside[:3])
    assert len(let_in) == are_let_in * params.opportunistic_graft_peers
    assert len(router.get_mesh(TOPIC)) == params.degree


def test_a_mesh_that_strangers_filled_makes_room_for_peers_we_dialled():
    params = GossipParams()
    strangers, ours = [node_key(i) for i in range(20)], [node_key(i) for i in range(20, 25)]
    router = on_topic(*strangers, params=params)
    for peer in strangers:
        send_control(router, peer, write_graft(KEY), 1)
    assert len(router.get_mesh(TOPIC)) == params.degree_high
    for peer in ours:
        router.handle(PeerUp(peer, is_outbound=True), 2)
        router.handle(Received(peer, write_subscription(True, KEY)), 2)
    router.handle(Heartbeat(), 1_000)
    mesh = router.get_mesh(TOPIC)
    assert len(set(mesh) & set(ours)) == params.degree_out
    assert len(mesh) <= params.degree_high


def test_direct_peers_get_everything_outside_the_mesh_are_always_heard_and_are_dialled():
    router = Router(GossipParams(), random.Random(1), direct=[A, C])
    router.handle(Subscribe(TOPIC, accept), 0)
    for peer in (A, B):
        router.handle(PeerUp(peer), 0)
        router.handle(Received(peer, write_subscription(True, KEY)), 0)
    router.handle(Rated(A, -1_000.0), 0)
    assert router.get_mesh(TOPIC) == (B,)
    assert select(router.handle(Received(B, plain(b"x")), 1), SendMessage)[0].peers == [A]
    assert select(router.handle(Received(A, plain(b"y")), 2), Deliver)
    assert control_of(send_control(router, A, write_graft(KEY), 3), A).prune
    assert Dial(C) in router.handle(Heartbeat(), 1_000)


def test_peer_exchange_happens_only_when_it_is_on_and_only_from_good_peers():
    body = write_prune(Prune(KEY, 60, ((ED25519_HEAD + C, b"record"),)))
    assert not select(send_control(on_topic(A), A, body, 1), Dial)
    router = on_topic(A, B, params=GossipParams(peer_exchange=True))
    assert not select(send_control(router, A, body, 1), Dial)
    router.handle(Rated(A, 100.0), 1)
    assert select(send_control(router, A, body, 2), Dial) == [Dial(C, b"record")]
    effects = router.handle(Unsubscribe(TOPIC), 3)
    assert control_of(effects, B).prune[0].peers == ((ED25519_HEAD + A, b""),)


# Lazy pull


def test_peers_outside_the_mesh_hear_what_we_have_and_get_it_when_they_ask_three_times_at_most():
    peers = [node_key(i) for i in range(20)]
    router = on_topic(*peers)
    router.handle(Received(router.get_mesh(TOPIC)[0], plain(b"x")), 1)
    effects = router.handle(Heartbeat(), 1_000)
    told = [effect.peer for effect in select(effects, SendControl) if effect.is_gossip]
    assert len(told) == GossipParams().degree_lazy
    assert not set(told) & set(router.get_mesh(TOPIC))
    key = compute_message_id(TOPIC, b"x")
    assert control_of(effects, told[0]).ihave == [(KEY, [key])]
    answers = [len(send_control(router, told[0], write_iwant([key] * 50), 1_001)) for _ in range(5)]
    assert answers == [1, 1, 1, 0, 0]


def test_who_is_below_the_gossip_threshold_hears_of_no_messages():
    router = on_topic(A, B)
    for peer in (A, B):
        send_control(router, peer, write_prune(Prune(KEY, 60)), 0)
    router.handle(Rated(A, ScoreParams().gossip_threshold - 1), 1)
    router.handle(Publish(TOPIC, b"x"), 1)
    effects = router.handle(Heartbeat(), 1_000)
    assert [bool(control_of(effects, peer).ihave) for peer in (A, B)] == [False, True]


def test_a_message_is_forgotten_after_its_windows():
    params = GossipParams()
    router = on_topic(A)
    router.handle(Received(A, plain(b"x")), 1)
    for tick in range(params.history_length):
        assert router.get_sizes()["cache_messages"] == 1
        router.handle(Heartbeat(), 1_000 * (tick + 1))
    assert router.get_sizes()["cache_messages"] == router.get_sizes()["cache_bytes"] == 0


def test_answers_to_one_peer_are_bounded_in_bytes():
    params = GossipParams(resend_bytes_max=100_000)
    router = on_topic(A, B, params=params)
    data = [bytes([i]) * 10_000 for i in range(50)]
    for one in data:
        router.handle(Received(A, plain(one)), 1)
    effects = send_control(router, B, write_iwant([compute_message_id(TOPIC, one) for one in data]), 2)
    assert 100_000 <= sum(len(effect.packet) for effect in effects) <= 120_000


def test_unknown_ids_are_asked_for_within_the_caps():
    params = GossipParams()
    router = on_topic(A, B, C)
    asked = []
    for i in range(20):
        keys = [b"%d-%d" % (i, j) for j in range(1_000)]
        asked.append(sum(map(len, control_of(send_control(router, A, write_ihave(KEY, keys), 1), A).iwant)))
    assert asked == [1_000] * 5 + [0] * 15
    many = [b"%d" % i for i in range(params.ihave_ids_max)]
    at_once = [send_control(router, B, write_ihave(KEY, some), 1) for some in (many[:10], many)]
    assert [len(control_of(effects, B).iwant[0]) for effects in at_once] == [10, params.ihave_ids_max - 10]
    few = [send_control(router, C, write_ihave(KEY, [b"%d few" % i]), 1) for i in range(20)]
    assert [bool(effects) for effects in few] == [True] * params.ihave_messages_max + [False] * 10
    router.handle(Heartbeat(), 1_000)
    assert control_of(send_control(router, A, write_ihave(KEY, [b"again"]), 1_001), A).iwant == [[b"again"]]


def test_what_was_promised_and_does_not_come_is_held_against_the_promiser():
    router = on_topic(A, B)
    for i in range(10):
        send_control(router, A, write_ihave(KEY, [compute_message_id(TOPIC, b"never %d" % i)]), 1)
        send_control(router, B, write_ihave(KEY, [compute_message_id(TOPIC, b"comes %d" % i)]), 1)
    for i in range(10):
        router.handle(Received(A, plain(b"comes %d" % i)), 100)
    router.handle(Heartbeat(), 1_000)
    assert router.get_score(A) >= 0
    router.handle(Heartbeat(), 4_000)
    assert router.get_score(A) < ScoreParams().graylist_threshold
    assert router.get_score(B) >= 0
    assert router.get_sizes()["promises"] == 0


def count_asked(router, peer, now_ms):
    """Ids that are asked for when a peer advertises as many as anybody may, none of them met before."""
    some = [b"%d-%d" % (now_ms, i) for i in range(GossipParams().ihave_ids_max)]
    return sum(map(len, control_of(send_control(router, peer, write_ihave(KEY, some), now_ms), peer).iwant))


def test_who_broke_a_promise_lately_is_asked_for_a_quarter_as_much_until_that_has_faded():
    whole = GossipParams().ihave_ids_max
    router = on_topic(A, B)
    send_control(router, A, write_ihave(KEY, [b"never comes"]), 1)
    for second in range(1, 5):
        router.handle(Heartbeat(), 1_000 * second)
    assert (count_asked(router, A, 4_001), count_asked(router, B, 4_001)) == (whole // 4, whole)
    for second in range(5, 9):
        router.handle(Heartbeat(), 1_000 * second)
    assert count_asked(router, A, 8_001) == whole // 16, "a second one is due"
    for second in range(9, 200):
        router.handle(Heartbeat(), 1_000 * second)
    assert count_asked(router, A, 200_000) == whole
    assert router.get_score(A) >= 0, "nobody is blamed for so few"


def test_gossip_of_a_peer_below_the_threshold_is_ignored():
    router = on_topic(A, B)
    router.handle(Received(B, plain(b"x")), 1)
    router.handle(Rated(A, ScoreParams().gossip_threshold - 1), 1)
    assert send_control(router, A, write_ihave(KEY, [b"k"]), 2) == []
    assert send_control(router, A, write_iwant([compute_message_id(TOPIC, b"x")]), 2) == []
    assert send_control(router, B, write_iwant([compute_message_id(TOPIC, b"x")]), 2)


def test_idontwant_is_off_unless_asked_for_and_then_spares_a_copy():
    key = compute_message_id(TOPIC, b"x" * 2_000)
    router = on_topic(A, B, C)
    send_control(router, B, write_idontwant([key]), 1)
    assert B in select(router.handle(Received(A, plain(b"x" * 2_000)), 2), SendMessage)[0].peers
    router = lone_router(GossipParams(idontwant_bytes_min=1_024))
    router.handle(Subscribe(TOPIC, accept), 0)
    for peer in (A, B, C):
        router.handle(PeerUp(peer, speaks_v12=True), 0)
        router.handle(Received(peer, write_subscription(True, KEY)), 0)
    send_control(router, B, write_idontwant([key]), 1)
    effects = router.handle(Received(A, plain(b"x" * 2_000)), 2)
    assert select(effects, SendMessage)[0].peers == [C]
    assert control_of(effects, C).idontwant == [[key]]


# Signed topics


def signed_router(index):
    private = PrivateKey(bytes([index]) * 32)
    router = Router(GossipParams(), random.Random(index), Author(private.public, private.sign, seqno=7))
    router.handle(Subscribe(TOPIC, accept, SIGNED), 0)
    return private.public, router


def test_a_signed_message_is_checked_delivered_and_forwarded_as_it_came():
    author, first = signed_router(1)
    _, second = signed_router(2)
    for router, peers in ((first, (A,)), (second, (A, B, author))):
        for peer in peers:
            router.handle(PeerUp(peer), 0)
            router.handle(Received(peer, write_subscription(True, KEY)), 0)
    (sent,) = first.handle(Publish(TOPIC, b"x"), 1)
    effects = second.handle(Received(A, sent.packet), 2)
    assert select(effects, Deliver) == [Deliver(TOPIC, b"x", A)]
    assert [(effect.peers, effect.packet) for effect in select(effects, SendMessage)] == [([B], sent.packet)]
    assert select(first.handle(Received(A, sent.packet), 3), Deliver) == []
    assert first.get_score(A) == 0


def test_a_forged_copy_cannot_silence_the_honest_message():
    _, first = signed_router(1)
    _, second = signed_router(2)
    first.handle(PeerUp(A), 0)
    first.handle(Received(A, write_subscription(True, KEY)), 0)
    for peer in (A, B):
        second.handle(PeerUp(peer), 0)
    (sent,) = first.handle(Publish(TOPIC, b"x"), 1)
    message = read_slice(sent.packet, 0, 1, 1 << 20, {}).messages[0][0]
    for forged in (message._replace(data=b"y"), message._replace(signature=bytes(64)), message._replace(key=b"junk")):
        assert not select(second.handle(Received(B, write_message(forged)), 2), Deliver)
    assert second.get_score(B) < 0
    assert select(second.handle(Received(A, sent.packet), 3), Deliver)


@pytest.mark.parametrize("absent", ["from_id", "seqno", "signature"])
def test_on_a_signed_topic_author_number_and_signature_must_be_there(absent):
    _, first = signed_router(1)
    first.handle(PeerUp(A), 0)
    first.handle(Received(A, write_subscription(True, KEY)), 0)
    (sent,) = first.handle(Publish(TOPIC, b"x"), 1)
    message = read_slice(sent.packet, 0, 1, 1 << 20, {}).messages[0][0]._replace(**{absent: None})
    _, second = signed_router(2)
    second.handle(PeerUp(A), 0)
    assert not select(second.handle(Received(A, write_message(message)), 2), Deliver)
    assert second.get_score(A) < 0


def test_on_an_unsigned_topic_a_named_author_is_a_fault():
    router = on_topic(A)
    assert not select(router.handle(Received(A, write_message(Message(KEY, b"x", b"me"))), 1), Deliver)
    assert router.get_score(A) < 0


def test_authors_of_other_key_kinds_are_ignored_without_blame():
    _, router = signed_router(1)
    router.handle(PeerUp(A), 0)
    message = Message(KEY, b"x", b"\x12\x20" + bytes(32), bytes(8), bytes(64), b"rsa")
    assert router.handle(Received(A, write_message(message)), 1) == []
    assert router.get_score(A) == 0


# Misuse


def test_our_own_mistakes_are_told():
    router = lone_router()
    with pytest.raises(LocalError):
        router.handle(Publish(TOPIC, bytes(64 * 1024 + 1)), 0)
    with pytest.raises(LocalError):
        router.handle(Publish(TOPIC, b"", SIGNED), 0)
    with pytest.raises(LocalError):
        router.handle(Subscribe("x" * 200, accept), 0)
    with pytest.raises(LocalError):
        GossipParams(degree_out=4)
    with pytest.raises(LocalError):
        ScoreParams(graylist_threshold=-1)


def test_events_of_unknown_peers_change_nothing():
    router = lone_router()
    for event in (PeerDown(A), StreamEnded(A), StreamRenewed(A), Received(A, b"\xff"), Resumed(A), Blamed(A)):
        assert router.handle(event, 0) == []
    assert set(router.get_sizes().values()) == {0}


# Many together


def test_two_routers_agree():
    network = FakeNetwork(2)
    network.connect_all()
    network.subscribe()
    network.run(50)
    for i in range(100):
        network.publish(i % 2, b"%d" % i)
        network.run(3)
    network.run(100)
    a, b = network.nodes
    assert sorted(a.received() + b.received()) == sorted(b"%d" % i for i in range(100))
    assert a.router.get_mesh(TOPIC) == (b.key,)
    assert b.router.get_mesh(TOPIC) == (a.key,)


def test_sixty_nodes_hear_everything_once_over_several_hops():
    network = FakeNetwork(60)
    network.connect_degree(12, random.Random(5))
    network.subscribe()
    network.run(5_000)
    for i in range(50):
        network.publish(i % 60, b"%d" % i)
        network.run(20)
    network.run(500)
    for index, node in enumerate(network.nodes):
        expected = sorted(b"%d" % i for i in range(50) if i % 60 != index)
        assert sorted(node.received()) == expected
        assert not node.faults


def test_what_the_mesh_loses_is_pulled():
    network = FakeNetwork(30)
    network.connect_degree(12, random.Random(5))
    network.subscribe()
    network.run(5_000)
    dice = random.Random(9)
    network.lose = lambda sender, receiver: dice.random() < 0.3
    for i in range(40):
        network.publish(i % 30, b"%d" % i)
        network.run(50)
    network.run(4_000)
    assert [len(node.delivered) for node in network.nodes] == [38] * 10 + [39] * 20


def test_the_same_seed_makes_the_same_trace_and_another_seed_another():
    def trace(seed):
        network = FakeNetwork(25, seed=seed)
        network.connect_degree(20, random.Random(5))
        network.subscribe()
        for i in range(20):
            network.run(300)
            network.publish(i, b"%d" % i)
        return network.trace.hexdigest()

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def test_verdicts_that_take_their_time_reach_everyone_too():
    network = FakeNetwork(20, judge_delay_ms=30)
    network.connect_degree(8, random.Random(5))
    network.subscribe(judge=None)
    network.run(3_000)
    for i in range(20):
        network.publish(i, b"%d" % i)
    network.run(2_000)
    assert [len(node.delivered) for node in network.nodes] == [19] * 20


@pytest.mark.parametrize("others", [1, 3, 5, 6])
def test_on_a_topic_with_no_more_peers_than_the_degree_all_of_them_are_the_mesh(others):
    """PROTOCOL: the mesh degree is min(D, subscribers)."""
    peers = [node_key(number) for number in range(1, others + 1)]
    router = on_topic(*peers, params=GossipParams(degree=6, degree_low=4))
    assert router.get_mesh(TOPIC) == tuple(sorted(peers))

    send_control(router, peers[0], write_prune(Prune(KEY, 1, ())), 1_000)
    assert len(router.get_mesh(TOPIC)) == others - 1
    for beat in range(10):
        router.handle(Heartbeat(), 2_000 + 1_000 * beat)

    assert router.get_mesh(TOPIC) == tuple(sorted(peers))
