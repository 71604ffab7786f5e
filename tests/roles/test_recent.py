"""What a node keeps for peers that missed it is bounded, in number and in bytes, and the oldest goes first."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.keys import PrivateKey
from protocol.ledger.transactions import Transaction
from protocol.signing import sign
from roles import recent
from roles.recent import Recent

SIZES = st.lists(st.integers(0, 3_000), max_size=40)


def make_transaction(nonce: int, size_bytes: int) -> Transaction:
    key = PrivateKey.from_seed(bytes(32))
    unsigned = Transaction(bytes(8), key.public, nonce, 1, bytes(size_bytes), 0, 0, 0, bytes(64))
    return sign(unsigned, key)


@given(SIZES, st.integers(1, 20), st.integers(4_000, 20_000))
def test_the_newest_transactions_that_fit_are_kept_however_often_they_come(sizes, count_max, bytes_max):
    kept_max, recent.KEPT_MAX = recent.KEPT_MAX, count_max
    kept_bytes_max, recent.KEPT_BYTES_MAX = recent.KEPT_BYTES_MAX, bytes_max
    try:
        shelf = Recent()
        transactions = [make_transaction(nonce, size) for nonce, size in enumerate(sizes)]
        for transaction in transactions:
            shelf.keep_transaction(transaction)
            shelf.keep_transaction(transaction)
        kept = shelf.get_transactions(tuple(each.id for each in transactions)).items
    finally:
        recent.KEPT_MAX, recent.KEPT_BYTES_MAX = kept_max, kept_bytes_max

    wires = [each.wire for each in transactions]
    while len(wires) > count_max or sum(map(len, wires)) > bytes_max:
        del wires[0]
    assert list(kept) == wires
