"""What only an attacker sends is graylisted within one packet; the most that an honest implementation sends is not."""

import struct

import pytest

from p2p.gossipsub import GossipParams, Heartbeat, PeerUp, Publish, Received, Resumed, ScoreParams, Subscribe
from p2p.gossipsub.events import Continue
from p2p.gossipsub.signing import compute_message_id
from p2p.gossipsub.wire import (
    IDS_MAX,
    LOOKS_MAX,
    Prune,
    read_slice,
    wrap_control,
    write_graft,
    write_ihave,
    write_iwant,
    write_prune,
    write_subscription,
)
from p2p.protobuf import write_bytes
from tests.p2p.gossipsub.fake_network import TOPIC, accept, lone_router, node_key

KEY = TOPIC.encode()
PEER = node_key(1)
GRAYLISTED = ScoreParams().graylist_threshold


def make_router():
    router = lone_router()
    router.handle(Subscribe(TOPIC, accept), 0)
    router.handle(PeerUp(PEER), 0)
    return router


def send(router, packet, now_ms=0):
    effects = router.handle(Received(PEER, packet), now_ms)
    while effects and isinstance(effects[-1], Continue):
        effects = router.handle(Resumed(PEER), now_ms)


def make_ids(count):
    return [struct.pack("!Q12x", i) for i in range(count)]


@pytest.mark.parametrize("write", [lambda ids: write_ihave(KEY, ids), write_iwant], ids=["IHAVE", "IWANT"])
def test_a_list_of_ids_much_longer_than_any_implementation_sends_is_graylisted_at_once(write):
    router = make_router()
    send(router, wrap_control(write(make_ids(IDS_MAX))))
    assert router.get_score(PEER) >= 0
    send(router, wrap_control(write(make_ids(4 * IDS_MAX))))
    assert router.get_score(PEER) < GRAYLISTED


def test_asking_once_per_advertisement_is_fine_and_asking_thousands_of_times_is_graylisted():
    router = make_router()
    router.handle(Publish(TOPIC, b"x"), 0)
    wanted = compute_message_id(TOPIC, b"x")
    for beat in range(GossipParams().history_length):
        send(router, wrap_control(write_iwant([wanted])), 1_000 * beat)
        router.handle(Heartbeat(), 1_000 * beat)
    assert router.get_score(PEER) >= 0
    send(router, wrap_control(write_iwant([wanted] * IDS_MAX)), 9_000)
    assert router.get_score(PEER) < GRAYLISTED


def test_a_thousand_topics_are_fine_and_going_on_and_off_for_ever_is_graylisted():
    router = make_router()
    send(router, b"".join(write_subscription(True, b"%d" % i) for i in range(1_000)))
    assert router.get_score(PEER) >= 0
    send(router, (write_subscription(True, KEY) + write_subscription(False, KEY)) * 2_000)
    assert router.get_score(PEER) < GRAYLISTED


@pytest.mark.parametrize(
    "body",
    [
        write_bytes(1, write_bytes(1, KEY) + b"\x1a\x00" * 5_000),
        write_bytes(2, b"\x1a\x00" * 5_000),
        write_bytes(3, b"\x12\x00" * 5_000),
        write_bytes(4, (b"\x12\x40" + b"\x1a\x00" * 32) * 16),
        write_graft(KEY),
        write_prune(Prune(KEY, 60, ((b"p", b""),) * 16)),
    ],
    ids=["IHAVE", "IWANT", "GRAFT", "PRUNE with peers", "GRAFTs", "PRUNEs"],
)
def test_a_slice_looks_at_no_more_fields_than_its_share_whatever_they_hold(body):
    control = wrap_control(body * (20_000 // len(body) + 1))
    packet = control * (500_000 // len(control))
    at = slices = 0
    while at is not None:
        part = read_slice(packet, at, 32, 256 * 1024, {})
        assert sum(each.looks for each in part.controls) < 2 * LOOKS_MAX
        at, slices = part.next_at, slices + 1
    assert slices > 1
