"""A root commits to every leaf and to the sum of all, and no path says otherwise."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.merkle_sum import (
    InvalidSumProof,
    SumNode,
    SumTree,
    compute_proven_sum,
    make_sum_leaf,
)
from protocol.types import INT_MAX

amounts = st.lists(st.integers(0, 2**50), min_size=1, max_size=40)


def plant(values: list[int]) -> list[SumNode]:
    return [make_sum_leaf(hashlib.sha256(bytes([index])).digest(), value) for index, value in enumerate(values)]


@given(values=amounts, data=st.data())
def test_every_leaf_has_a_path_to_a_root_of_the_sum_of_all(values: list[int], data: st.DataObject) -> None:
    leaves = plant(values)
    root = SumTree(leaves).root
    assert root.total == sum(values)
    index = data.draw(st.integers(0, len(values) - 1))
    path = SumTree(leaves).prove(index)
    assert compute_proven_sum(leaves[index], index, len(leaves), path) == root
    assert len(path) <= (len(values) - 1).bit_length()


@given(values=amounts, more=st.integers(1, 10**6), data=st.data())
def test_a_leaf_cannot_be_worth_more_than_the_root_says(values: list[int], more: int, data: st.DataObject) -> None:
    leaves = plant(values)
    index = data.draw(st.integers(0, len(values) - 1))
    greedy = make_sum_leaf(hashlib.sha256(bytes([index])).digest(), values[index] + more)
    path = SumTree(leaves).prove(index)
    assert compute_proven_sum(greedy, index, len(leaves), path) != SumTree(leaves).root
    for place, sibling in enumerate(path):
        poorer = SumNode(sibling.root, max(0, sibling.total - more))
        made_up = (*path[:place], poorer, *path[place + 1 :])
        assert compute_proven_sum(greedy, index, len(leaves), made_up) != SumTree(leaves).root


@given(values=st.lists(st.integers(1, 2**50), min_size=4, max_size=40), data=st.data())
def test_amounts_cannot_be_moved_between_the_siblings_of_a_path(values: list[int], data: st.DataObject) -> None:
    leaves = plant(values)
    index = data.draw(st.integers(0, len(values) - 1).filter(lambda number: len(SumTree(leaves).prove(number)) > 1))
    first, *rest, last = SumTree(leaves).prove(index)
    moved = (SumNode(first.root, first.total - 1), *rest, SumNode(last.root, last.total + 1))
    root = compute_proven_sum(leaves[index], index, len(leaves), moved)
    assert root.total == sum(values)
    assert root != SumTree(leaves).root


@given(values=st.lists(st.integers(0, 2**50), min_size=2, max_size=40), data=st.data())
def test_a_path_is_good_for_its_place_alone(values: list[int], data: st.DataObject) -> None:
    leaves = plant(values)
    index = data.draw(st.integers(0, len(values) - 1))
    other = data.draw(st.integers(0, len(values) - 1).filter(lambda number: number != index))
    path = SumTree(leaves).prove(index)
    try:
        assert compute_proven_sum(leaves[index], other, len(leaves), path) != SumTree(leaves).root
    except InvalidSumProof as error:
        assert "siblings" in str(error)  # noqa: PT017  (either is fine: another root, or no such path)


def test_what_is_no_path_is_refused() -> None:
    leaves = plant([1, 2, 3])
    path = SumTree(leaves).prove(1)
    for index, count, siblings in ((3, 3, path), (-1, 3, path), (1, 3, path[:1]), (1, 3, (*path, path[0])), (0, 0, ())):
        with pytest.raises(InvalidSumProof):
            compute_proven_sum(leaves[1], index, count, siblings)


def test_a_sum_beyond_what_can_be_counted_is_refused() -> None:
    with pytest.raises(InvalidSumProof, match="grains"):
        SumTree(plant([INT_MAX, 1]))
