"""Orders the ledger: gathers valid transactions and turns them into certified blocks, on demand.

One validator decides alone for now; its block carries a one-signature certificate in the final format.
"""

from protocol.codec import decode, encode
from protocol.errors import NonceMismatch, ProtocolError
from protocol.ledger.apply import build_block, check_transaction, next_due_ms
from protocol.ledger.block import certify
from protocol.ledger.randomness import find_reveal
from protocol.ledger.state import State
from protocol.ledger.transactions import Transaction, compute_transaction_id
from protocol.messages import Accepted, Head, Refused, Transactions
from roles.role import (
    Context,
    Decided,
    Effect,
    Event,
    LedgerAdvanced,
    Publish,
    Received,
    Record,
    Reply,
    Requested,
    Role,
    SetTimer,
    Started,
    Submit,
    TimerFired,
)

POOL_MAX = 4_096
POOL_PER_ACCOUNT_MAX = 64
BLOCK_INTERVAL_MS = 250  # between two blocks, so that transactions gather


class Validator(Role):
    name = "validator"
    topics = ("txs",)
    protocols = ("txs",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if context.vote is None:
            raise ValueError("a validator needs a vote key")
        self._vote = context.vote
        self._interval_ms = int(context.config.get("block_interval_ms", BLOCK_INTERVAL_MS))
        self._pool: dict[bytes, Transaction] = {}
        self._built_ms = 0
        self._is_building = False

    @property
    def load(self) -> int:
        return len(self._pool)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Started(state):
                self._state = state
                return self._wake_when_due()
            case Received(message=Transactions(items), topic="txs"):
                for data in items:
                    self._take(data, now_ms)
                return self._plan(now_ms)
            case Requested(message=Transactions(items), token=token):
                reasons = [reason for data in items if (reason := self._take(data, now_ms))]
                answer = Refused("; ".join(reasons)[:500]) if reasons else Accepted()
                return [Reply(token, answer), *self._plan(now_ms)]
            case Requested(token=token):
                return [Reply(token, Refused("a validator takes transactions only"))]
            case LedgerAdvanced(state, transactions):
                return self._advance(state, transactions, now_ms)
            case TimerFired("build"):
                self._is_building = False
                return self._build(now_ms)
            case TimerFired("due"):
                return self._build(now_ms)
            case _:
                return []

    def _take(self, data: bytes, now_ms: int) -> str:
        """Put one transaction into the pool; the reason when it is refused."""
        try:
            transaction = decode(Transaction, data)
            key = compute_transaction_id(transaction)
            if key in self._pool:
                return ""
            check_transaction(self._ledger, transaction, time_ms=now_ms)
        except NonceMismatch as error:
            # An old number is settled: by this transaction or another, which its sender sees once it has caught up.
            return "" if error.got < error.expected else f"NonceMismatch: {error}"
        except ProtocolError as error:
            return f"{type(error).__name__}: {error}"
        from_account = sum(held.account == transaction.account for held in self._pool.values())
        if len(self._pool) >= POOL_MAX or from_account >= POOL_PER_ACCOUNT_MAX:
            return f"the pool is full ({len(self._pool)} transactions, {from_account} of this account)"
        self._pool[key] = transaction
        return ""

    def _plan(self, now_ms: int) -> list[Effect]:
        if not self._pool or self._is_building:
            return []
        self._is_building = True
        return [SetTimer("build", max(now_ms, self._built_ms + self._interval_ms))]

    def _build(self, now_ms: int) -> list[Effect]:
        state = self._ledger
        time_ms = max(now_ms, state.time_ms + 1)
        due_ms = next_due_ms(state)
        if not self._pool and (due_ms is None or due_ms > time_ms):
            return self._wake_when_due()
        candidates = sorted(self._pool.values(), key=lambda transaction: (transaction.account, transaction.nonce))
        builder = self.context.account.public
        reveal = find_reveal(state, builder, self._vote)
        block, after, dropped = build_block(state, candidates, time_ms, builder, reveal=reveal)
        effects: list[Effect] = []
        for transaction, error in dropped:
            self._pool.pop(compute_transaction_id(transaction), None)
            effects.append(Record("transaction.dropped", {"account": transaction.account, "reason": str(error)}))
        if not block.transactions and (due_ms is None or due_ms > time_ms):
            return effects
        self._built_ms = now_ms
        header = block.header
        certificate = certify(header, self._vote)
        fields = {"height": header.height, "transactions": len(block.transactions), "bytes": len(encode(block))}
        # The core commits the block before anything after it leaves the node: no head without its block on disk.
        decided = Submit(Decided(block, certificate, after))
        return [*effects, decided, Record("block.decided", fields), Publish("heads", Head(header, certificate))]

    def _advance(self, state: State, transactions: tuple[Transaction, ...], now_ms: int) -> list[Effect]:
        self._state = state
        for transaction in transactions:
            self._pool.pop(compute_transaction_id(transaction), None)
        stale = [key for key, held in self._pool.items() if held.nonce < state.get_nonce(held.account)]
        for key in stale:
            del self._pool[key]
        return [*self._plan(now_ms), *self._wake_when_due()]

    def _wake_when_due(self) -> list[Effect]:
        due_ms = next_due_ms(self._ledger)
        return [] if due_ms is None else [SetTimer("due", due_ms)]
