"""A sparse Merkle tree over the ledger's entries: one root for all of them, and short proofs that one is there or not.

Keys are 32-byte hashes. A leaf is sha256(0x00 ‖ key ‖ value digest), a branch sha256(0x01 ‖ left ‖ right), nothing is
32 zero bytes; a subtree that holds one leaf is that leaf. Trees are never changed: an update shares all it can with the
tree it came from, so that the order of updates leaves no trace in the root.
"""

from bisect import bisect_left
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, NamedTuple, Union

from protocol.errors import RemoteError
from protocol.fast_dataclass import fast_dataclass
from protocol.types import AtMost, Digest

EMPTY = bytes(32)
DEPTH_MAX = 256


class InvalidTreeProof(RemoteError):
    """The proof does not fit the key or the root."""


class Leaf(NamedTuple):
    key: bytes
    digest: bytes  # of the value
    root: bytes


class Branch(NamedTuple):
    """Has more than one leaf below it. One side may be empty, where keys begin alike."""

    left: "Tree"
    right: "Tree"
    root: bytes


Tree = Union[Leaf, Branch, None]  # noqa: UP007  (a forward reference cannot stand in X | Y)
Change = tuple[bytes, bytes | None]  # key, digest of the new value or None


@fast_dataclass(frozen=True)
class TreeProof:
    """The way from the root to a key. `siblings` begin below the root.

    Where the way ends there is the key's own leaf, nothing, or the leaf of another key: then `other` holds that key and
    its value digest, and is empty otherwise.
    """

    siblings: Annotated[tuple[Digest, ...], AtMost(DEPTH_MAX)]
    other: Annotated[tuple[Digest, ...], AtMost(2)]


def get_root(tree: Tree) -> bytes:
    return EMPTY if tree is None else tree.root


def update(tree: Tree, changes: Mapping[bytes, bytes | None]) -> Tree:
    """The tree with value digests put at keys of 32 bytes, or taken away where None. Unknown keys may be taken away."""
    return _update(tree, sorted(changes.items()), 0)


def prove(tree: Tree, key: bytes) -> TreeProof:
    """A proof of what is at `key`, or that nothing is."""
    siblings = []
    depth = 0
    while isinstance(tree, Branch):
        is_right = _get_bit(key, depth)
        siblings.append(get_root(tree.left if is_right else tree.right))
        tree = tree.right if is_right else tree.left
        depth += 1
    if tree is None or tree.key == key:
        return TreeProof(tuple(siblings), ())
    return TreeProof(tuple(siblings), (tree.key, tree.digest))


def compute_proven_root(key: bytes, digest: bytes | None, proof: TreeProof) -> bytes:
    """The root of a tree in which `key` has a value of that digest, or none. InvalidTreeProof for another key's proof.

    A proof holds when this is the root that is trusted.
    """
    if digest is not None:
        if proof.other:
            raise InvalidTreeProof("a proof of presence that ends at another key")
        root = _hash_leaf(key, digest)
    elif proof.other:
        root = _hash_other(key, proof)
    else:
        root = EMPTY
    for depth in range(len(proof.siblings) - 1, -1, -1):
        sibling = proof.siblings[depth]
        root = _hash_branch(sibling, root) if _get_bit(key, depth) else _hash_branch(root, sibling)
    return root


def _hash_other(key: bytes, proof: TreeProof) -> bytes:
    if len(proof.other) != 2:
        raise InvalidTreeProof("another leaf is a key and a digest")
    other, digest = proof.other
    shared = (int.from_bytes(key, "big") ^ int.from_bytes(other, "big")).bit_length()
    if other == key or DEPTH_MAX - shared < len(proof.siblings):
        raise InvalidTreeProof("the other leaf does not stand in this key's way")
    return _hash_leaf(other, digest)


def _update(tree: Tree, changes: list[Change], depth: int) -> Tree:
    if not changes:
        return tree
    if isinstance(tree, Branch):
        middle = _find_middle(changes, depth)
        left, right = tree.left, tree.right
        return _join(_update(left, changes[:middle], depth + 1), _update(right, changes[middle:], depth + 1))
    leaves = [(key, digest) for key, digest in changes if digest is not None]
    if tree is not None and all(key != tree.key for key, _ in changes):
        leaves = sorted([*leaves, (tree.key, tree.digest)])
    return _build(leaves, depth)


def _build(leaves: list[tuple[bytes, bytes]], depth: int) -> Tree:
    if not leaves:
        return None
    if len(leaves) == 1:
        key, digest = leaves[0]
        return Leaf(key, digest, _hash_leaf(key, digest))
    middle = _find_middle(leaves, depth)
    return _join(_build(leaves[:middle], depth + 1), _build(leaves[middle:], depth + 1))


def _join(left: Tree, right: Tree) -> Tree:
    if right is None and not isinstance(left, Branch):
        return left
    if left is None and not isinstance(right, Branch):
        return right
    return Branch(left, right, _hash_branch(get_root(left), get_root(right)))


def _find_middle(items: "list[tuple[bytes, bytes]] | list[Change]", depth: int) -> int:
    """Where keys with a 1 at this depth begin; all of them are alike before it."""
    return bisect_left(items, 1, key=lambda item: _get_bit(item[0], depth))


def _get_bit(key: bytes, depth: int) -> int:
    return key[depth >> 3] >> (7 - (depth & 7)) & 1


def _hash_leaf(key: bytes, digest: bytes) -> bytes:
    return sha256(b"\x00" + key + digest).digest()


def _hash_branch(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()
