"""Whether a transaction is its account's, found out once: gossip asks, then the pool, then blocks that try it."""

from protocol.ledger.transactions import Transaction, forget_transactions
from protocol.signing import verify_once


def verify_transaction(transaction: Transaction) -> None:
    """Silence when the transaction's account has signed it, BadSignature otherwise."""
    verify_once(transaction.account, transaction.signing_bytes, transaction.signature)


def forget_verified() -> None:
    """Have everything be found out about again: for measuring."""
    forget_transactions()
    verify_once.cache_clear()
