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


class SumTree:
    """The tree over at least one leaf, every branch computed once. InvalidSumProof for a sum beyond what is counted."""

    def __init__(self, leaves: Sequence[SumNode]) -> None:
        self._leaves = leaves
        self._branches: dict[tuple[int, int], SumNode] = {}  # by first leaf and number of leaves
        self.root = self._get(0, len(leaves))

    def prove(self, index: int) -> tuple[SumNode, ...]:
        """The siblings on the way from a leaf to the root, the leaf's own first."""
        path: list[SumNode] = []
        first, count = 0, len(self._leaves)
        while count > 1:
            middle = _split(count)
            if index < first + middle:
                path.append(self._get(first + middle, count - middle))
                count = middle
            else:
                path.append(self._get(first, middle))
                first, count = first + middle, count - middle
        return tuple(reversed(path))

    def _get(self, first: int, count: int) -> SumNode:
        if count == 1:
            return self._leaves[first]
        branch = self._branches.get((first, count))
        if branch is None:
            middle = _split(count)
            branch = _join(self._get(first, middle), self._get(first + middle, count - middle))
            self._branches[first, count] = branch
        return branch


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
