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


class _Waiting:
    """A message, and whether its signature is good, once that is known."""

    __slots__ = ("effect", "is_good", "unproven")

    def __init__(self, effect: Validate, unproven: Unproven) -> None:
        self.effect = effect
        self.unproven = unproven
        self.is_good: bool | None = None


class SignatureChecks:
    """`answer` gets each verdict; `note_error` the topic of one that raised."""

    def __init__(
        self,
        answer: Callable[[Judged], object],
        note_error: Callable[[str], None],
        helper: Helper | None = None,
    ) -> None:
        self.helper = helper
        self._answer = answer
        self._note_error = note_error
        self._waiting: deque[_Waiting] = deque()
        self._begun: deque[_Waiting] = deque()  # verified, or given away; all of them before those that wait
        self._given: deque[_Waiting] = deque()  # of them, those that are not back
        self._by_peer: Counter[bytes] = Counter()
        self._slices_behind = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._begun)

    @property
    def has_work(self) -> bool:
        """Whether `settle` would find anything to do. What was given away is not here to be done."""
        return bool(self._waiting or (self._begun and self._begun[0].is_good is not None))

    def queue(self, effect: Validate) -> None:
        assert effect.unproven is not None
        self._waiting.append(_Waiting(effect, effect.unproven))
        self._by_peer[effect.forwarder] += 1
        if self.helper is not None and len(self._waiting) >= 2 * BATCH and self.helper.has_room:
            self._share(self.helper)

    def is_full(self, peer: bytes) -> bool:
        """Whether nothing more of this peer's should be looked at now. A packet may take it a little beyond."""
        return len(self) >= WAITING_MAX or self._by_peer[peer] >= WAITING_PER_PEER_MAX

    def settle(self) -> None:
        """Verify what waits, for SLICE_S at most, and give the verdicts that are known."""
        until_s = time.perf_counter() + SLICE_S
        while True:
            if self.helper is not None:
                self._share(self.helper)
            for _ in range(min(IN_A_ROW, len(self._waiting))):
                check = self._waiting.popleft()
                if check.is_good is None:
                    check.is_good = verify(*_get_signed(check.unproven))
                self._begun.append(check)
                if time.perf_counter() > until_s:
                    break
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
        self._waiting.extendleft(reversed(self._begun))
        self._begun.clear()

    def _share(self, helper: Helper) -> None:
        self._take_answers(helper)
        while helper.has_room and len(self._waiting) >= 2 * BATCH_MIN:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting) // 2))]
            self._begun += batch
            self._given += batch
            helper.send([_get_signed(check.unproven) for check in batch])

    def _take_answers(self, helper: Helper) -> None:
        for is_good in helper.receive():
            self._given.popleft().is_good = is_good

    def _answer_known(self) -> None:
        while self._begun and self._begun[0].is_good is not None:
            check = self._begun.popleft()
            peer = check.effect.forwarder
            self._by_peer[peer] -= 1
            if not self._by_peer[peer]:
                del self._by_peer[peer]
            self._answer(Judged(check.effect.ticket, self._judge(check)))

    def _judge(self, check: _Waiting) -> Verdict:
        try:
            return check.unproven.conclude(bool(check.is_good))
        except Exception:  # a bug of ours that this message brought out: the message is lost, the node is not
            self._note_error(check.effect.topic)
            logger.exception("the check of %s failed", check.effect.topic)
            return Verdict.IGNORE


def _get_signed(unproven: Unproven) -> tuple[bytes, bytes, bytes]:
    return unproven.public, unproven.signed, unproven.signature


def verify_unproven(unproven: Unproven) -> Verdict:
    """What the signature makes of the verdict that hangs on it."""
    return unproven.conclude(verify(unproven.public, unproven.signed, unproven.signature))
