"""Which models a worker could defend in a dispute, and with how many rows."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import encode
from protocol.content import BLOB_BYTES_MAX
from protocol.ledger.disputes import PostTrace
from protocol.ledger.limits import ROWS_MAX
from protocol.ledger.transactions import BODY_BYTES_MAX
from protocol.proofs.trace import (
    EXHIBIT_BYTES_MAX,
    OPERATORS_MAX,
    TRACE_BYTES_MAX,
    Exhibit,
    Given,
    compute_exhibit_bytes,
    pack_trace,
    unpack_trace,
)
from protocol.tensor import ITEM_SIZES, RANK_MAX, Tensor
from roles.engine.errors import ComputeFailed
from roles.engine.session import load_session
from roles.engine.trace import load_tracer, trace
from roles.engine.traceable import explain_rows, find_rows_max
from tests.support.onnx_bytes import UINT8, int64s, model, node, of_int, unary, value_info

MODELS = Path(__file__).parents[3] / "testnet" / "models"


def chain(count: int) -> bytes:
    """x passed on through so many operators."""
    names = ["x", *(f"v{number}" for number in range(1, count)), "y"]
    ends = [value_info("x", UINT8, ("rows", 2))], [value_info("y", UINT8, ("rows", 2))]
    return model([node("Relu", [one], [other]) for one, other in pairwise(names)], *ends)


def zeros(data: bytes, rows: int) -> tuple[Tensor, ...]:
    shapes = [(tuple(size or rows for size in spec.shape), spec.dtype) for spec in load_session(data).inputs]
    return tuple(Tensor(dtype, shape, np.zeros(shape, dtype).tobytes()) for shape, dtype in shapes)


def test_every_model_that_ships_and_is_exact_can_be_defended_with_all_rows() -> None:
    shipped = json.loads((MODELS / "models.json").read_text())["models"]
    exact = [entry["file"] for entry in shipped if entry["class"] == "exact"]

    assert exact
    for file in exact:
        assert find_rows_max((MODELS / file).read_bytes()) == (ROWS_MAX, "")


def test_more_operators_than_a_worker_may_post_digests_of_cannot_be_defended() -> None:
    assert find_rows_max(chain(OPERATORS_MAX)) == (ROWS_MAX, "")

    rows, reason = find_rows_max(chain(OPERATORS_MAX + 1))

    assert rows == 0
    assert f"{OPERATORS_MAX + 1} operators" in reason
    assert len(pack_trace([bytes(32)] * (OPERATORS_MAX + 2))) == TRACE_BYTES_MAX
    assert len(unpack_trace(bytes(TRACE_BYTES_MAX))) == OPERATORS_MAX + 2
    assert len(encode(PostTrace(bytes(32), bytes(TRACE_BYTES_MAX)))) <= BODY_BYTES_MAX


@pytest.mark.parametrize("width", [2**15, 2**17, 2**18, 2**19])
def test_the_rows_told_are_those_an_operator_can_be_shown_for_and_one_more_are_not(width: int) -> None:
    data = unary("Identity", UINT8, ("rows", width))
    session = load_session(data)
    tracer = load_tracer(data, session)

    rows, reason = find_rows_max(data)

    assert rows == (EXHIBIT_BYTES_MAX - 96) // width
    assert f"for {rows + 1} rows" in reason
    shown = trace(tracer, zeros(data, rows), 1).exhibit
    assert len(encode(shown)) <= BLOB_BYTES_MAX
    if (rows + 1) * width < BLOB_BYTES_MAX:
        with pytest.raises(ComputeFailed, match="can be shown"):
            trace(tracer, zeros(data, rows + 1), 1)


def test_an_operator_too_large_for_one_row_makes_a_model_that_cannot_be_defended() -> None:
    nodes = [node("Concat", ["x", "x", "x"], ["wide"], of_int("axis", 1)), node("ReduceMax", ["wide"], ["y"])]
    data = model(nodes, [value_info("x", UINT8, (1, 2**20))], [value_info("y", UINT8, (1, 1))])

    rows, reason = find_rows_max(data)

    assert rows == 0
    assert "operator 2 (ReduceMax) takes" in reason
    assert "for 1 rows" in reason
    assert "at most 0 rows" in explain_rows(data, 1)


def test_all_that_an_operator_takes_from_is_shown_whole() -> None:
    """One of two halves is taken: the exhibit holds both, since the trace has one digest for them."""
    halves = node("Split", ["x"], ["a", "b"], of_int("axis", 1))
    ends = [value_info("x", UINT8, ("rows", 2**19))], [value_info("y", UINT8, ("rows", 2**18))]

    assert find_rows_max(model([halves, node("Relu", ["a"], ["y"])], *ends))[0] == 3


def test_a_tensor_that_is_largest_for_few_rows_is_found() -> None:
    """Of the last two rows the first: with three rows there is one, with four it has gone."""
    few = node("Slice", ["x", "from", "to", "axes"], ["few"])
    wide = node("Concat", ["few"] * 3, ["wide"], of_int("axis", 1))
    nodes = [few, wide, node("ReduceMax", ["wide"], ["y"])]
    numbers = (int64s("from", -3), int64s("to", 2), int64s("axes", 0))
    ends = [value_info("x", UINT8, ("rows", 2**19))], [value_info("y", UINT8, (1, 1))]

    rows, reason = find_rows_max(model(nodes, *ends, numbers))

    assert rows == 1
    assert "for 2 rows" in reason


tensors = st.builds(
    lambda dtype, shape, size: Tensor(dtype, shape, bytes(size)),
    st.sampled_from(sorted(ITEM_SIZES)),
    st.lists(st.integers(0, 2**22), max_size=RANK_MAX).map(tuple),
    st.integers(0, 70_000),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(tensors, max_size=3), max_size=4))
def test_an_exhibit_is_never_larger_than_what_is_reckoned_for_it(sources: list[list[Tensor]]) -> None:
    exhibit = Exhibit(tuple(Given(number + 1_900, tuple(items)) for number, items in enumerate(sources)))

    assert len(encode(exhibit)) <= compute_exhibit_bytes([len(item.data) for item in items] for items in sources)
