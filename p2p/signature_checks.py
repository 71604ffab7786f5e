"""Signatures of messages that wait for a verdict: verified between turns of the loop, a little at a time.

When the loop falls behind, a process beside it verifies some of them (decision 0065). The urgent go first; among
themselves they and the others get their verdicts in the order they came, whoever verified them: what an author says in
order is heard so. Not in threads: each signature ends with a fight for the interpreter, and a thread beside a busy loop
verifies 850 a second, the loop by itself 11,000 (decision 0097).
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
MESSAGE_BYTES = 512  # what a message counts for beside its own bytes: its signature
# With so much nothing more is taken in. Counted in bytes, as a verdict takes longer the more a message holds: of one
# peer that is some 180 votes, or fourteen messages of 64 transactions each.
WAITING_BYTES_MAX = 448 * 1024
WAITING_PER_PEER_BYTES_MAX = 160 * 1024
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
    """Messages verified one after the other, here or beside the loop. `good`: of the first ones, as far as is known.

    `answered`: of how many of them the verdict has been given.
    """

    __slots__ = ("answered", "effects", "good")

    def __init__(self, effects: list[Validate]) -> None:
        self.effects = effects
        self.good: list[bool] = []
        self.answered = 0

    @property
    def is_known(self) -> bool:
        return len(self.good) == len(self.effects)


class _Lane:
    """Messages that keep their order."""

    __slots__ = ("begun", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Validate] = deque()
        self.begun: deque[_Run] = deque()  # verified, or given away; all of them before those that wait

    @property
    def has_work(self) -> bool:
        """Whether anything is left to be done here. What was given away is not."""
        return bool(self.waiting or (self.begun and self.begun[0].is_known))


class SignatureChecks:
    """`answer` gets the verdicts, as many at once as are known; `note_error` the topic of one that raised.

    What `is_urgent` by its topic overtakes the rest: a vote must not wait behind a thousand transactions.
    """

    def __init__(
        self,
        answer: Callable[[Judged], object],
        note_error: Callable[[str], None],
        is_urgent: Callable[[str], bool],
        helper: Helper | None = None,
    ) -> None:
        self.helper = helper
        self._answer = answer
        self._note_error = note_error
        self._is_urgent = is_urgent
        self._urgent, self._others = _Lane(), _Lane()
        self._given: deque[_Run] = deque()  # to the helper, and not back
        self._count = 0
        self._size = 0
        self._size_by_peer: Counter[bytes] = Counter()
        self._slices_behind = 0

    def __len__(self) -> int:
        return self._count

    @property
    def has_work(self) -> bool:
        """Whether `settle` would find anything to do."""
        return self._urgent.has_work or self._others.has_work

    def queue(self, effect: Validate) -> None:
        lane = self._urgent if self._is_urgent(effect.topic) else self._others
        lane.waiting.append(effect)
        size = _weigh(effect)
        self._size_by_peer[effect.forwarder] += size
        self._size += size
        self._count += 1
        if self.helper is not None and len(lane.waiting) >= 2 * BATCH and self.helper.has_room:
            self._share(lane, self.helper)

    def is_full(self, peer: bytes) -> bool:
        """Whether nothing more of this peer's should be looked at now. A packet may take it a little beyond."""
        return self._size >= WAITING_BYTES_MAX or self._size_by_peer[peer] >= WAITING_PER_PEER_BYTES_MAX

    def settle(self) -> None:
        """Verify what waits and give the verdicts that are known: for SLICE_S at most, but one of each lane."""
        until_s = time.perf_counter() + SLICE_S
        for lane in (self._urgent, self._others):
            while True:
                if self.helper is not None:
                    self._share(lane, self.helper)
                if lane.waiting:
                    self._verify_some(lane, until_s)
                self._answer_known(lane, until_s)
                if not lane.has_work or time.perf_counter() > until_s:
                    break
        self._slices_behind += self.has_work
        if self._slices_behind >= BEHIND_SLICES and self.helper is not None:
            self.helper.want()

    def take_back(self) -> None:
        """Whoever verifies beside the loop is gone: what it has not answered is to be done here."""
        if self.helper is not None:
            self._take_answers(self.helper)
        self._given.clear()
        for lane in (self._urgent, self._others):
            for run in reversed(lane.begun):
                lane.waiting.extendleft(reversed(run.effects[run.answered :]))
            lane.begun.clear()

    def _verify_some(self, lane: _Lane, until_s: float) -> None:
        run = _Run([])
        for _ in range(min(IN_A_ROW, len(lane.waiting))):
            effect = lane.waiting.popleft()
            run.effects.append(effect)
            run.good.append(verify(*_get_signed(effect)))
            if time.perf_counter() > until_s:
                break
        lane.begun.append(run)

    def _share(self, lane: _Lane, helper: Helper) -> None:
        self._take_answers(helper)
        while helper.has_room and len(lane.waiting) >= 2 * BATCH_MIN:
            run = _Run([lane.waiting.popleft() for _ in range(min(BATCH, len(lane.waiting) // 2))])
            lane.begun.append(run)
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

    def _answer_known(self, lane: _Lane, until_s: float) -> None:
        """Conclude in order what is known, for as long as there is time: of a list, that takes far longer than this."""
        verdicts: list[tuple[int, Verdict]] = []
        while lane.begun and lane.begun[0].is_known:
            run = lane.begun[0]
            effect = run.effects[run.answered]
            verdicts.append((effect.ticket, self._judge(effect, run.good[run.answered])))
            self._forget(effect)
            run.answered += 1
            if run.answered == len(run.effects):
                lane.begun.popleft()
            if time.perf_counter() > until_s:
                break
        if verdicts:
            self._answer(Judged(verdicts))

    def _forget(self, effect: Validate) -> None:
        size = _weigh(effect)
        self._count -= 1
        self._size -= size
        self._size_by_peer[effect.forwarder] -= size
        if not self._size_by_peer[effect.forwarder]:
            del self._size_by_peer[effect.forwarder]

    def _judge(self, effect: Validate, is_good: bool) -> Verdict:
        assert effect.unproven is not None
        try:
            return effect.unproven.conclude(is_good)
        except Exception:  # a bug of ours that this message brought out: the message is lost, the node is not
            self._note_error(effect.topic)
            logger.exception("the check of %s failed", effect.topic)
            return Verdict.IGNORE


def _weigh(effect: Validate) -> int:
    return MESSAGE_BYTES + len(effect.data)


def _get_signed(effect: Validate) -> tuple[bytes, bytes, bytes]:
    assert effect.unproven is not None
    return effect.unproven[:3]


def verify_unproven(unproven: Unproven) -> Verdict:
    """What the signature makes of the verdict that hangs on it."""
    return unproven.conclude(verify(unproven.public, unproven.signed, unproven.signature))
