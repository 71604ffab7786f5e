"""Signatures of messages that wait for a verdict: a slice at a time, bounded for each peer, and some given away."""

import logging

from p2p import signature_checks
from p2p.gossipsub import Validate
from p2p.signature_checks import (
    BATCH_MIN,
    BEHIND_SLICES,
    MESSAGE_BYTES,
    WAITING_BYTES_MAX,
    WAITING_PER_PEER_BYTES_MAX,
    SignatureChecks,
)
from protocol.keys import PrivateKey, verify
from protocol.types import Unproven, Verdict

KEY = PrivateKey(bytes(32))
PEER = b"p" * 32


def conclude(is_good):
    return Verdict.ACCEPT if is_good else Verdict.REJECT


def make_effect(ticket, is_good=True, peer=PEER, then=conclude, topic="t", size=0):
    signed = b"message %d" % ticket
    signature = KEY.sign(signed if is_good else b"another")
    return Validate(ticket, topic, signed.ljust(size), peer, Unproven(KEY.public, signed, signature, then))


class Checks(SignatureChecks):
    """Keeps what it answers."""

    def __init__(self):
        self.answers = []
        self.errors = []
        super().__init__(lambda judged: self.answers.extend(judged.verdicts), self.errors.append, "urgent".__eq__)


def test_each_is_answered_once_in_the_order_they_came():
    checks = Checks()
    for ticket in range(5):
        checks.queue(make_effect(ticket, is_good=ticket != 1))
    while checks:
        checks.settle()

    assert checks.answers == [(ticket, conclude(ticket != 1)) for ticket in range(5)]


def test_a_slice_ends_when_its_time_is_over_and_never_before_one_is_answered(monkeypatch):
    checks = Checks()
    now_s = iter(range(100))
    monkeypatch.setattr(signature_checks.time, "perf_counter", lambda: float(next(now_s)))
    for ticket in range(3):
        checks.queue(make_effect(ticket))

    for answered in (1, 2, 3):
        checks.settle()
        assert len(checks.answers) == answered
        assert len(checks) == 3 - answered


def test_what_is_urgent_overtakes_the_rest_and_each_keeps_its_order():
    checks = Checks()
    for ticket in range(20):
        checks.queue(make_effect(ticket))
    for ticket in range(20, 23):
        checks.queue(make_effect(ticket, topic="urgent"))
    while checks:
        checks.settle()

    assert [ticket for ticket, _ in checks.answers] == [20, 21, 22, *range(20)]


def test_urgent_messages_never_keep_the_others_from_being_judged(monkeypatch):
    checks = Checks()
    now_s = iter(range(1_000))
    monkeypatch.setattr(signature_checks.time, "perf_counter", lambda: float(next(now_s)))
    checks.queue(make_effect(0))
    for ticket in range(1, 9):
        checks.queue(make_effect(ticket, topic="urgent"))

    checks.settle()

    assert [ticket for ticket, _ in checks.answers] == [1, 0]


def test_conclusions_that_take_long_end_a_slice_too(monkeypatch):
    checks = Checks()
    now_s = [0.0]
    monkeypatch.setattr(signature_checks.time, "perf_counter", lambda: now_s[0])

    def conclude_slowly(is_good):
        now_s[0] += 1.0
        return conclude(is_good)

    for ticket in range(4):
        checks.queue(make_effect(ticket, then=conclude_slowly))
    for answered in range(1, 5):
        checks.settle()
        assert [ticket for ticket, _ in checks.answers] == list(range(answered))
    assert not checks.has_work


def test_a_peer_is_held_back_before_all_are_and_let_go_on_when_its_messages_are_judged():
    checks = Checks()
    size = 40 * 1024 - MESSAGE_BYTES
    for ticket in range(WAITING_PER_PEER_BYTES_MAX // (40 * 1024)):
        assert not checks.is_full(PEER)
        checks.queue(make_effect(ticket, size=size))
    assert checks.is_full(PEER)
    assert not checks.is_full(b"q" * 32)

    for number in range(len(checks), -(-WAITING_BYTES_MAX // (40 * 1024))):
        assert not checks.is_full(b"q" * 32)
        checks.queue(make_effect(number, peer=number.to_bytes(32, "big"), size=size))
    assert checks.is_full(b"q" * 32)

    checks.settle()
    assert not checks.is_full(PEER)
    assert not checks.is_full(b"q" * 32)


def test_a_check_that_fails_costs_its_message_and_no_other(caplog):
    def fail(is_good):
        raise RuntimeError("a bug")

    checks = Checks()
    checks.queue(make_effect(1, then=fail))
    checks.queue(make_effect(2))
    with caplog.at_level(logging.CRITICAL):
        while checks:
            checks.settle()

    assert checks.answers == [(1, Verdict.IGNORE), (2, Verdict.ACCEPT)]
    assert checks.errors == ["t"]


class Beside:
    """Somebody who verifies beside the loop, when told to."""

    def __init__(self, room=1):
        self.room = room
        self.sent = []
        self.done = []
        self.times_wanted = 0

    @property
    def has_room(self):
        return len(self.sent) < self.room

    def want(self):
        self.times_wanted += 1

    def send(self, batch):
        self.sent.append(batch)

    def receive(self):
        done, self.done = self.done, []
        return done

    def answer(self):
        self.done += [verify(*each) for each in self.sent.pop(0)]


def make_busy(helper, count=40, bad=()):
    checks = Checks()
    checks.helper = helper
    for ticket in range(count):
        checks.queue(make_effect(ticket, is_good=ticket not in bad))
    return checks


def test_verdicts_come_in_order_whoever_verifies():
    helper = Beside()
    checks = make_busy(helper, bad=(3, 30))
    while checks.has_work:
        checks.settle()
    assert len(helper.sent) == 1
    assert checks.answers == []  # the first ones were given away, and all others come after them
    assert len(checks) == 40

    helper.answer()
    while checks:
        checks.settle()

    assert checks.answers == [(ticket, conclude(ticket not in (3, 30))) for ticket in range(40)]


def test_what_was_given_away_counts_against_its_peer_until_it_is_back():
    helper = Beside(room=99)
    checks = make_busy(helper, count=WAITING_PER_PEER_BYTES_MAX // MESSAGE_BYTES)
    while checks.has_work:
        checks.settle()
    assert checks.is_full(PEER)

    while helper.sent:
        helper.answer()
    checks.settle()
    assert not checks.is_full(PEER)


def test_what_gets_no_answer_is_verified_here():
    helper = Beside(room=2)
    checks = make_busy(helper, count=100, bad=(1, 50))
    while checks.has_work:
        checks.settle()
    helper.answer()
    helper.sent, helper.room = [], 0
    checks.take_back()
    while checks:
        checks.settle()

    assert checks.answers == [(ticket, conclude(ticket not in (1, 50))) for ticket in range(100)]


def test_few_are_verified_here_and_nobody_is_wanted_by_a_loop_that_keeps_up(monkeypatch):
    monkeypatch.setattr(signature_checks, "SLICE_S", 60.0)
    helper = Beside()
    for _ in range(2 * BEHIND_SLICES):
        checks = make_busy(helper, count=2 * BATCH_MIN - 1)
        checks.settle()
        assert not checks
    assert helper.sent == []
    assert helper.times_wanted == 0


def test_a_loop_that_falls_behind_wants_somebody(monkeypatch):
    monkeypatch.setattr(signature_checks, "SLICE_S", 0.0)
    helper = Beside(room=0)
    checks = make_busy(helper, count=BEHIND_SLICES + 1)
    while checks:
        assert not helper.times_wanted
        checks.settle()
        if len(checks.answers) == BEHIND_SLICES:
            break
    assert helper.times_wanted
