"""Valid transactions that wait for a block, bounded, and fair to every account."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from protocol.codec import decode, encode
from protocol.errors import NonceMismatch, ProtocolError
from protocol.ledger.apply import build_block, check_transaction, next_due_ms
from protocol.ledger.state import State
from protocol.ledger.transactions import Transaction

POOL_MAX = 4_096
POOL_PER_ACCOUNT_MAX = 64
TRIED_MAX = 8  # transactions tried on the ledger to find one that is worth a block


@dataclass(frozen=True)
class Held:
    """A transaction with its bytes as they came."""

    transaction: Transaction
    data: bytes


class Mempool:
    """What one validator would put into a block, by the sha256 of the encoded transaction."""

    def __init__(self) -> None:
        self._held: dict[bytes, Held] = {}
        self._per_account: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._held)

    def take(self, data: bytes, state: State, now_ms: int) -> str:
        """Hold one transaction; the reason when it is refused."""
        digest = hashlib.sha256(data).digest()
        if digest in self._held:
            return ""
        try:
            transaction = decode(Transaction, data)
            check_transaction(state, transaction, time_ms=now_ms)
        except NonceMismatch as error:
            # An old number is settled: by this transaction or another, which its sender sees once it has caught up.
            return "" if error.got < error.expected else f"NonceMismatch: {error}"
        except ProtocolError as error:
            return f"{type(error).__name__}: {error}"
        from_account = self._per_account[transaction.account]
        if len(self._held) >= POOL_MAX or from_account >= POOL_PER_ACCOUNT_MAX:
            return f"the pool is full ({len(self._held)} transactions, {from_account} of this account)"
        self._held[digest] = Held(transaction, data)
        self._per_account[transaction.account] += 1
        return ""

    def get(self, digest: bytes) -> bytes | None:
        """The encoded transaction with this sha256."""
        held = self._held.get(digest)
        return None if held is None else held.data

    def list_in_order(self) -> list[Transaction]:
        """All of them, by account and nonce."""
        held = (item.transaction for item in self._held.values())
        return sorted(held, key=lambda transaction: (transaction.account, transaction.nonce))

    def get_cause(self, state: State) -> tuple[bytes, ...]:
        """The oldest that a block could hold: enough to wake others."""
        nonce = state.get_nonce
        for held in self._held.values():
            if held.transaction.nonce == nonce(held.transaction.account):
                return (held.data,)
        return ()

    def drop(self, transactions: Iterable[Transaction]) -> None:
        for transaction in transactions:
            self._forget(hashlib.sha256(encode(transaction)).digest())

    def advance(self, state: State, included: Iterable[Transaction]) -> None:
        """A block holds these: they and whatever they have made stale wait no more."""
        self.drop(included)
        nonce = state.get_nonce
        stale = [key for key, item in self._held.items() if item.transaction.nonce < nonce(item.transaction.account)]
        for key in stale:
            self._forget(key)

    def is_reason(self, state: State, time_ms: int, builder: bytes) -> bool:
        """Whether a block of this time would hold something: a due item that wakes, or a transaction of ours."""
        if is_due(state, time_ms):
            return True
        nonce = state.get_nonce
        ready = (item.transaction for item in self._held.values())
        fitting = [item for item in ready if item.nonce == nonce(item.account)][:TRIED_MAX]
        for transaction in fitting:
            block, _, dropped = build_block(state, (transaction,), time_ms, builder)
            self.drop(item for item, _ in dropped)
            if block.transactions:
                return True
        return False

    def _forget(self, digest: bytes) -> None:
        held = self._held.pop(digest, None)
        if held is not None:
            self._per_account -= Counter((held.transaction.account,))


def is_due(state: State, time_ms: int) -> bool:
    """Whether the ledger itself calls for a block of this time."""
    due_ms = next_due_ms(state)
    return due_ms is not None and due_ms <= time_ms
