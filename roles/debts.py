"""What workers owe a client: an answer, or a refusal, for each voucher it has given them.

A worker that has taken a voucher and said nothing gets no other one until it has spoken after all, or the ledger has
ended that voucher and not paid for it. So a worker that keeps vouchers for nothing costs a client one step of them.
One that was told to leave a job has until the deadline: until then that voucher is one of those its step allows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from protocol.ledger.state import State
from roles.attempts import Attempt
from roles.purse import Purse

PRESS_MS = 2_000


@dataclass(frozen=True)
class _Weight:
    """How many of a worker's debts are of jobs it was told to leave, until one of these is due; by which ledger."""

    state: State
    left: int
    until_ms: float


class Debts:
    """Attempts whose request is over and which nobody has answered, by worker.

    A worker that died under load owes hundreds, and is asked about for every job: sums and times are remembered.
    """

    def __init__(self, purse: Purse) -> None:
        self._purse = purse
        self._owed: dict[bytes, dict[tuple[bytes, int], Attempt]] = {}
        self._weights: dict[bytes, _Weight] = {}
        self._press_ms: dict[bytes, int] = {}  # before then nothing is to be asked of the worker

    def begin(self, attempt: Attempt) -> None:
        """The request is over, and the worker may hold its voucher."""
        self._owed.setdefault(attempt.worker, {})[attempt.item.voucher.request_id, attempt.number] = attempt
        self._weights.pop(attempt.worker, None)
        due_ms = attempt.sent_ms + PRESS_MS
        self._press_ms[attempt.worker] = min(due_ms, self._press_ms.get(attempt.worker, due_ms))

    def find(self, worker: bytes, request_id: bytes, number: int) -> Attempt | None:
        return self._owed.get(worker, {}).get((request_id, number))

    def list_all(self) -> list[Attempt]:
        return [attempt for held in self._owed.values() for attempt in held.values()]

    def end(self, attempt: Attempt) -> None:
        self._weights.pop(attempt.worker, None)  # what it has answered weighs against what it was paid
        held = self._owed.get(attempt.worker, {})
        held.pop((attempt.item.voucher.request_id, attempt.number), None)
        if not held:
            self._owed.pop(attempt.worker, None)
            self._press_ms.pop(attempt.worker, None)

    def weigh(self, worker: bytes, state: State, now_ms: int) -> tuple[int, bool]:
        """How many vouchers the worker may hold of jobs that it was told to leave, and whether it gets no other now."""
        weight = self._weights.get(worker)
        if weight is None or weight.state is not state:  # a debt ends on the ledger
            self._end_settled(worker, state)
        if weight is None or weight.state is not state or now_ms >= weight.until_ms:
            held = self._owed.get(worker, {}).values()
            due_ms = [attempt.item.request.deadline_ms for attempt in held if _is_left(attempt, now_ms)]
            weight = self._weights[worker] = _Weight(state, len(due_ms), min(due_ms, default=math.inf))
        return weight.left, weight.left < len(self._owed.get(worker, {}))

    def press(self, worker: bytes, now_ms: int) -> Iterator[Attempt]:
        """What to ask the worker for once more, now and then: an honest one answers or refuses, however late."""
        if now_ms < self._press_ms.get(worker, 0):
            return
        held = self._owed.get(worker, {}).values()
        for attempt in held:
            if now_ms >= attempt.sent_ms + PRESS_MS:
                attempt.sent_ms = now_ms
                yield attempt
        if held:
            self._press_ms[worker] = min(attempt.sent_ms for attempt in held) + PRESS_MS

    def _end_settled(self, worker: bytes, state: State) -> None:
        for attempt in list(self._owed.get(worker, {}).values()):
            if self._is_ended(attempt, state):
                self.end(attempt)

    def _is_ended(self, attempt: Attempt, state: State) -> bool:
        voucher = attempt.item.voucher
        channel = state.channels.get(voucher.channel)
        if channel is None:
            return True
        return channel.settled_seq >= voucher.seq and not self._purse.is_overpaid(voucher.channel, channel)


def _is_left(attempt: Attempt, now_ms: int) -> bool:
    return attempt.is_called_off and now_ms < attempt.item.request.deadline_ms
