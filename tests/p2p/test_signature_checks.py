"""Signatures of messages that wait for a verdict: a slice at a time, bounded for each peer."""

import logging

from p2p import signature_checks
from p2p.gossipsub import Judged, Validate
from p2p.signature_checks import WAITING_MAX, WAITING_PER_PEER_MAX, SignatureChecks
from protocol.keys import PrivateKey
from protocol.types import Unproven, Verdict

KEY = PrivateKey(bytes(32))
PEER = b"p" * 32


def conclude(is_good):
    return Verdict.ACCEPT if is_good else Verdict.REJECT


def make_effect(ticket, is_good=True, peer=PEER, then=conclude):
    signed = b"message %d" % ticket
    signature = KEY.sign(signed if is_good else b"another")
    return Validate(ticket, "t", signed, peer, Unproven(KEY.public, signed, signature, then))


class Checks(SignatureChecks):
    """Keeps what it answers."""

    def __init__(self):
        self.answers = []
        self.errors = []
        super().__init__(self.answers.append, self.errors.append)


def test_each_is_answered_once_in_the_order_they_came():
    checks = Checks()
    for ticket in range(5):
        checks.queue(make_effect(ticket, is_good=ticket != 1))
    while checks:
        checks.settle()

    assert checks.answers == [Judged(ticket, conclude(ticket != 1)) for ticket in range(5)]


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


def test_a_peer_is_held_back_before_all_are_and_let_go_on_when_its_messages_are_judged():
    checks = Checks()
    for ticket in range(WAITING_PER_PEER_MAX):
        assert not checks.is_full(PEER)
        checks.queue(make_effect(ticket))
    assert checks.is_full(PEER)
    assert not checks.is_full(b"q" * 32)

    others = iter(range(WAITING_PER_PEER_MAX, WAITING_MAX))
    for number in others:
        checks.queue(make_effect(number, peer=number.to_bytes(32, "big")))
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

    assert checks.answers == [Judged(1, Verdict.IGNORE), Judged(2, Verdict.ACCEPT)]
    assert checks.errors == ["t"]
