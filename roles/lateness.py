"""What a worker turns away while the ledger is late with what it has done already.

Where more is answered than settled, what is done waits ever longer for its money: until verifiers demand it, on that
same ledger, or its voucher has run out. So a worker takes no more than is settled. The longer a job would wait, the
more of what it is asked it turns away (random early detection, Floyd and Jacobson, 1993): answers are not stopped and
begun again with each block. Which requests is told by their ids, as in `throttle`: those that one worker has turned
away their clients keep back.
"""

from collections import deque
from typing import NamedTuple

from protocol.jobs import Mode, PaidRequest
from protocol.ledger.state import State
from roles.admission import NotAdmitted, RefusalCode
from roles.workbook import Workbook

GUESS_TIMES = 1.5  # a wait is foreseen to be so many times that of the oldest job, at most


class Tolerance(NamedTuple):
    """How long what is done may wait, until the first request is turned away and until all are."""

    first_ms: int
    all_ms: int

    @property
    def rate_ms(self) -> int:
        """For how long settled jobs are counted, to tell how many are in a second: some blocks, or batches."""
        return self.first_ms * 3 // 2

    def compute_share(self, wait_ms: float) -> float:
        """Of what is asked, that is turned away.

        >>> Tolerance(4_000, 12_000).compute_share(6_000)
        0.25
        """
        return min(max(0.0, (wait_ms - self.first_ms) / (self.all_ms - self.first_ms)), 1.0)


# Verifiers demand an attested job 10 s after its deadline (`demander.AFTER_MS`). A batch is bound by its worker's bond
# and may wait for the one before it to be paid out, but its vouchers end a minute after their deadlines.
SINGLE = Tolerance(4_000, 12_000)
BATCHED = Tolerance(15_000, 45_000)


class Flow:
    """Jobs of one mode on their way through the ledger."""

    def __init__(self, tolerance: Tolerance) -> None:
        self.wait_ms = 0.0  # that a job has before it, as far as can be foreseen
        self._tolerance = tolerance
        self._settled: deque[tuple[int, int]] = deque()  # when, and how many

    @property
    def share(self) -> float:
        """Of what is asked, that is turned away."""
        return self._tolerance.compute_share(self.wait_ms)

    def look(self, settled: int, waiting: int, oldest_ms: int, now_ms: int) -> None:
        """So many were settled since it was looked last, so many wait, the oldest of them for so long.

        How long a job will wait is told by Little's law: by the wait of the oldest alone it would be known when it is
        over.
        """
        self._settled.append((now_ms, settled))
        while self._settled[0][0] < now_ms - self._tolerance.rate_ms:
            self._settled.popleft()
        settled_lately = sum(count for _, count in self._settled)
        self.wait_ms = GUESS_TIMES * oldest_ms
        if settled_lately:
            self.wait_ms = min(self.wait_ms, self._tolerance.rate_ms * waiting / settled_lately)


class Lateness:
    """Of the ledger, with the jobs of one worker's `book`."""

    def __init__(self, book: Workbook) -> None:
        self._book = book
        self._flows = {str(mode): Flow(SINGLE if mode is Mode.INDIVIDUAL else BATCHED) for mode in Mode}
        self._settled: dict[bytes, int] = {}  # channel -> the last voucher that was, when it was looked last

    def look(self, state: State, now_ms: int) -> None:
        """To be told now and then."""
        found = self._book.list_backlogs(state, now_ms)
        for mode, flow in self._flows.items():
            of_mode = {key: backlog for key, backlog in found.items() if backlog.mode == mode}
            news = sum(each.settled_seq - self._settled.get(key, each.settled_seq) for key, each in of_mode.items())
            waiting = sum(backlog.waiting for backlog in of_mode.values())
            oldest_ms = now_ms - min((backlog.since_ms for backlog in of_mode.values()), default=now_ms)
            flow.look(news, waiting, oldest_ms, now_ms)
        self._settled = {key: backlog.settled_seq for key, backlog in found.items()}

    def check(self, item: PaidRequest) -> None:
        """NotAdmitted for what is to wait until the ledger has caught up."""
        flow = self._flows.get(item.request.mode)
        if flow is not None and int.from_bytes(item.voucher.request_id[-4:], "big") < flow.share * 2**32:
            wait_s = flow.wait_ms / 1_000
            raise NotAdmitted(RefusalCode.BEHIND, f"what was done before waits {wait_s:.0f} s for the ledger")
