"""A Merkle tree whose root commits to leaves and to the sum of their amounts: nobody can prove leaves worth more.

A leaf is sha256(0x02 ‖ digest ‖ amount), a branch sha256(0x03 ‖ left ‖ left sum ‖ right ‖ right sum), sums of eight
bytes. A tree of n leaves splits at the largest power of two below n (RFC 6962), so that n and an index fix the shape of
a path.
"""

from collections.abc import Sequence
from hashlib import sha256

from protocol.errors import RemoteError
from protocol.fast_dataclass import fast_dataclass
from protocol.types import INT_MAX, Digest, Grains

SUM_PATH_MAX = 32


class InvalidSumProof(RemoteError):
    """The path does not lead from this leaf to a root of that many leaves."""


@fast_dataclass(frozen=True)
class SumNode:
    """A subtree: its root and the sum of its leaves' amounts."""

    root: Digest
    total: Grains


def make_sum_leaf(digest: bytes, amount: int) -> SumNode:
    return SumNode(sha256(b"\x02" + digest + amount.to_bytes(8, "big")).digest(), amount)


def compute_sum_root(leaves: Sequence[SumNode]) -> SumNode:
    """The root of at least one leaf. InvalidSumProof when the sum is more than can be counted."""
    if len(leaves) == 1:
        return leaves[0]
    middle = _split(len(leaves))
    return _join(compute_sum_root(leaves[:middle]), compute_sum_root(leaves[middle:]))


def prove_sum(leaves: Sequence[SumNode], index: int) -> tuple[SumNode, ...]:
    """The siblings on the way from a leaf to the root, the leaf's own first."""
    if len(leaves) == 1:
        return ()
    middle = _split(len(leaves))
    if index < middle:
        return (*prove_sum(leaves[:middle], index), compute_sum_root(leaves[middle:]))
    return (*prove_sum(leaves[middle:], index - middle), compute_sum_root(leaves[:middle]))


def compute_proven_sum(leaf: SumNode, index: int, count: int, path: Sequence[SumNode]) -> SumNode:
    """The root of a tree of `count` leaves in which this leaf stands at `index`. InvalidSumProof for no such path.

    The proof holds when this is the root that is trusted, its sum included.
    """
    if not 0 <= index < count:
        raise InvalidSumProof(f"leaf {index} of {count}")
    sides = []  # from the root down: is the leaf on the right?
    while count > 1:
        middle = _split(count)
        sides.append(index >= middle)
        index, count = (index - middle, count - middle) if index >= middle else (index, middle)
    if len(path) != len(sides):
        raise InvalidSumProof(f"a path of {len(path)} siblings, {len(sides)} lead there")
    node = leaf
    for is_right, sibling in zip(reversed(sides), path, strict=True):
        node = _join(sibling, node) if is_right else _join(node, sibling)
    return node


def _split(count: int) -> int:
    return 1 << ((count - 1).bit_length() - 1)


def _join(left: SumNode, right: SumNode) -> SumNode:
    total = left.total + right.total
    if total > INT_MAX:
        raise InvalidSumProof(f"a sum of {total} grains, at most {INT_MAX} can be")
    data = left.root + left.total.to_bytes(8, "big") + right.root + right.total.to_bytes(8, "big")
    return SumNode(sha256(b"\x03" + data).digest(), total)
