"""Whether a transaction is its account's, found out once.

Gossip asks, then the pool, then every block that tries the transaction. A signature that has held is remembered;
one that has not never is, so that junk cannot push out what was worth the work.
"""

from functools import lru_cache

from protocol.errors import BadSignature
from protocol.keys import verify
from protocol.ledger.transactions import Transaction, forget_transactions

REMEMBERED_MAX = 16_384  # about half a KiB each


def verify_transaction(transaction: Transaction) -> None:
    """Silence when the transaction's account has signed it, BadSignature otherwise."""
    _verify_once(transaction.account, transaction.signing_bytes, transaction.signature)


def forget_verified() -> None:
    """Have everything be found out about again: for measuring."""
    forget_transactions()
    _verify_once.cache_clear()


@lru_cache(maxsize=REMEMBERED_MAX)
def _verify_once(public: bytes, data: bytes, signature: bytes) -> None:
    # An exception is not remembered, which is what we want.
    if not verify(public, data, signature):
        raise BadSignature(f"Transaction is not signed by {public.hex()}")
