"""Audits: what shows that a node holds the bytes it was paid to keep.

What is stored under a CID are its blocks, each once: a node before what it links, links in their order, what a link
leads to before the next link. Each block is cut into pieces of 4 KiB, its last one shorter, an empty block into one
empty piece; no piece spans two blocks. A Merkle tree stands over all pieces in this order: a leaf is
sha256(0x00 ‖ piece), a branch sha256(0x01 ‖ left ‖ right), and a tree of n leaves splits at the largest power of two
below n (RFC 6962). Its root is the *audit root*. An audit draws ten pieces, or all of fewer, from a seed that nobody
knew when the node promised to keep them, for each node others; the answer is those pieces with their paths. Who lacks
a tenth of the pieces answers three audits in a row with a chance of 0.9^30 = 4.2 %.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Annotated

from protocol.cid import DAG_PB, Cid
from protocol.dag_pb import decode_node
from protocol.errors import InvalidProof, LocalError, MalformedMessage
from protocol.fast_dataclass import fast_dataclass
from protocol.signing import compute_domain_prefix
from protocol.types import AtMost, Digest, Whole
from protocol.unixfs import Block

PIECE_BYTES = 4_096
DRAWN_MAX = 10  # pieces of one audit
PATH_MAX = 32
PIECES_MAX = 2**PATH_MAX
_DRAW = compute_domain_prefix("audit")
_HASH_BYTES = 32


@fast_dataclass(frozen=True)
class Contents:
    """What a CID stands for, in so far as an audit needs to know: the size of all blocks, their pieces and the root."""

    root: Digest
    pieces: Whole
    size_bytes: Whole


@fast_dataclass(frozen=True)
class Piece:
    """One piece and the siblings on its way to the audit root, its own first."""

    data: Annotated[bytes, AtMost(PIECE_BYTES)]
    path: Annotated[tuple[Digest, ...], AtMost(PATH_MAX)]


Answer = Annotated[tuple[Piece, ...], AtMost(DRAWN_MAX)]


class TooLarge(MalformedMessage):
    """What a CID leads to is larger than was said. In bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"its blocks have more than the {limit} bytes they are said to have")
        self.limit = limit


def walk_blocks(root: Cid, read: Callable[[Cid], bytes], bytes_max: int) -> Iterator[Block]:
    """All blocks of a CID in the order of audits. Raises TooLarge, MalformedMessage, and whatever `read` does."""
    waiting, seen, size = [root], set(), 0
    while waiting:
        cid = waiting.pop()
        if cid.digest in seen:
            continue
        seen.add(cid.digest)
        data = read(cid)
        size += len(data)
        if size > bytes_max:
            raise TooLarge(bytes_max)
        yield Block(cid, data)
        if cid.codec == DAG_PB:
            waiting += reversed([link.cid for link in decode_node(data).links])


def cut_block(data: bytes) -> list[bytes]:
    """The pieces of a block.

    >>> [len(piece) for piece in cut_block(bytes(9_000))], cut_block(b"")
    ([4096, 4096, 808], [b''])
    """
    return [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)] or [b""]


class AuditTree:
    """The tree over the pieces of blocks, of which it holds the hashes alone: 8 KiB for each MiB, and as much again."""

    def __init__(self) -> None:
        self.cids: list[Cid] = []
        self._first: list[int] = []  # of each block, the number of its first piece
        self._size_bytes = 0
        self._leaves = bytearray()
        self._levels: list[bytes] = []

    def add(self, block: Block) -> None:
        """Take the next block. LocalError once the tree has been asked for its root."""
        if self._levels:
            raise LocalError("the tree is finished")
        self.cids.append(block.cid)
        self._first.append(len(self._leaves) // _HASH_BYTES)
        self._size_bytes += len(block.data)
        for piece in cut_block(block.data):
            self._leaves += _hash_leaf(piece)

    def finish(self) -> Contents:
        """What stands over all blocks that were added, one at least."""
        if not self._levels:
            self._levels = _build_levels(bytes(self._leaves))
        return Contents(self._levels[-1], len(self._leaves) // _HASH_BYTES, self._size_bytes)

    def find(self, index: int) -> tuple[Cid, int]:
        """The block that a piece is of, and where in it the piece begins, in bytes."""
        at = bisect_right(self._first, index) - 1
        return self.cids[at], (index - self._first[at]) * PIECE_BYTES

    def get_path(self, index: int) -> tuple[bytes, ...]:
        """The siblings on the way from a piece to the root, its own first."""
        self.finish()
        path = []
        for level in self._levels[:-1]:
            sibling = _get_hash(level, index ^ 1)
            if sibling:
                path.append(sibling)
            index //= 2
        return tuple(path)


def measure_contents(root: Cid, read: Callable[[Cid], bytes], bytes_max: int) -> AuditTree:
    """The finished tree over all blocks of a CID. Raises as `walk_blocks`."""
    tree = AuditTree()
    for block in walk_blocks(root, read, bytes_max):
        tree.add(block)
    tree.finish()
    return tree


def draw_pieces(seed: bytes, lease: bytes, account: bytes, pieces: int) -> tuple[int, ...]:
    """The pieces an account has to show of a lease: DRAWN_MAX or all there are, none twice, in order.

    >>> draw_pieces(bytes(32), bytes(32), bytes(32), 3)
    (0, 1, 2)
    """
    drawn: set[int] = set()
    number = 0
    while len(drawn) < min(pieces, DRAWN_MAX):
        data = sha256(_DRAW + seed + lease + account + number.to_bytes(4, "big")).digest()
        drawn.add(int.from_bytes(data, "big") % pieces)
        number += 1
    return tuple(sorted(drawn))


def answer_audit(tree: AuditTree, indices: Sequence[int], read: Callable[[Cid], bytes]) -> tuple[Piece, ...]:
    """The pieces that were drawn, with their paths. Raises what `read` does when a block of theirs is not here."""
    found = []
    for index in indices:
        cid, at = tree.find(index)
        found.append(Piece(read(cid)[at : at + PIECE_BYTES], tree.get_path(index)))
    return tuple(found)


def verify_answer(contents: Contents, indices: Sequence[int], answer: Sequence[Piece]) -> None:
    """InvalidProof unless the answer is these pieces, whole and in this order."""
    if len(answer) != len(indices):
        raise InvalidProof(f"{len(indices)} pieces were drawn, {len(answer)} are shown")
    for index, piece in zip(indices, answer, strict=True):
        if compute_audit_root(piece, index, contents.pieces) != contents.root:
            raise InvalidProof(f"piece {index} is not under the audit root")


def compute_audit_root(piece: Piece, index: int, pieces: int) -> bytes:
    """The root of a tree of so many pieces in which this one stands at `index`. InvalidProof for no such path."""
    if not 0 <= index < pieces:
        raise InvalidProof(f"piece {index} of {pieces}")
    node, path = _hash_leaf(piece.data), list(piece.path)
    while pieces > 1:
        # The last of an odd number has no sibling: it stands one level higher as it is.
        if index ^ 1 < pieces:
            if not path:
                raise InvalidProof("the path breaks off below the root")
            sibling = path.pop(0)
            node = _hash_branch(sibling, node) if index % 2 else _hash_branch(node, sibling)
        index, pieces = index // 2, (pieces + 1) // 2
    if path:
        raise InvalidProof("the path leads beyond the root")
    return node


def _build_levels(leaves: bytes) -> list[bytes]:
    """All levels of the tree, from the leaves to the root, each as its hashes one after the other."""
    levels = [leaves]
    while len(levels[-1]) > _HASH_BYTES:
        level = levels[-1]
        above = bytearray()
        for at in range(0, len(level), 2 * _HASH_BYTES):
            pair = level[at : at + 2 * _HASH_BYTES]
            above += sha256(b"\x01" + pair).digest() if len(pair) == 2 * _HASH_BYTES else pair
        levels.append(bytes(above))
    return levels


def _get_hash(level: bytes, index: int) -> bytes:
    return level[index * _HASH_BYTES : (index + 1) * _HASH_BYTES]


def _hash_leaf(piece: bytes) -> bytes:
    return sha256(b"\x00" + piece).digest()


def _hash_branch(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()
