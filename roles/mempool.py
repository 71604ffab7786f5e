"""A validator's mempool on its ledger: transactions are checked against the state on their way in.

Who may stay and who goes first is decided in `protocol.mempool`. Transactions are known by the sha256 of their bytes,
as in the outlines of blocks.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from protocol.errors import InvalidTransaction, NonceMismatch, ProtocolError
from protocol.ledger.apply import Trial, can_hold, next_due_ms
from protocol.ledger.fees import count_units
from protocol.ledger.state import State
from protocol.ledger.transactions import SettleIndividual, Transaction, get_transaction_kind, read_transaction
from protocol.mempool import Mempool as Pool
from protocol.mempool import Pooled, ReplacementTooCheap

# For jobs whose clients have been answered. Not so batches: what a worker has in those is bound by its bond (0167).
_PATIENT = get_transaction_kind(SettleIndividual)
TRIED_MAX = 8  # transactions tried on the ledger to find one that is worth a block
TRIAL_MS = 100  # for so long transactions are tried on one draft: each draft begins with all that is due


class Mempool:
    """What one validator would put into a block, by the sha256 of the encoded transaction."""

    def __init__(self) -> None:
        self._pool = Pool()
        self._trial: tuple[State, int, Trial] | None = None  # the last one, on which state, and when it was begun

    def __len__(self) -> int:
        return len(self._pool)

    def take(self, items: Iterable[bytes], state: State, now_ms: int) -> list[str]:
        """Hold transactions; the reasons of those that are refused."""
        fresh = [(digest, data) for data in items if (digest := hashlib.sha256(data).digest()) not in self._pool]
        if not fresh:
            return []  # most of what is heard has been heard before
        trial = self._begin_trial(state, now_ms)
        return [reason for digest, data in fresh if (reason := self._take(digest, data, state, trial))]

    def _begin_trial(self, state: State, now_ms: int) -> Trial:
        if self._trial is not None:
            on, begun_ms, trial = self._trial
            if on is state and begun_ms <= now_ms < begun_ms + TRIAL_MS:
                return trial
        trial = Trial(state, now_ms)
        self._trial = state, now_ms, trial
        return trial

    def _take(self, digest: bytes, data: bytes, state: State, trial: Trial) -> str:
        if digest in self._pool:
            return ""
        try:
            transaction = read_transaction(data)
            trial.check(transaction)
            self._pool.add(_weigh(digest, transaction, data), state.get_nonce(transaction.account))
        except NonceMismatch as error:
            # An old number is settled: by this transaction or another, which its sender sees once it has caught up.
            return "" if error.got < error.expected else f"NonceMismatch: {error}"
        except ReplacementTooCheap as error:
            # The same order signed anew for a longer time: its sender repeats it, it comes in when the old one ends.
            return "" if self._waits(transaction) else f"ReplacementTooCheap: {error}"
        except ProtocolError as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def get(self, digest: bytes) -> bytes | None:
        """The encoded transaction with this sha256."""
        item = self._pool.get(digest)
        return None if item is None else item.data

    def list_in_order(self, state: State) -> Iterator[Transaction]:
        """All that can follow one another onto the ledger, as a builder wants them. Not to be changed meanwhile."""
        return (_open(item) for item in self._pool.list_ready(state.base_fee))

    def get_cause(self, state: State) -> tuple[bytes, ...]:
        """What somebody waits for, or else the best that a block could hold: enough to wake others."""
        first = next(chain(self._list_pressing(state), self._pool.list_ready(state.base_fee)), None)
        return () if first is None else (first.data,)

    def is_pressing(self, state: State) -> bool:
        """Whether somebody waits for a transaction that a block could hold."""
        return any(True for _ in self._list_pressing(state))

    def _list_pressing(self, state: State) -> Iterator[Pooled]:
        return (item for item in self._pool.list_ready(state.base_fee) if is_waited_for(_open(item)))

    def drop(self, transactions: Iterable[Transaction]) -> None:
        self._pool.drop(hashlib.sha256(transaction.wire).digest() for transaction in transactions)

    def advance(self, state: State, included: Iterable[Transaction]) -> None:
        """A block holds these: they and whatever they have made stale wait no more, nor what has expired."""
        nonces = {transaction.account: state.get_nonce(transaction.account) for transaction in included}
        self._pool.advance(nonces, state.time_ms)

    def is_reason(self, state: State, time_ms: int) -> bool:
        """Whether a block of this time would hold something: a due item that wakes, or a transaction of ours."""
        if is_due(state, time_ms):
            return True
        ready = self._pool.list_ready(state.base_fee)
        heads = (item for item in ready if item.nonce == state.get_nonce(item.account))
        for item in list(islice(heads, TRIED_MAX)):
            try:
                if can_hold(state, _open(item), time_ms):
                    return True
            except InvalidTransaction:
                self._pool.drop((item.id,))
        return False

    def _waits(self, transaction: Transaction) -> bool:
        """Whether the same order is here already under the same number."""
        held = self._pool.find(transaction.account, transaction.nonce)
        if held is None:
            return False
        other = _open(held)
        return (other.kind, other.body) == (transaction.kind, transaction.body)


def is_waited_for(transaction: Transaction) -> bool:
    """Whether somebody does nothing, or less, until it is final."""
    return transaction.kind != _PATIENT


def is_due(state: State, time_ms: int) -> bool:
    """Whether the ledger itself calls for a block of this time."""
    due_ms = next_due_ms(state)
    return due_ms is not None and due_ms <= time_ms


def _weigh(digest: bytes, transaction: Transaction, data: bytes) -> Pooled:
    units = count_units(len(data))
    price, tip = transaction.fee // units, transaction.tip // units
    ends_ms = transaction.valid_until_ms
    return Pooled(digest, transaction.account, transaction.nonce, price, tip, ends_ms, data, transaction)


def _open(item: Pooled) -> Transaction:
    assert item.transaction is not None  # `_weigh` has put it there
    return item.transaction
