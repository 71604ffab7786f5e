"""When a validator makes its next block: so that transactions gather, and nobody waits for a crowd.

A block may follow the last one when that is as old as it took to be decided: blocks cost half of the time at most, and
who comes alone does not wait for a crowd; nor does one that is there already. Who decides alone does so at once, and
learns nothing of what its blocks cost others. What nobody waits for gathers for longer.
"""

from protocol.ledger.apply import next_due_ms
from protocol.ledger.settlement import PAYOUT_KIND
from protocol.ledger.state import State
from roles.mempool import Mempool

BLOCK_INTERVAL_MS = 250  # at most between two blocks, so that transactions gather; less while blocks are quick
GATHERING = 2  # such intervals between blocks of nothing but settlements and payouts: their clients have been answered
REST_MIN_MS = 20  # at least, however quick they are
CROWD = 128  # waiting transactions, between which what a block costs is divided well enough


class Pace:
    """Of one validator's blocks, of what its `pool` holds and of what falls due."""

    def __init__(self, pool: Mempool, interval_ms: int) -> None:
        self._pool = pool
        self._interval_ms = interval_ms
        self._gathering_ms = GATHERING * interval_ms
        self._decided_ms = 0
        self._began_ms = 0  # this height; 0 while it sleeps
        self.took_ms = 0  # the last height, from its beginning to its decision

    def note_begun(self, now_ms: int) -> None:
        """This height is awake, now or since before."""
        self._began_ms = self._began_ms or now_ms

    def note_decided(self, now_ms: int) -> None:
        """This height is over."""
        self._decided_ms = now_ms
        self.took_ms = now_ms - self._began_ms if self._began_ms else 0

    def sleep(self) -> None:
        """The next height waits to be begun."""
        self._began_ms = 0

    def compute_next_ms(self, state: State, is_alone: bool) -> int | None:
        """When there is something to put into a block and the last one is old enough, or something falls due; None
        while nothing is foreseen."""
        due_ms = self.compute_due_ms(state)
        times = [] if due_ms is None else [due_ms]
        if len(self._pool):
            times.append(self._decided_ms + self._compute_rest_ms(state, is_alone))
        return min(times, default=None)

    def compute_due_ms(self, state: State) -> int | None:
        """When what falls due calls for a block: all of it, and sooner what is no payout."""
        found = (
            (next_due_ms(state), self._gathering_ms),
            (next_due_ms(state, but=PAYOUT_KIND), self._interval_ms),
        )
        times = (max(due_ms, self._decided_ms + rest_ms) for due_ms, rest_ms in found if due_ms is not None)
        return min(times, default=None)

    def _compute_rest_ms(self, state: State, is_alone: bool) -> int:
        """From the last block to one of what the pool holds."""
        if len(self._pool) >= CROWD:
            return 0
        if not self._pool.is_pressing(state):
            return self._gathering_ms
        return self._interval_ms if is_alone else min(max(self.took_ms, REST_MIN_MS), self._interval_ms)
