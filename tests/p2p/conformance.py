"""What every `p2p.net.Net` must do, written against a harness, so that libp2p and the simulator answer to one suite.

An implementation joins by a class with these methods, named in `HARNESSES` of `test_conformance.py` as
"module:Class" and made without arguments:

    make_nets(count, pairs=None) -> list[Member]
        `count` started nets. Each pair (i, j) of indices in `pairs` has been told each other's addresses with `learn`,
        nobody else has; None means all pairs. Called once. A Member has `net` (a Net) and `events` (a list to which
        the net's sink appends).
    run_until(predicate, timeout_ms) -> bool
        Let the network run until predicate() holds; False when it still does not after timeout_ms (of virtual time,
        for a simulator). The predicate calls methods of nets and reads events.
    stop(i), start_again(i)
        End net i as a process that dies would; make it anew with the same key, at the same address, with the same
        pairs told. After `start_again`, `members[i].net` is the new one and `members[i].events` goes on.
    close()

All calls come from one thread, in order. Nets are called between runs only, never while `run_until` runs. Subscribing
after `make_nets` and before any `run_until` must work.

What the seam leaves open and this suite decides: to publish more than GOSSIP_BYTES_MAX is the caller's mistake and
raises LocalError; a request that is too large ends in `Unanswered`, as does one whose answer is too large.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from p2p.net import (
    GOSSIP_BYTES_MAX,
    STREAM_BYTES_MAX,
    Answered,
    Asked,
    Delivered,
    Net,
    NetEvent,
    PeerConnected,
    PeerDisconnected,
    Published,
    Unanswered,
)
from protocol.errors import LocalError
from protocol.keys import PrivateKey
from protocol.types import Unproven, Verdict

TOPIC = "/rolemesh/00/claims/1"
OTHER = "/rolemesh/00/proofs/1"
STREAM = "/rolemesh/00/blob/1"
PATIENCE_MS = 10_000


@dataclass
class Member:
    """One net and what it has reported so far."""

    net: Net
    events: list[NetEvent] = field(default_factory=list)


class Harness(Protocol):
    """See the top of this file."""

    members: list[Member]

    def make_nets(self, count: int, pairs: list[tuple[int, int]] | None = None) -> list[Member]: ...

    def run_until(self, predicate: Callable[[], bool], timeout_ms: int) -> bool: ...

    def stop(self, index: int) -> None: ...

    def start_again(self, index: int) -> None: ...

    def close(self) -> None: ...


def accept(topic: str, data: bytes, forwarder: bytes) -> Verdict:
    return Verdict.ACCEPT


def ignore(topic: str, data: bytes, forwarder: bytes) -> Verdict:
    return Verdict.IGNORE


def reject(topic: str, data: bytes, forwarder: bytes) -> Verdict:
    return Verdict.REJECT


AUTHOR = PrivateKey(b"a" * 32)


def leave_open(topic: str, data: bytes, forwarder: bytes) -> Unproven:
    """The first 64 bytes are the author's signature of the others, which the network is to verify."""
    return Unproven(AUTHOR.public, data[64:], data[:64], lambda good: Verdict.ACCEPT if good else Verdict.REJECT)


def select(member: Member, kind: type) -> list[Any]:
    return [event for event in member.events if type(event) is kind]


def received(member: Member) -> list[bytes]:
    return [event.data for event in select(member, Delivered)]


def settle(harness: Harness, predicate: Callable[[], bool]) -> None:
    assert harness.run_until(predicate, PATIENCE_MS), [member.events for member in harness.members]


def subscribe_all(harness: Harness, members: list[Member], neighbours: list[int] | None = None) -> None:
    """Everyone on TOPIC, and everyone knows that of as many as it is connected to."""
    for member in members:
        member.net.subscribe(TOPIC, accept)
    expected = neighbours or [len(members) - 1] * len(members)
    settle(
        harness,
        lambda: [len(member.net.subscribers(TOPIC)) for member in members] == expected,
    )


def outcomes(member: Member, token: str) -> list[Answered | Unanswered]:
    return [event for event in member.events if isinstance(event, Answered | Unanswered) and event.token == token]


class NetConformance:
    """The cases. A subclass provides the fixture `harness`."""

    def test_a_publish_reaches_every_other_subscriber_once_and_nobody_else(self, harness: Harness) -> None:
        members = harness.make_nets(4)
        a, b, c, outsider = members
        outsider.net.subscribe(OTHER, accept)
        for member in (a, b, c):
            member.net.subscribe(TOPIC, accept)
        settle(harness, lambda: all(len(member.net.subscribers(TOPIC)) == 2 for member in (a, b, c)))
        for i in range(20):
            a.net.publish(TOPIC, b"claim %d" % i, f"p{i}")
        b.net.publish(TOPIC, b"last", "last")
        settle(harness, lambda: len(received(b)) == 20 and len(received(c)) == 21 and len(received(a)) == 1)
        assert sorted(received(b)) == sorted(b"claim %d" % i for i in range(20))
        assert received(a) == [b"last"]
        assert received(outsider) == []
        assert {event.topic for event in select(b, Delivered)} == {TOPIC}
        assert {event.forwarder for event in select(b, Delivered)} <= {a.net.node, c.net.node}

    def test_a_signature_left_open_is_verified_before_a_message_is_delivered_or_passed_on(
        self, harness: Harness
    ) -> None:
        members = a, b, c = harness.make_nets(3, [(0, 1), (1, 2)])
        subscribe_all(harness, members, [1, 2, 1])
        for member in (b, c):
            member.net.subscribe(TOPIC, leave_open)
        # More at once than may wait for their verdicts: none of them is lost for that.
        honest = [AUTHOR.sign(b"%d" % number) + b"%d" % number for number in range(700)]
        for data in honest:
            a.net.publish(TOPIC, data, "")
        a.net.publish(TOPIC, bytes(64) + b"forged", "")
        settle(harness, lambda: len(received(c)) == len(honest))
        assert sorted(received(b)) == sorted(received(c)) == sorted(honest)

    def test_who_is_not_on_a_topic_may_publish_to_it(self, harness: Harness) -> None:
        a, b = harness.make_nets(2)
        b.net.subscribe(TOPIC, accept)
        settle(harness, lambda: a.net.subscribers(TOPIC) == (b.net.node,))
        a.net.publish(TOPIC, b"x", "p")
        settle(harness, lambda: received(b) == [b"x"])

    def test_published_says_how_many_peers_a_message_was_queued_for(self, harness: Harness) -> None:
        members = harness.make_nets(3)
        members[0].net.publish(TOPIC, b"nobody is on this yet", "none")
        subscribe_all(harness, members)
        members[0].net.publish(TOPIC, b"two are", "two")
        settle(harness, lambda: len(select(members[0], Published)) == 2)
        assert select(members[0], Published) == [Published("none", TOPIC, 0), Published("two", TOPIC, 2)]

    def test_two_publishes_of_the_same_bytes_are_one_message(self, harness: Harness) -> None:
        members = harness.make_nets(3)
        subscribe_all(harness, members)
        for data in (b"same", b"same", b"other"):
            members[0].net.publish(TOPIC, data, data.decode())
        settle(harness, lambda: all(b"other" in received(member) for member in members[1:]))
        settle(harness, lambda: all(b"same" in received(member) for member in members[1:]))
        assert [sorted(received(member)) for member in members[1:]] == [[b"other", b"same"]] * 2

    def test_the_same_bytes_on_two_topics_are_two_messages(self, harness: Harness) -> None:
        a, b = harness.make_nets(2)
        for topic in (TOPIC, OTHER):
            b.net.subscribe(topic, accept)
        settle(harness, lambda: all(a.net.subscribers(topic) for topic in (TOPIC, OTHER)))
        for topic in (TOPIC, OTHER):
            a.net.publish(topic, b"same", topic)
        settle(harness, lambda: len(received(b)) == 2)
        assert {event.topic for event in select(b, Delivered)} == {TOPIC, OTHER}

    def test_what_is_accepted_is_forwarded_along_a_line(self, harness: Harness) -> None:
        members = harness.make_nets(3, [(0, 1), (1, 2)])
        subscribe_all(harness, members, [1, 2, 1])
        members[0].net.publish(TOPIC, b"pass it on", "p")
        settle(harness, lambda: received(members[2]) == [b"pass it on"])
        assert select(members[2], Delivered)[0].forwarder == members[1].net.node
        assert received(members[0]) == []

    @pytest.mark.parametrize("check", [ignore, reject])
    def test_what_is_not_accepted_is_neither_delivered_nor_forwarded(self, harness: Harness, check: Any) -> None:
        members = harness.make_nets(3, [(0, 1), (1, 2)])
        subscribe_all(harness, members, [1, 2, 1])
        judged: list[bytes] = []

        def judge(topic: str, data: bytes, forwarder: bytes) -> Verdict:
            judged.append(data)
            return check(topic, data, forwarder) if data == b"bad" else Verdict.ACCEPT

        members[1].net.subscribe(TOPIC, judge)
        members[0].net.publish(TOPIC, b"bad", "bad")
        members[0].net.publish(TOPIC, b"good", "good")
        settle(harness, lambda: received(members[2]) == [b"good"])
        assert judged == [b"bad", b"good"]
        assert received(members[1]) == [b"good"]

    def test_what_a_peer_keeps_sending_against_the_rules_of_a_topic_costs_it_the_connection(
        self, harness: Harness
    ) -> None:
        a, b = harness.make_nets(2)
        a.net.subscribe(TOPIC, accept)
        b.net.subscribe(TOPIC, reject)
        settle(harness, lambda: a.net.subscribers(TOPIC) == (b.net.node,))
        for i in range(40):
            a.net.publish(TOPIC, b"refused %d" % i, f"p{i}")
        settle(harness, lambda: select(b, PeerDisconnected) == [PeerDisconnected(a.net.node)])
        assert received(b) == []

    def test_what_a_check_ignores_is_nobodys_fault(self, harness: Harness) -> None:
        a, b = harness.make_nets(2)
        a.net.subscribe(TOPIC, accept)
        b.net.subscribe(TOPIC, ignore)
        b.net.subscribe(OTHER, accept)
        settle(harness, lambda: a.net.subscribers(TOPIC) == a.net.subscribers(OTHER) == (b.net.node,))
        for i in range(200):
            a.net.publish(TOPIC, b"late %d" % i, f"p{i}")
        a.net.publish(OTHER, b"welcome", "w")
        settle(harness, lambda: received(b) == [b"welcome"])
        assert select(b, PeerDisconnected) == []

    def test_everyone_hears_everything_once_though_nobody_knows_more_than_a_few(self, harness: Harness) -> None:
        # A ring with chords: three to four links each, so that most of it comes through the mesh of others.
        count, messages = 9, 20
        pairs = sorted({(min(i, j), max(i, j)) for i in range(count) for j in ((i + 1) % count, (i + 3) % count)})
        members = harness.make_nets(count, pairs)
        subscribe_all(harness, members, [sum(i in pair for pair in pairs) for i in range(count)])
        for i in range(messages):
            members[i % count].net.publish(TOPIC, b"number %d" % i, f"p{i}")
        for i, member in enumerate(members):
            expected = sorted(b"number %d" % j for j in range(messages) if j % count != i)
            settle(harness, lambda member=member, expected=expected: sorted(received(member)) == expected)

    def test_a_message_for_nobody_reaches_nobody_later_either(self, harness: Harness) -> None:
        a, b = harness.make_nets(2)
        settle(harness, lambda: a.net.peers() == (b.net.node,))
        a.net.publish(TOPIC, b"too early", "p")
        settle(harness, lambda: select(a, Published) == [Published("p", TOPIC, 0)])
        b.net.subscribe(TOPIC, accept)
        settle(harness, lambda: a.net.subscribers(TOPIC) == (b.net.node,))
        a.net.publish(TOPIC, b"in time", "q")
        settle(harness, lambda: b"in time" in received(b))
        assert received(b) == [b"in time"]

    def test_after_unsubscribing_nothing_is_delivered(self, harness: Harness) -> None:
        members = harness.make_nets(3)
        subscribe_all(harness, members)
        members[2].net.unsubscribe(TOPIC)
        settle(harness, lambda: all(members[2].net.node not in member.net.subscribers(TOPIC) for member in members[:2]))
        members[0].net.publish(TOPIC, b"without you", "p")
        settle(harness, lambda: received(members[1]) == [b"without you"])
        assert received(members[2]) == []
        members[2].net.subscribe(TOPIC, accept)
        settle(harness, lambda: members[2].net.node in members[0].net.subscribers(TOPIC))
        members[0].net.publish(TOPIC, b"with you", "q")
        settle(harness, lambda: received(members[2]) == [b"with you"])

    def test_the_largest_message_arrives_and_one_byte_more_is_the_callers_mistake(self, harness: Harness) -> None:
        members = harness.make_nets(2)
        subscribe_all(harness, members)
        with pytest.raises(LocalError):
            members[0].net.publish(TOPIC, bytes(GOSSIP_BYTES_MAX + 1), "over")
        members[0].net.publish(TOPIC, bytes(GOSSIP_BYTES_MAX), "whole")
        settle(harness, lambda: received(members[1]) == [bytes(GOSSIP_BYTES_MAX)])

    def test_a_request_is_answered_with_its_token(self, harness: Harness) -> None:
        a, b = harness.make_nets(2)
        b.net.serve(STREAM)
        settle(harness, lambda: b.net.node in a.net.peers())
        a.net.request(b.net.node, STREAM, b"question", "r", 5_000)
        settle(harness, lambda: bool(select(b, Asked)))
        asked = select(b, Asked)[0]
        assert (asked.protocol, asked.peer, asked.data) == (STREAM, a.net.node, b"question")
        b.net.reply(asked.token, b"answer")
        b.net.reply(asked.token, b"again")
        settle(harness, lambda: bool(outcomes(a, "r")))
        assert outcomes(a, "r") == [Answered("r", b"answer")]

    def test_many_requests_at_once_each_get_their_own_answer(self, harness: Harness) -> None:
        a, b = harness.make_nets(2)
        for member in (a, b):
            member.net.serve(STREAM)
        settle(harness, lambda: b.net.node in a.net.peers())
        for i in range(20):
            a.net.request(b.net.node, STREAM, b"%d" % i, f"a{i}", 5_000)
            b.net.request(a.net.node, STREAM, b"%d" % i, f"b{i}", 5_000)
        settle(harness, lambda: len(select(a, Asked)) == len(select(b, Asked)) == 20)
        for member in (a, b):
            for asked in reversed(select(member, Asked)):
                member.net.reply(asked.token, b"re " + asked.data)
        settle(harness, lambda: len(select(a, Answered)) == len(select(b, Answered)) == 20)
        for member, name in ((a, "a"), (b, "b")):
            assert {event.token: event.data for event in select(member, Answered)} == {
                f"{name}{i}": b"re %d" % i for i in range(20)
            }

    def test_the_largest_question_and_answer_arrive_whole(self, harness: Harness) -> None:
        a, b = harness.make_nets(2)
        b.net.serve(STREAM)
        a.net.request(b.net.node, STREAM, b"q" * STREAM_BYTES_MAX, "r", 10_000)
        settle(harness, lambda: bool(select(b, Asked)))
        assert select(b, Asked)[0].data == b"q" * STREAM_BYTES_MAX
        b.net.reply(select(b, Asked)[0].token, b"a" * STREAM_BYTES_MAX)
        settle(harness, lambda: bool(outcomes(a, "r")))
        assert outcomes(a, "r") == [Answered("r", b"a" * STREAM_BYTES_MAX)]

    def test_a_request_that_cannot_be_answered_says_so_once(self, harness: Harness) -> None:
        a, b = harness.make_nets(2)
        b.net.serve(STREAM)
        settle(harness, lambda: b.net.node in a.net.peers())
        a.net.request(bytes([7]) * 32, STREAM, b"", "nobody", 5_000)
        a.net.request(a.net.node, STREAM, b"", "ourselves", 5_000)
        a.net.request(b.net.node, OTHER, b"", "not served", 5_000)
        a.net.request(b.net.node, STREAM, bytes(STREAM_BYTES_MAX + 1), "too large", 5_000)
        a.net.request(b.net.node, STREAM, b"", "no answer", 200)
        a.net.request(b.net.node, STREAM, b"answer too much", "answer too large", 5_000)
        tokens = ["nobody", "ourselves", "not served", "too large", "no answer", "answer too large"]
        settle(harness, lambda: len(select(b, Asked)) == 2)
        slow, large = select(b, Asked)
        b.net.reply(large.token, bytes(STREAM_BYTES_MAX + 1))
        settle(harness, lambda: all(outcomes(a, token) for token in tokens))
        # The late answer changes nothing; the next request shows that it has had its time to arrive.
        b.net.reply(slow.token, b"late")
        a.net.request(b.net.node, STREAM, b"", "after", 5_000)
        settle(harness, lambda: len(select(b, Asked)) == 3)
        b.net.reply(select(b, Asked)[2].token, b"in time")
        settle(harness, lambda: bool(outcomes(a, "after")))
        assert outcomes(a, "after") == [Answered("after", b"in time")]
        for token in tokens:
            (outcome,) = outcomes(a, token)
            assert isinstance(outcome, Unanswered), token
            assert outcome.reason

    def test_what_a_peer_is_told_arrives_once_and_nobody_hears_what_became_of_it(self, harness: Harness) -> None:
        a, b = harness.make_nets(2)
        b.net.serve(STREAM)
        a.net.learn(PrivateKey(b"n" * 32).public, ("/ip4/127.0.0.1/tcp/1",))
        settle(harness, lambda: a.net.peers() == (b.net.node,))
        for i in range(5):
            a.net.tell(b.net.node, STREAM, b"word %d" % i)
        a.net.tell(b.net.node, OTHER, b"nobody serves that")
        a.net.tell(bytes(32), STREAM, b"to nobody")
        a.net.tell(b.net.node, STREAM, bytes(STREAM_BYTES_MAX + 1))
        settle(harness, lambda: len(select(b, Asked)) == 5)
        for asked in select(b, Asked):
            b.net.reply(asked.token, b"heard")
        a.net.request(b.net.node, STREAM, b"and now?", "question", PATIENCE_MS)
        settle(harness, lambda: len(select(b, Asked)) == 6)
        b.net.reply(select(b, Asked)[-1].token, b"an answer")
        settle(harness, lambda: len(select(a, Answered)) == 1)
        words = sorted(event.data for event in select(b, Asked))
        assert words == [b"and now?", *(b"word %d" % i for i in range(5))]
        assert [event for event in a.events if isinstance(event, Answered | Unanswered)] == [
            Answered("question", b"an answer")
        ]

    def test_an_answer_to_a_token_nobody_has_is_ignored(self, harness: Harness) -> None:
        (a,) = harness.make_nets(1)
        a.net.reply("no such token", b"x")
        assert a.events == []

    def test_a_request_dials_a_peer_it_has_only_just_learnt_of(self, harness: Harness) -> None:
        a, b = harness.make_nets(2)
        b.net.serve(STREAM)
        a.net.request(b.net.node, STREAM, b"first thing", "r", 5_000)
        settle(harness, lambda: bool(select(b, Asked)))
        b.net.reply(select(b, Asked)[0].token, b"hello")
        settle(harness, lambda: outcomes(a, "r") == [Answered("r", b"hello")])

    def test_a_request_to_a_peer_that_dies_ends_once(self, harness: Harness) -> None:
        a, b = harness.make_nets(2)
        b.net.serve(STREAM)
        a.net.request(b.net.node, STREAM, b"are you there", "r", 8_000)
        settle(harness, lambda: bool(select(b, Asked)))
        harness.stop(1)
        settle(harness, lambda: bool(outcomes(a, "r")))
        assert [type(outcome) for outcome in outcomes(a, "r")] == [Unanswered]

    def test_peers_are_listed_sorted_and_their_coming_and_going_is_told(self, harness: Harness) -> None:
        members = harness.make_nets(4)
        a = members[0]
        others = tuple(sorted(member.net.node for member in members[1:]))
        settle(harness, lambda: a.net.peers() == others)
        settle(harness, lambda: len(select(a, PeerConnected)) == 3)
        assert sorted(event.peer for event in select(a, PeerConnected)) == list(others)
        gone = members[3].net.node
        harness.stop(3)
        settle(harness, lambda: select(a, PeerDisconnected) == [PeerDisconnected(gone)])
        assert a.net.peers() == tuple(peer for peer in others if peer != gone)
        assert gone not in a.net.subscribers(TOPIC)

    def test_a_peer_that_comes_back_is_connected_and_heard_again(self, harness: Harness) -> None:
        members = harness.make_nets(3)
        subscribe_all(harness, members)
        harness.stop(2)
        settle(harness, lambda: all(len(member.net.peers()) == 1 for member in members[:2]))
        members[0].net.publish(TOPIC, b"while you were away", "away")
        settle(harness, lambda: received(members[1]) == [b"while you were away"])
        harness.start_again(2)
        members[2].net.subscribe(TOPIC, accept)
        settle(harness, lambda: all(len(member.net.subscribers(TOPIC)) == 2 for member in members))
        members[2].net.publish(TOPIC, b"back", "back")
        settle(harness, lambda: all(b"back" in received(member) for member in members[:2]))
        members[0].net.publish(TOPIC, b"welcome", "welcome")
        settle(harness, lambda: b"welcome" in received(members[2]))

    def test_a_peer_that_keeps_breaking_rules_is_hung_up_on(self, harness: Harness) -> None:
        a, b = harness.make_nets(2)
        settle(harness, lambda: a.net.peers() == (b.net.node,))
        for _ in range(50):
            a.net.penalise(b.net.node, "breaks rules")
        settle(harness, lambda: a.net.peers() == () and select(a, PeerDisconnected) != [])
