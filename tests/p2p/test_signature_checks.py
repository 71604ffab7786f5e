"""Signatures of messages that wait for a verdict: at once when few, in threads when many, bounded for each peer."""

import logging
import threading

import pytest
import trio

from p2p import signature_checks
from p2p.gossipsub import Judged, Validate
from p2p.signature_checks import AT_ONCE_MAX, BATCH_MAX, WAITING_MAX, WAITING_PER_PEER_MAX, SignatureChecks
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
    """Keeps what it answers, and in which thread signatures were verified."""

    def __init__(self):
        self.answers = []
        self.errors = []
        self.batches = trio.Event()
        super().__init__(self.answers.append, self.errors.append, self.batches.set)


def test_a_few_are_answered_before_the_turn_is_over():
    checks = Checks()
    for ticket in range(AT_ONCE_MAX):
        checks.queue(make_effect(ticket, is_good=ticket != 1))
    checks.settle()

    assert checks.answers == [
        Judged(ticket, Verdict.REJECT if ticket == 1 else Verdict.ACCEPT) for ticket in range(AT_ONCE_MAX)
    ]
    assert len(checks) == 0


def verify_noting(monkeypatch, threads):
    real = signature_checks.verify

    def verify(public, signed, signature):
        threads.add(threading.current_thread())
        return real(public, signed, signature)

    monkeypatch.setattr(signature_checks, "verify", verify)


def test_many_are_verified_in_threads_and_each_is_answered_once(monkeypatch):
    checks, threads, count = Checks(), set(), 3 * BATCH_MAX + 1
    verify_noting(monkeypatch, threads)

    async def main():
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(checks.run)
                for ticket in range(count):
                    checks.queue(make_effect(ticket, is_good=bool(ticket % 3)))
                checks.settle()
                assert checks.answers == []
                while len(checks.answers) < count:
                    await checks.batches.wait()
                    checks.batches = trio.Event()
                    checks._on_settled = checks.batches.set
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert sorted(checks.answers) == [
        Judged(ticket, Verdict.ACCEPT if ticket % 3 else Verdict.REJECT) for ticket in range(count)
    ]
    assert threading.main_thread() not in threads


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

    checks._conclude(checks._take_batch(), [True] * BATCH_MAX)
    assert not checks.is_full(PEER)
    assert not checks.is_full(b"q" * 32)


def test_a_check_that_fails_costs_its_message_and_no_other(caplog):
    def fail(is_good):
        raise RuntimeError("a bug")

    checks = Checks()
    checks.queue(make_effect(1, then=fail))
    checks.queue(make_effect(2))
    with caplog.at_level(logging.CRITICAL):
        checks.settle()

    assert checks.answers == [Judged(1, Verdict.IGNORE), Judged(2, Verdict.ACCEPT)]
    assert checks.errors == ["t"]


@pytest.mark.parametrize("is_good", [True, False])
def test_one_that_comes_while_a_thread_is_at_work_waits_for_it(is_good):
    checks = Checks()
    checks._in_threads = 1
    checks.queue(make_effect(1, is_good=is_good))
    checks.settle()

    assert checks.answers == []
    assert len(checks) == 2


def test_what_takes_long_is_done_in_a_thread_for_good_signatures_alone_and_ends_its_batch():
    checks, done = Checks(), []

    def make_long(ticket, is_good):
        effect = make_effect(ticket, is_good)
        ahead = lambda: done.append((ticket, threading.current_thread() is threading.main_thread()))  # noqa: E731
        return effect._replace(unproven=effect.unproven._replace(ahead=ahead))

    async def main():
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(checks.run)
                for effect in (make_effect(0), make_long(1, True), make_long(2, False), make_effect(3)):
                    checks.queue(effect)
                assert [effect.ticket for effect in checks._take_batch()] == [0, 1]
                for effect in (make_effect(0), make_long(1, True)):
                    checks._waiting.appendleft(effect)
                checks.settle()
                assert checks.answers == []
                while len(checks.answers) < 4:
                    await checks.batches.wait()
                    checks.batches = trio.Event()
                    checks._on_settled = checks.batches.set
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert done == [(1, False)]
    assert [answer.verdict for answer in sorted(checks.answers)] == [
        Verdict.ACCEPT,
        Verdict.ACCEPT,
        Verdict.REJECT,
        Verdict.ACCEPT,
    ]
