"""Validators whose timers differ: each stretches its own while heights take long, and one that was behind has not."""

import heapq

import pytest

from protocol.consensus.core import Core
from protocol.consensus.events import (
    Began,
    Broadcast,
    Build,
    Built,
    Check,
    Checked,
    Decide,
    Effect,
    Event,
    Heard,
    SetTimer,
    TimedOut,
    Woken,
)
from protocol.consensus.leaders import draw_leader
from protocol.ledger.block import NOTHING, Ballot
from tests.protocol.consensus.test_core import (
    BLOCK,
    KEYS,
    ME,
    NOTARISE,
    SEED,
    VALIDATORS,
    certify,
    propose,
    signs,
    void,
)

TIMER_MS, STRETCHED_MS = 250, 2_000
HOP_MS = 20
LIFE_MS = 1_000_000  # of a run that decides nothing


class Ways:
    """Three of four validators in virtual time: one with a short timer wakes first, two have long ones. One is dead.

    The two were told `timer_ms`, and have stretched it since.
    """

    def __init__(self, seed: bytes, early: int, dead: int, timer_ms: int) -> None:
        self.decided: dict[int, int] = {}  # validators, and in which view
        self._now_ms, self._order = 0, 0
        self._heap: list[tuple[int, int, int, Event]] = []
        self._timers: dict[int, TimedOut] = {}
        told = {n: TIMER_MS if n == early else timer_ms for n in range(4) if n != dead}
        self._cores = {n: Core(KEYS[n].public, signs(n), least_ms) for n, least_ms in told.items()}
        for n, core in self._cores.items():
            core.timer_ms = TIMER_MS if n == early else STRETCHED_MS
            core.handle(Began(1, VALIDATORS, seed), 0)
            self._push(0 if n == early else 2 * TIMER_MS, n, Woken())

    def run(self) -> None:
        while self._heap and len(self.decided) < len(self._cores) and self._now_ms < LIFE_MS:
            self._now_ms, _, number, event = heapq.heappop(self._heap)
            if not isinstance(event, TimedOut) or self._timers[number] is event:
                self._do(number, event)

    def _do(self, number: int, event: Event) -> None:
        core = self._cores[number]
        for effect in core.handle(event, self._now_ms):
            match effect:
                case Broadcast(message):
                    for other in self._cores.keys() - {number}:
                        self._push(HOP_MS, other, Heard(message))
                case SetTimer(height, view, delay_ms):
                    self._timers[number] = TimedOut(height, view)
                    self._push(delay_ms, number, self._timers[number])
                case Build(height, view):
                    self._push(0, number, Built(height, view, BLOCK))
                case Check(_, block_id):
                    self._push(0, number, Checked(block_id))
                case Decide(certificate):
                    self.decided[number] = certificate.ballot.view

    def _push(self, delay_ms: int, number: int, event: Event) -> None:
        self._order += 1
        heapq.heappush(self._heap, (self._now_ms + delay_ms, self._order, number, event))


@pytest.mark.parametrize("timer_ms", [TIMER_MS, 3 * TIMER_MS])
@pytest.mark.parametrize("early", range(1, 4))
def test_from_the_third_view_on_a_leader_that_lives_is_enough_however_far_timers_are_stretched(
    early: int, timer_ms: int
):
    # Found by seed 42819: whoever had the short timer was always one view ahead, and had nullified each by the time
    # the others came, who had finalised the one before it and waited in it. No quorum for either, view after view.
    for number in range(60):
        seed = b"seed %d" % number
        leaders = {view: draw_leader(VALIDATORS, seed, 1, view) for view in range(1, 40)}
        last = next(view for view, leader in leaders.items() if view > 2 and leader != KEYS[0].public)
        run = Ways(seed, early, 0, timer_ms)
        run.run()
        assert len(run.decided) == 3, number
        assert max(run.decided.values()) <= last, number


def test_a_later_view_that_is_notarised_is_left_after_a_quarter_of_the_least_its_leader_has():
    core = Core(KEYS[ME].public, signs(ME), TIMER_MS)
    core.timer_ms = STRETCHED_MS
    core.handle(Began(1, VALIDATORS, SEED), 0)
    assert set_timers(core.handle(Heard(certify(propose().ballot)), 0)) == [SetTimer(1, 1, STRETCHED_MS)]
    assert set_timers(core.handle(Heard(certify(void())), 1)) == [SetTimer(1, 2, 3 * STRETCHED_MS // 2)]
    second = certify(Ballot(1, 2, NOTARISE, 1, BLOCK, NOTHING))
    assert set_timers(core.handle(Heard(second), 2)) == [SetTimer(1, 2, 3 * TIMER_MS // 8)]
    assert set_timers(core.handle(Heard(second), 3)) == []
    fourth = certify(Ballot(1, 4, NOTARISE, 2, BLOCK, NOTHING))
    assert set_timers(core.handle(Heard(fourth), 4)) == [SetTimer(1, 4, 5 * TIMER_MS // 8)]


def set_timers(effects: list[Effect]) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, SetTimer)]
