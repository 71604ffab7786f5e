"""Audits: the root that node and payer compute alike, the draw, and what an answer shows."""

import random
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.audit import (
    DRAWN_MAX,
    PIECE_BYTES,
    AuditTree,
    TooLarge,
    answer_audit,
    compute_audit_root,
    cut_block,
    draw_pieces,
    measure_contents,
    verify_answer,
    walk_blocks,
)
from protocol.cid import DAG_PB, Cid
from protocol.errors import InvalidProof, LocalError, MalformedMessage, MissingBlob
from protocol.unixfs import make_leaf
from tests.support.leases import Blob

SEEDS = st.binary(min_size=32, max_size=32)


def compute_naively(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return sha256(b"\x01" + compute_naively(leaves[:half]) + compute_naively(leaves[half:])).digest()


@given(sizes=st.lists(st.integers(0, 3 * PIECE_BYTES + 1), min_size=1, max_size=12))
def test_the_root_is_that_of_the_standard_over_all_pieces_and_every_piece_is_shown_under_it(sizes: list[int]) -> None:
    blocks = [make_leaf(bytes([number]) * size) for number, size in enumerate(sizes)]
    tree, pieces = AuditTree(), [piece for block in blocks for piece in cut_block(block.data)]
    for block in blocks:
        tree.add(block)
    contents, held = tree.finish(), {block.cid: block.data for block in blocks}

    shown = answer_audit(tree, range(len(pieces)), held.__getitem__)

    assert contents.root == compute_naively(pieces)
    assert (contents.pieces, contents.size_bytes) == (len(pieces), sum(sizes))
    assert [piece.data for piece in shown] == pieces
    verify_answer(contents, range(len(pieces)), shown)


def test_blocks_come_once_each_a_node_before_what_it_links() -> None:
    blob = Blob(bytes(100) + bytes(100) + b"x" * 50, chunk=100)

    order = [block.cid for block in walk_blocks(blob.cid, blob.read, 2**20)]

    assert order == [blob.cid, make_leaf(bytes(100)).cid, make_leaf(b"x" * 50).cid]
    assert blob.contents.size_bytes == 150 + len(blob.blocks[blob.cid.digest])


def test_more_bytes_than_were_said_end_the_walk_and_so_does_a_node_that_is_none() -> None:
    blob = Blob(bytes(range(256)) * 40, chunk=1_000)
    with pytest.raises(TooLarge):
        measure_contents(blob.cid, blob.read, blob.contents.size_bytes - 1)
    assert measure_contents(blob.cid, blob.read, blob.contents.size_bytes).finish() == blob.contents
    nonsense = make_leaf(b"no node").cid.digest
    with pytest.raises(MalformedMessage):
        measure_contents(Cid(DAG_PB, nonsense), lambda _: b"no node", 2**20)


def test_a_tree_that_has_its_root_takes_nothing_more() -> None:
    blob = Blob(b"whole")
    with pytest.raises(LocalError):
        blob.tree.add(make_leaf(b"late"))


@given(seed=SEEDS, lease=SEEDS, account=SEEDS, pieces=st.integers(1, 2**32))
def test_ten_pieces_are_drawn_none_twice_or_all_of_fewer(
    seed: bytes, lease: bytes, account: bytes, pieces: int
) -> None:
    drawn = draw_pieces(seed, lease, account, pieces)

    assert len(set(drawn)) == len(drawn) == min(pieces, DRAWN_MAX)
    assert list(drawn) == sorted(drawn)
    assert all(0 <= index < pieces for index in drawn)


def test_another_seed_lease_or_account_draws_other_pieces() -> None:
    one, other = bytes(32), b"\x01" * 32
    draws = [
        draw_pieces(*arguments, 2**20)
        for arguments in ((one,) * 3, (other, one, one), (one, other, one), (one, one, other))
    ]
    assert len(set(draws)) == 4


@given(st.data())
def test_no_answer_but_the_right_one_is_taken(data: st.DataObject) -> None:
    blob = Blob(random.Random(5).randbytes(20 * PIECE_BYTES + 7))
    drawn = draw_pieces(data.draw(SEEDS), bytes(32), bytes(32), blob.contents.pieces)
    answer = list(answer_audit(blob.tree, drawn, blob.read))
    at = data.draw(st.integers(0, len(answer) - 1))
    piece = answer[at]
    wrong = data.draw(
        st.sampled_from(
            (
                replace(piece, data=piece.data[:-1]),
                replace(piece, data=bytes([piece.data[0] ^ 1]) + piece.data[1:]),
                replace(piece, path=piece.path[:-1]),
                replace(piece, path=(*piece.path, bytes(32))),
                replace(piece, path=piece.path[::-1]) if len(set(piece.path)) > 1 else replace(piece, data=b""),
                answer[at - 1],
            )
        )
    )

    verify_answer(blob.contents, drawn, answer)
    with pytest.raises(InvalidProof):
        verify_answer(blob.contents, drawn, [*answer[:at], wrong, *answer[at + 1 :]])
    with pytest.raises(InvalidProof):
        verify_answer(blob.contents, drawn, answer[1:])
    with pytest.raises(InvalidProof):
        compute_audit_root(piece, blob.contents.pieces, blob.contents.pieces)


def test_a_branch_is_no_piece() -> None:
    """Sixty-four bytes that are two hashes do not pass for the node above them."""
    blob = Blob(bytes(2 * PIECE_BYTES))
    left = blob.tree.get_path(1)[0]
    right = blob.tree.get_path(0)[0]
    forged = replace(answer_audit(blob.tree, (0,), blob.read)[0], data=left + right, path=())
    with pytest.raises(InvalidProof):
        verify_answer(replace(blob.contents, pieces=1), (0,), (forged,))


def test_who_lacks_a_tenth_of_the_pieces_is_caught_by_the_third_audit_in_95_of_100_cases() -> None:
    """By arithmetic, and by nodes that lack a tenth of what they leased and answer as far as they can."""
    assert 1 - 0.9 ** (3 * DRAWN_MAX) >= 0.95
    rng = random.Random(11)
    blob = Blob(rng.randbytes(200 * PIECE_BYTES), chunk=PIECE_BYTES)
    caught = 0
    for node in range(1_000):
        account = node.to_bytes(32, "big")
        missing = frozenset(rng.sample(range(blob.contents.pieces), blob.contents.pieces // 10))
        caught += any(not can_answer(blob, missing, rng.randbytes(32), account) for _ in range(3))
    assert caught >= 950


def can_answer(blob: Blob, missing: frozenset[int], seed: bytes, account: bytes) -> bool:
    lacking = {blob.tree.find(index)[0].digest for index in missing}

    def read(cid: Cid) -> bytes:
        if cid.digest in lacking:
            raise MissingBlob(cid.digest)
        return blob.read(cid)

    drawn = draw_pieces(seed, bytes(32), account, blob.contents.pieces)
    try:
        verify_answer(blob.contents, drawn, answer_audit(blob.tree, drawn, read))
    except MissingBlob:
        return False
    return True
