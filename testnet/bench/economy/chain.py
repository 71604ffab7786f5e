"""The real ledger, moved on block by block: whoever takes part hands in orders, the next validator's block takes them.

Blocks are built as followers apply certified ones, without a look at Ed25519 signatures, so nobody signs. Everything
else is the ledger's own: nonces, fees, draws, deadlines, payouts. Every block is held against the supply of genesis.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocol.codec import encode
from protocol.errors import LocalError
from protocol.keys import Signer
from protocol.ledger.apply import build_block
from protocol.ledger.block import get_validators, is_quorum
from protocol.ledger.fees import with_fee
from protocol.ledger.randomness import find_reveal, plan_onion
from protocol.ledger.state import State, compute_supply
from protocol.ledger.transactions import Transaction, get_transaction_kind

VALID_MS = 3_600_000
NOT_SIGNED = bytes(64)


class NotConserved(LocalError):
    """A block has made or lost money. In grains."""

    def __init__(self, height: int, have: int, supply: int) -> None:
        super().__init__(f"after block {height} there are {have} grains, genesis handed out {supply}")
        self.height = height
        self.have = have
        self.supply = supply


@dataclass(frozen=True)
class Order:
    """What an account asks of the ledger; nonce and fee are those of the block that takes it."""

    account: bytes
    body: Any


class Chain:
    """A state and the orders that wait for the next block. `votes` are the vote keys of validators, by account."""

    def __init__(self, state: State, votes: Mapping[bytes, Signer]) -> None:
        self.state = state
        self.before = state  # the one before the last block
        self.votes = votes
        self.refused: Counter[str] = Counter()  # orders, by the error's name
        self._orders: list[Order] = []

    def submit(self, account: bytes, body: Any) -> None:
        self._orders.append(Order(account, body))

    def advance(self, time_ms: int, absent: frozenset[bytes] = frozenset()) -> bool:
        """Build the next block, if the validators that are there are a quorum. What does not fit waits.

        Raises NotConserved.
        """
        state = self.state
        validators = get_validators(state)
        here = [item for item in validators if item.account not in absent]
        if not is_quorum(sum(item.weight for item in here), sum(item.weight for item in validators)):
            return False
        for item in here:
            onion = plan_onion(state, item.account, self.votes[item.account])
            if onion is not None:
                self.submit(item.account, onion)
        builder = here[state.height % len(here)].account
        after = self._build(time_ms, builder, find_reveal(state, builder, self.votes[builder]))
        have = compute_supply(after)
        if have != state.supply:
            raise NotConserved(after.height, have, state.supply)
        self.before, self.state = state, after
        return True

    def _build(self, time_ms: int, builder: bytes, reveal: bytes | None) -> State:
        """The state after a block of the orders. What it has no room for waits.

        An order that is refused would hold up its account's later ones: then it is built once more without it.
        """
        while True:
            written = self._write()
            block, after, dropped = build_block(
                self.state, [item for item, _ in written], time_ms, builder, check_signatures=False, reveal=reveal
            )
            self.refused.update(type(error).__name__ for _, error in dropped)
            out = {item.id for item, _ in dropped}
            self._orders = [order for item, order in written if item.id not in out]
            if not out:
                chosen = frozenset(block.transactions)
                self._orders = [order for item, order in written if item.wire not in chosen]
                return after

    def _write(self) -> list[tuple[Transaction, Order]]:
        """The orders as transactions, each with its account's next nonce and twice the base fee."""
        nonces: Counter[bytes] = Counter()
        written = []
        for order in self._orders:
            unsigned = Transaction(
                chain=self.state.chain,
                account=order.account,
                nonce=self.state.get_nonce(order.account) + nonces[order.account],
                kind=get_transaction_kind(type(order.body)),
                body=encode(order.body),
                fee=0,
                tip=0,
                valid_until_ms=self.state.time_ms + VALID_MS,
                signature=NOT_SIGNED,
            )
            written.append((with_fee(unsigned, self.state.base_fee), order))
            nonces[order.account] += 1
        return written
