"""What waits for one peer: who makes room for whom, what is counted, and what one packet holds."""

import pytest

from p2p.gossipsub import TopicCounts
from p2p.gossipsub.wire import Framer
from p2p.outbox import (
    BYTES_MAX,
    CONTROL_BYTES_MAX,
    GOSSIP_BYTES_MAX,
    MESSAGES_MAX,
    PRIORITIES,
    WRITE_BYTES_MAX,
    Outbox,
)


def fill(outbox, priority, count=MESSAGES_MAX, counts=None):
    """Queue so many messages, `<number>` each."""
    for number in range(count):
        assert outbox.push((b"<%d>" % number, counts or TopicCounts()), priority)


def take_all(outbox):
    """All packets there are, without their lengths."""
    framer, packets = Framer(), []
    while outbox.is_waiting:
        packets += framer.feed(outbox.produce(10**9))
    return packets


def test_the_least_urgent_makes_room_first_and_of_that_the_newest():
    outbox = Outbox()
    counts = [TopicCounts() for _ in range(PRIORITIES)]
    fill(outbox, 1, MESSAGES_MAX - 4, counts[1])
    fill(outbox, 2, 2, counts[2])
    fill(outbox, 3, 2, counts[3])
    for expected in ([0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 1, 2], [0, 0, 2, 2], [0, 1, 2, 2]):
        assert outbox.push((b"vote", counts[0]), 0)
        assert [each.dropped for each in counts] == expected
    left = b"".join(take_all(outbox))
    assert b"<%d>" % (MESSAGES_MAX - 5) not in left, "the newest of its kind went"
    assert left.count(b"<0>") == 1
    assert left.startswith(b"vote" * 5 + b"<0><1>")


def test_nothing_makes_room_for_what_is_no_more_urgent():
    outbox, counts = Outbox(), TopicCounts()
    fill(outbox, 1, counts=counts)
    for priority in (1, 2, 3):
        assert not outbox.push((b"too late", TopicCounts()), priority)
    assert counts.dropped == 0
    assert b"too late" not in b"".join(take_all(outbox))


@pytest.mark.parametrize(("is_gossip", "limit"), [(True, GOSSIP_BYTES_MAX), (False, CONTROL_BYTES_MAX)])
def test_control_is_bounded_and_gossip_about_messages_sooner(is_gossip, limit):
    outbox = Outbox()
    body = bytes(1_000)
    pushed = 0
    while outbox.push_control(body, is_gossip):
        pushed += 1
    assert pushed == limit // len(body)
    assert outbox.push_control(body, is_gossip=False) == is_gossip, "a GRAFT finds room where an IHAVE does not"


def test_subscriptions_are_bounded_for_a_peer_that_does_not_read():
    outbox = Outbox()
    pushed = 0
    while outbox.push_subscriptions(bytes(1_000)):
        pushed += 1
    assert pushed == CONTROL_BYTES_MAX // 1_000


def test_many_small_messages_leave_in_one_packet_and_no_packet_is_larger_than_others_take():
    outbox = Outbox()
    fill(outbox, 1, 1_000)
    assert len(take_all(outbox)) == 1
    size = 10_000
    for _ in range(BYTES_MAX // size):
        assert outbox.push((bytes(size), TopicCounts()), 1)
    packets = take_all(outbox)
    assert max(map(len, packets)) <= WRITE_BYTES_MAX
    assert min(map(len, packets[:-1])) > WRITE_BYTES_MAX - size
    assert outbox.push((bytes(2 * WRITE_BYTES_MAX), TopicCounts()), 1)
    assert list(map(len, take_all(outbox))) == [2 * WRITE_BYTES_MAX], "one larger message goes alone"


def test_on_a_new_stream_nothing_is_sent_from_the_middle_and_no_control_of_the_old_one():
    outbox = Outbox()
    outbox.push_subscriptions(b"subscription")
    assert outbox.push((b"begun on the old stream", TopicCounts()), 1)
    assert len(outbox.produce(10)) == 10
    outbox.push_subscriptions(b"of the old stream")
    outbox.push_control(b"of the old stream", is_gossip=False)
    assert outbox.push((b"waiting", TopicCounts()), 1)
    outbox.clear()
    assert take_all(outbox) == [b"waiting"]


def test_what_is_less_urgent_does_not_overtake_what_did_not_fit_into_a_packet():
    outbox = Outbox()
    for data in (b"1" * 40_000, b"2" * 40_000):
        assert outbox.push((data, TopicCounts()), 0)
    assert outbox.push((b"chatter", TopicCounts()), 3)
    packets = take_all(outbox)
    assert [b"chatter" in packet for packet in packets] == [False, True]
