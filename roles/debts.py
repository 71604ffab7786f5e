"""What workers owe a client: an answer, or a refusal, for each voucher it has given them.

A worker that has taken a voucher and said nothing gets no other one until it has spoken after all, or the ledger has
ended that voucher and not paid for it. So a worker that keeps vouchers for nothing costs a client one step of them.
One that was told to leave a job has until the deadline: until then that voucher is one of those its step allows.
"""

from collections.abc import Iterator

from protocol.ledger.state import State
from roles.attempts import Attempt
from roles.purse import Purse

PRESS_MS = 2_000


class Debts:
    """Attempts whose request is over and which nobody has answered, by worker."""

    def __init__(self, purse: Purse) -> None:
        self._purse = purse
        self._owed: dict[bytes, dict[tuple[bytes, int], Attempt]] = {}
        self._looked: dict[bytes, State] = {}  # at the debts of a worker with which state of the ledger

    def begin(self, attempt: Attempt) -> None:
        """The request is over, and the worker may hold its voucher."""
        self._owed.setdefault(attempt.worker, {})[attempt.item.voucher.request_id, attempt.number] = attempt
        self._looked.pop(attempt.worker, None)

    def find(self, worker: bytes, request_id: bytes, number: int) -> Attempt | None:
        return self._owed.get(worker, {}).get((request_id, number))

    def list_all(self) -> list[Attempt]:
        return [attempt for held in self._owed.values() for attempt in held.values()]

    def end(self, attempt: Attempt) -> None:
        self._looked.pop(attempt.worker, None)  # what it has answered weighs against what it was paid
        held = self._owed.get(attempt.worker, {})
        held.pop((attempt.item.voucher.request_id, attempt.number), None)
        if not held:
            self._owed.pop(attempt.worker, None)

    def weigh(self, worker: bytes, state: State, now_ms: int) -> tuple[int, bool]:
        """How many vouchers the worker may hold of jobs that it was told to leave, and whether it gets no other now."""
        if self._looked.get(worker) is not state:  # asked for each job; a debt ends on the ledger
            self._end_settled(worker, state)
            self._looked[worker] = state
        held = self._owed.get(worker, {})
        left = sum(_is_left(attempt, now_ms) for attempt in held.values())
        return left, left < len(held)

    def press(self, worker: bytes, now_ms: int) -> Iterator[Attempt]:
        """What to ask the worker for once more, now and then: an honest one answers or refuses, however late."""
        for attempt in self._owed.get(worker, {}).values():
            if now_ms >= attempt.sent_ms + PRESS_MS:
                attempt.sent_ms = now_ms
                yield attempt

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
