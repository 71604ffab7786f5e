"""What workers owe a client: an answer, or a refusal, for each voucher it has given them.

Whoever lets a request end without a word gets no other voucher until it has spoken about one. What it still owes then
counts among the vouchers that it may hold at a time, its step, until it has answered it as well or the ledger has ended
that voucher and not paid for it. So a worker that keeps vouchers for nothing costs a client one step of them.
"""

from collections.abc import Iterator

from protocol.ledger.state import State
from roles.attempts import Attempt
from roles.purse import Purse

PRESS_MS = 2_000


class Debts:
    """Attempts whose request is over and which nobody has answered, by worker.

    A worker that died under load owes hundreds and is asked about for every job: what was looked through is remembered.
    """

    def __init__(self, purse: Purse) -> None:
        self._purse = purse
        self._owed: dict[bytes, dict[tuple[bytes, int], Attempt]] = {}
        self._looked: dict[bytes, State] = {}  # the ledger by which a worker's debts were last looked through
        self._silent: set[bytes] = set()  # who has said nothing since it let a request end
        self._press_ms: dict[bytes, int] = {}  # before then nothing is to be asked of the worker

    def begin(self, attempt: Attempt) -> None:
        """The request is over, and the worker may hold its voucher."""
        self._owed.setdefault(attempt.worker, {})[attempt.item.voucher.request_id, attempt.number] = attempt
        self._looked.pop(attempt.worker, None)
        if attempt.is_late or not attempt.is_called_off:
            self._silent.add(attempt.worker)
        due_ms = attempt.sent_ms + PRESS_MS
        self._press_ms[attempt.worker] = min(due_ms, self._press_ms.get(attempt.worker, due_ms))

    def find(self, worker: bytes, request_id: bytes, number: int) -> Attempt | None:
        return self._owed.get(worker, {}).get((request_id, number))

    def list_all(self) -> list[Attempt]:
        return [attempt for held in self._owed.values() for attempt in held.values()]

    def end(self, attempt: Attempt) -> None:
        """The worker has spoken about it."""
        self._silent.discard(attempt.worker)
        self._remove(attempt)

    def is_silent(self, worker: bytes) -> bool:
        """Whether it owes something and has not been heard of since."""
        return worker in self._silent

    def count(self, worker: bytes, state: State) -> int:
        """How many vouchers the worker holds of requests that are over."""
        if self._looked.get(worker) is not state:  # a debt ends on the ledger
            self._end_settled(worker, state)
            self._looked[worker] = state
        return len(self._owed.get(worker, ()))

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

    def _remove(self, attempt: Attempt) -> None:
        self._looked.pop(attempt.worker, None)  # what it has answered weighs against what it was paid
        held = self._owed.get(attempt.worker, {})
        held.pop((attempt.item.voucher.request_id, attempt.number), None)
        if not held:
            self._owed.pop(attempt.worker, None)
            self._press_ms.pop(attempt.worker, None)
            self._silent.discard(attempt.worker)

    def _end_settled(self, worker: bytes, state: State) -> None:
        for attempt in list(self._owed.get(worker, {}).values()):
            if self._is_ended(attempt, state):
                self._remove(attempt)

    def _is_ended(self, attempt: Attempt, state: State) -> bool:
        voucher = attempt.item.voucher
        channel = state.channels.get(voucher.channel)
        if channel is None:
            return True
        return channel.settled_seq >= voucher.seq and not self._purse.is_overpaid(voucher.channel, channel)
