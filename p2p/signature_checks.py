"""Signatures of messages that wait for a verdict: verified between turns of the loop, a little at a time.

Not in threads: each signature ends with a fight for the interpreter, and beside a busy loop a thread verifies 850 a
second where the loop by itself verifies 11,000 (decision 0097).
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import cast

from p2p.gossipsub import Judged, Validate
from protocol.keys import verify
from protocol.types import Unproven, Verdict

logger = logging.getLogger(__name__)

SLICE_S = 0.005  # at a time; what takes longer by itself is done whole
WAITING_MAX = 512  # with so many nothing more is taken in
WAITING_PER_PEER_MAX = 192


class SignatureChecks:
    """`answer` gets each verdict; `note_error` the topic of one that raised."""

    def __init__(self, answer: Callable[[Judged], object], note_error: Callable[[str], None]) -> None:
        self._answer = answer
        self._note_error = note_error
        self._waiting: deque[Validate] = deque()
        self._by_peer: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def queue(self, effect: Validate) -> None:
        self._waiting.append(effect)
        self._by_peer[effect.forwarder] += 1

    def is_full(self, peer: bytes) -> bool:
        """Whether nothing more of this peer's should be looked at now. A packet may take it a little beyond."""
        return len(self._waiting) >= WAITING_MAX or self._by_peer[peer] >= WAITING_PER_PEER_MAX

    def settle(self) -> None:
        """Verify what waits, for SLICE_S at most."""
        until_s = time.perf_counter() + SLICE_S
        while self._waiting:
            effect = self._waiting.popleft()
            self._by_peer[effect.forwarder] -= 1
            if not self._by_peer[effect.forwarder]:
                del self._by_peer[effect.forwarder]
            self._answer(Judged(effect.ticket, self._judge(effect)))
            if time.perf_counter() > until_s:
                break

    def _judge(self, effect: Validate) -> Verdict:
        try:
            return verify_unproven(cast(Unproven, effect.unproven))
        except Exception:  # a bug of ours that this message brought out: the message is lost, the node is not
            self._note_error(effect.topic)
            logger.exception("the check of %s failed", effect.topic)
            return Verdict.IGNORE


def verify_unproven(unproven: Unproven) -> Verdict:
    """What the signature makes of the verdict that hangs on it."""
    return unproven.conclude(verify(unproven.public, unproven.signed, unproven.signature))
