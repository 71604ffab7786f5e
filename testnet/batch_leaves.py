"""Find the leaves of a batch from its root: the receipts people hold, and for the rest the reasons there may be.

A root is all the ledger keeps of a batch. Whoever knows the receipts can tell whether each has its leaf: only the true
list of leaves leads to that root.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product

from protocol.ledger.batches import BatchLeaf, make_batch_leaf
from protocol.ledger.transactions import ZeroReason
from protocol.merkle_sum import SumTree
from testnet.vouchers import Place, Root, Span

TRIES_MAX = 4_096
_REASONS = (ZeroReason.NEVER_SEEN, ZeroReason.FAILED, ZeroReason.CANCELLED, ZeroReason.UNPAYABLE)

Claims = Mapping[Place, tuple[int, bytes]]  # amount in grains and claim id of each receipt somebody holds


def find_leaves(root: Root, claims: Claims) -> dict[Place, BatchLeaf] | None:
    """Every leaf under the root; None when no list of leaves that was tried leads to it.

    Receipts are taken to be paid first, and only then to have been left out.
    """
    for is_kept in (True, False):
        spans = [list(islice(_list_ways(span, claims, is_kept), TRIES_MAX)) for span in root.spans]
        for ways in islice(product(*spans), TRIES_MAX):
            leaves = [leaf for way in ways for leaf in way]
            if SumTree([make_batch_leaf(leaf) for leaf in leaves]).root.root == root.root:
                return {(leaf.channel, leaf.seq): leaf for leaf in leaves}
    return None


def _list_ways(span: Span, claims: Claims, is_kept: bool) -> Iterator[Sequence[BatchLeaf]]:
    """The lists of leaves this span may stand for: those that come to its amount."""
    options = [list(_list_options(span.channel, seq, claims, is_kept)) for seq in range(span.first, span.last + 1)]
    for way in islice(product(*options), TRIES_MAX):
        if sum(leaf.amount for leaf in way) == span.amount:
            yield way


def _list_options(channel: bytes, seq: int, claims: Claims, is_kept: bool) -> Iterator[BatchLeaf]:
    held = claims.get((channel, seq))
    if held is not None:
        yield BatchLeaf(channel, seq, 0, *held)
    if held is None or not is_kept:
        yield from (BatchLeaf(channel, seq, reason, 0, bytes(32)) for reason in _REASONS)
