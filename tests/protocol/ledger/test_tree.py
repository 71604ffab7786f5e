"""The state's Merkle tree against a tree built anew, and its proofs against whatever a liar may make of them."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.ledger.tree import (
    EMPTY,
    InvalidTreeProof,
    TreeProof,
    compute_proven_root,
    get_root,
    prove,
    update,
)


def digest(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


# Keys that begin alike for long, as well as keys that do not: a leaf's depth is set by its nearest neighbour.
keys = st.one_of(
    st.binary(min_size=32, max_size=32),
    st.builds(
        lambda start, end: bytes(start) + bytes([end]) + bytes(31 - start), st.integers(0, 31), st.integers(0, 255)
    ),
)
values = st.integers(0, 2**32).map(digest)
entries = st.dictionaries(keys, values, max_size=20)
histories = st.lists(st.dictionaries(keys, st.one_of(st.none(), values), max_size=8), max_size=6)


def compute_naive_root(content: dict[bytes, bytes], depth: int = 0) -> bytes:
    """From the definition: no sharing, no updates."""
    if not content:
        return EMPTY
    if len(content) == 1:
        [(key, value)] = content.items()
        return hashlib.sha256(b"\x00" + key + value).digest()
    sides: list[dict[bytes, bytes]] = [{}, {}]
    for key, value in content.items():
        sides[int(format(int.from_bytes(key, "big"), "0256b")[depth])][key] = value
    left, right = (compute_naive_root(side, depth + 1) for side in sides)
    return hashlib.sha256(b"\x01" + left + right).digest()


@given(histories)
def test_any_history_of_updates_gives_the_root_of_what_is_left(history):
    tree, content = None, {}
    for changes in history:
        tree = update(tree, changes)
        content |= changes
        left = {key: value for key, value in content.items() if value is not None}
        assert get_root(tree) == compute_naive_root(left)


@given(entries, keys)
def test_an_update_leaves_the_old_tree_as_it_was(content, key):
    tree = update(None, content)
    before = get_root(tree)
    update(tree, {key: digest(7)})
    update(tree, dict.fromkeys(content))
    assert get_root(tree) == before == compute_naive_root(content)


@given(entries, keys)
def test_what_is_there_and_what_is_not_can_both_be_proven(content, key):
    tree = update(None, content)
    for asked in [*content, key]:
        proof = prove(tree, asked)
        assert compute_proven_root(asked, content.get(asked), proof) == get_root(tree)


@given(entries, keys, values, st.data())
def test_no_proof_shows_what_is_not_so(content, key, value, data):
    tree = update(None, content)
    proof = prove(tree, data.draw(st.sampled_from([*content, key])))
    for asked in [*content, key]:
        for claimed in {value, None, *content.values()} - {content.get(asked)}:
            try:
                assert compute_proven_root(asked, claimed, proof) != get_root(tree)
            except InvalidTreeProof:
                continue


@given(st.dictionaries(keys, values, min_size=1, max_size=12), st.data())
@settings(max_examples=50)
def test_a_flipped_bit_anywhere_in_a_proof_breaks_it(content, data):
    tree = update(None, content)
    key = data.draw(st.sampled_from(sorted(content)))
    siblings = list(prove(tree, key).siblings)
    if not siblings:
        return
    at, bit = data.draw(st.integers(0, len(siblings) - 1)), data.draw(st.integers(0, 255))
    siblings[at] = (int.from_bytes(siblings[at], "big") ^ 1 << bit).to_bytes(32, "big")
    assert compute_proven_root(key, content[key], TreeProof(tuple(siblings), ())) != get_root(tree)
    assert compute_proven_root(key, content[key], TreeProof(tuple(siblings[:at]), ())) != get_root(tree)


def test_a_leaf_that_is_not_in_the_way_proves_no_absence():
    here, there = bytes(32), b"\xff" * 32
    tree = update(None, {here: digest(1), there: digest(2)})
    with pytest.raises(InvalidTreeProof, match="stand in this key's way"):
        compute_proven_root(here, None, TreeProof(prove(tree, here).siblings, (there, digest(2))))
    with pytest.raises(InvalidTreeProof, match="stand in this key's way"):
        compute_proven_root(here, None, TreeProof((), (here, digest(1))))
    with pytest.raises(InvalidTreeProof, match="a key and a digest"):
        compute_proven_root(here, None, TreeProof((), (there,)))
    with pytest.raises(InvalidTreeProof, match="ends at another key"):
        compute_proven_root(here, digest(1), TreeProof((), (there, digest(2))))


def test_the_tree_of_three_keys_has_the_root_worked_out_by_hand():
    a, b, c = bytes(32), b"\x40" + bytes(31), b"\x80" + bytes(31)
    leaf = {key: hashlib.sha256(b"\x00" + key + digest(1)).digest() for key in (a, b, c)}
    left = hashlib.sha256(b"\x01" + leaf[a] + leaf[b]).digest()
    assert (
        get_root(update(None, dict.fromkeys((a, b, c), digest(1)))) == hashlib.sha256(b"\x01" + left + leaf[c]).digest()
    )
