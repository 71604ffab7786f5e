"""Signatures of messages that wait for a verdict: a few are verified at once, many in threads while the loop goes on.

Verifying lets go of the interpreter, so threads use other cores; but to hand work to one costs as much as a signature.
"""

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import cast

import trio

from p2p.gossipsub import Judged, Validate
from protocol.keys import verify
from protocol.types import Unproven, Verdict

logger = logging.getLogger(__name__)

AT_ONCE_MAX = 4  # so few are verified in the loop
BATCH_MAX = 64  # by one thread in one go: the verdicts of a batch come together
THREADS = max(1, min(4, (os.cpu_count() or 1) - 1))
BATCHES_MAX = THREADS + 1  # at once: one is verified while the verdicts of another are carried out
WAITING_MAX = 512  # with so many nothing more is taken in
WAITING_PER_PEER_MAX = 192


class SignatureChecks:
    """`answer` gets each verdict; `note_error` the topic of one that raised; `on_settled` is called after a batch."""

    def __init__(
        self,
        answer: Callable[[Judged], object],
        note_error: Callable[[str], None],
        on_settled: Callable[[], None],
    ) -> None:
        self._answer = answer
        self._note_error = note_error
        self._on_settled = on_settled
        self._waiting: deque[Validate] = deque()
        self._by_peer: Counter[bytes] = Counter()  # of those waiting and those in threads
        self._in_threads = 0
        self._wake = trio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + self._in_threads

    def queue(self, effect: Validate) -> None:
        self._waiting.append(effect)
        self._by_peer[effect.forwarder] += 1

    def is_full(self, peer: bytes) -> bool:
        """Whether nothing more of this peer's should be looked at now. A packet may take it a little beyond."""
        return len(self) >= WAITING_MAX or self._by_peer[peer] >= WAITING_PER_PEER_MAX

    def settle(self) -> None:
        """All of a turn has been queued: verify it, or have it verified."""
        if not self._waiting:
            return
        if len(self._waiting) > AT_ONCE_MAX or self._in_threads or any(map(_is_long, self._waiting)):
            self._wake.set()
            return
        batch = self._take_batch()
        self._conclude(batch, _verify_all(batch))

    async def run(self) -> None:
        """Verify in threads, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(BATCHES_MAX):
                nursery.start_soon(self._run_one)

    async def _run_one(self) -> None:
        while True:
            while not self._waiting:
                self._wake = trio.Event() if self._wake.is_set() else self._wake
                await self._wake.wait()
            batch = self._take_batch()
            self._in_threads += len(batch)
            try:
                proofs = await trio.to_thread.run_sync(_verify_all, batch)
            finally:
                self._in_threads -= len(batch)
            self._conclude(batch, proofs)
            self._on_settled()

    def _take_batch(self) -> list[Validate]:
        """What waits, up to one that takes long: that must not hold up more verdicts than it has to."""
        batch: list[Validate] = []
        while self._waiting and len(batch) < BATCH_MAX:
            batch.append(self._waiting.popleft())
            if _is_long(batch[-1]):
                break
        return batch

    def _conclude(self, batch: list[Validate], proofs: list[bool]) -> None:
        for effect, is_good in zip(batch, proofs, strict=True):
            self._by_peer[effect.forwarder] -= 1
            if not self._by_peer[effect.forwarder]:
                del self._by_peer[effect.forwarder]
            self._answer(Judged(effect.ticket, self._judge(effect, is_good)))

    def _judge(self, effect: Validate, is_good: bool) -> Verdict:
        try:
            return cast(Unproven, effect.unproven).conclude(is_good)
        except Exception:  # a bug of ours that this message brought out: the message is lost, the node is not
            self._note_error(effect.topic)
            logger.exception("the check of %s failed", effect.topic)
            return Verdict.IGNORE


def verify_unproven(unproven: Unproven) -> bool:
    """Whether the signature is good; then what is to be done ahead of the verdict is done too."""
    is_good = verify(unproven.public, unproven.signed, unproven.signature)
    if is_good and unproven.ahead is not None:
        unproven.ahead()
    return is_good


def _is_long(effect: Validate) -> bool:
    return effect.unproven is not None and effect.unproven.ahead is not None


def _verify_all(batch: Iterable[Validate]) -> list[bool]:
    return [verify_unproven(cast(Unproven, effect.unproven)) for effect in batch]
