"""Signatures of messages that wait for a verdict: verified between turns of the loop, a little at a time.

When the loop falls behind, a process beside it verifies some of them (decision 0065). Verdicts come in the order of the
messages, whoever verified them: what an author says in order is heard so. Not in threads: each signature ends with a
fight for the interpreter, and a thread beside a busy loop verifies 850 a second, the loop by itself 11,000 (decision
0097).
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

from p2p.gossipsub import Judged, Validate
from protocol.keys import verify
from protocol.types import Unproven, Verdict

logger = logging.getLogger(__name__)

SLICE_S = 0.002  # at a time; what takes longer by itself is done whole
WAITING_MAX = 512  # with so many nothing more is taken in
WAITING_PER_PEER_MAX = 192
BATCH = 32  # given away at once, at most; half of what waits, so that both have something to do
BATCH_MIN = 8  # fewer are sooner verified than given away
IN_A_ROW = 8  # verified here before the next look at what was given away
BEHIND_SLICES = 40  # that ended with more to verify, before somebody else is wanted


class Helper(Protocol):
    """Who verifies beside the loop: as `p2p.signature_process`."""

    @property
    def has_room(self) -> bool: ...

    def want(self) -> None: ...

    def send(self, batch: Sequence[tuple[bytes, bytes, bytes]]) -> None: ...

    def receive(self) -> list[bool]: ...


class _Run:
    """Messages verified one after the other, here or beside the loop. `good`: of the first ones, as far as is known."""

    __slots__ = ("effects", "good")

    def __init__(self, effects: list[Validate]) -> None:
        self.effects = effects
        self.good: list[bool] = []

    @property
    def is_known(self) -> bool:
        return len(self.good) == len(self.effects)


class SignatureChecks:
    """`answer` gets the verdicts, as many at once as are known; `note_error` the topic of one that raised."""

    def __init__(
        self,
        answer: Callable[[Judged], object],
        note_error: Callable[[str], None],
        helper: Helper | None = None,
    ) -> None:
        self.helper = helper
        self._answer = answer
        self._note_error = note_error
        self._waiting: deque[Validate] = deque()
        self._begun: deque[_Run] = deque()  # verified, or given away; all of them before those that wait
        self._given: deque[_Run] = deque()  # of them, those that are not back
        self._by_peer: Counter[bytes] = Counter()
        self._count = 0
        self._slices_behind = 0

    def __len__(self) -> int:
        return self._count

    @property
    def has_work(self) -> bool:
        """Whether `settle` would find anything to do. What was given away is not here to be done."""
        return bool(self._waiting or (self._begun and self._begun[0].is_known))

    def queue(self, effect: Validate) -> None:
        self._waiting.append(effect)
        self._by_peer[effect.forwarder] += 1
        self._count += 1
        if self.helper is not None and len(self._waiting) >= 2 * BATCH and self.helper.has_room:
            self._share(self.helper)

    def is_full(self, peer: bytes) -> bool:
        """Whether nothing more of this peer's should be looked at now. A packet may take it a little beyond."""
        return self._count >= WAITING_MAX or self._by_peer[peer] >= WAITING_PER_PEER_MAX

    def settle(self) -> None:
        """Verify what waits, for SLICE_S at most, and give the verdicts that are known."""
        until_s = time.perf_counter() + SLICE_S
        while True:
            if self.helper is not None:
                self._share(self.helper)
            if self._waiting:
                self._verify_some(until_s)
            self._answer_known()
            if not self._waiting:
                return
            if time.perf_counter() > until_s:
                break
        self._slices_behind += 1
        if self._slices_behind >= BEHIND_SLICES and self.helper is not None:
            self.helper.want()

    def take_back(self) -> None:
        """Whoever verifies beside the loop is gone: what it has not answered is to be done here."""
        if self.helper is not None:
            self._take_answers(self.helper)
        self._given.clear()
        for run in reversed(self._begun):
            self._waiting.extendleft(reversed(run.effects))
        self._begun.clear()

    def _verify_some(self, until_s: float) -> None:
        run = _Run([])
        for _ in range(min(IN_A_ROW, len(self._waiting))):
            effect = self._waiting.popleft()
            run.effects.append(effect)
            run.good.append(verify(*_get_signed(effect)))
            if time.perf_counter() > until_s:
                break
        self._begun.append(run)

    def _share(self, helper: Helper) -> None:
        self._take_answers(helper)
        while helper.has_room and len(self._waiting) >= 2 * BATCH_MIN:
            run = _Run([self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting) // 2))])
            self._begun.append(run)
            self._given.append(run)
            helper.send([_get_signed(effect) for effect in run.effects])

    def _take_answers(self, helper: Helper) -> None:
        good = helper.receive()
        while good:
            run = self._given[0]
            missing = len(run.effects) - len(run.good)
            run.good += good[:missing]
            good = good[missing:]
            if run.is_known:
                self._given.popleft()

    def _answer_known(self) -> None:
        verdicts: list[tuple[int, Verdict]] = []
        by_peer = self._by_peer
        while self._begun and self._begun[0].is_known:
            run = self._begun.popleft()
            for effect, is_good in zip(run.effects, run.good, strict=True):
                verdicts.append((effect.ticket, self._judge(effect, is_good)))
                left = by_peer[effect.forwarder] - 1
                if left:
                    by_peer[effect.forwarder] = left
                else:
                    del by_peer[effect.forwarder]
        if verdicts:
            self._count -= len(verdicts)
            self._answer(Judged(verdicts))

    def _judge(self, effect: Validate, is_good: bool) -> Verdict:
        assert effect.unproven is not None
        try:
            return effect.unproven.conclude(is_good)
        except Exception:  # a bug of ours that this message brought out: the message is lost, the node is not
            self._note_error(effect.topic)
            logger.exception("the check of %s failed", effect.topic)
            return Verdict.IGNORE


def _get_signed(effect: Validate) -> tuple[bytes, bytes, bytes]:
    assert effect.unproven is not None
    return effect.unproven[:3]


def verify_unproven(unproven: Unproven) -> Verdict:
    """What the signature makes of the verdict that hangs on it."""
    return unproven.conclude(verify(unproven.public, unproven.signed, unproven.signature))
