"""Transfers for the benchmark, of many accounts in turn, signed before the clock starts."""

import time
from collections.abc import Sequence

from protocol.codec import encode
from protocol.keys import PrivateKey
from protocol.ledger.genesis import Genesis, compute_chain_id
from protocol.ledger.transactions import Transaction, Transfer, get_transaction_kind
from protocol.signing import sign
from testnet.network_file import SpareAccount

PAYEE = bytes([9]) * 32
FEE_GRAINS = 10**6  # ten times the least base fee, so that what a few full blocks make of it is paid
VALID_MS = 145_000  # as far ahead as gossip takes it


class Purse:
    """Number n is of account n modulo the accounts, with the nonce that follows from that."""

    def __init__(self, genesis: Genesis, accounts: Sequence[SpareAccount]) -> None:
        self._chain = compute_chain_id(genesis)
        self._payers = [PrivateKey.from_seed(bytes.fromhex(account.seed)) for account in accounts]
        self._signed: list[bytes] = []
        self._taken = 0  # of all there ever were

    def sign(self, count: int) -> None:
        """Have so many ready, valid for VALID_MS from now. What was ready before is signed anew."""
        valid_until_ms = time.time_ns() // 1_000_000 + VALID_MS
        self._signed = [self._make(number, valid_until_ms) for number in range(self._taken, self._taken + count)]
        self._signed.reverse()

    def take(self, count: int) -> list[bytes]:
        """The next so many, or what is left."""
        taken = [self._signed.pop() for _ in range(min(count, len(self._signed)))]
        self._taken += len(taken)
        return taken

    def _make(self, number: int, valid_until_ms: int) -> bytes:
        payer, nonce = self._payers[number % len(self._payers)], number // len(self._payers)
        unsigned = Transaction(
            chain=self._chain,
            account=payer.public,
            nonce=nonce,
            kind=get_transaction_kind(Transfer),
            body=encode(Transfer(PAYEE, 1 + number)),
            fee=FEE_GRAINS,
            tip=0,
            valid_until_ms=valid_until_ms,
            signature=bytes(64),
        )
        return encode(sign(unsigned, payer))
