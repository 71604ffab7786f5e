"""Operators one by one: what each gives in the whole model, and alone."""

import re

import numpy as np
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.content import compute_digest
from protocol.proofs.trace import Exhibit, Given, find_fault, unpack_trace
from protocol.tensor import Tensor, compute_tensors_digest, verify_layout
from roles.engine.errors import BadInput, ComputeFailed, ModelRefused
from roles.engine.graph import read_graph
from roles.engine.pool import open_pool
from roles.engine.session import load_session, run_session
from roles.engine.trace import compute_operator, load_tracer, run_operator, to_tensor, trace
from tests.support.graphs import plant, random_model
from tests.support.models import EACH_OPERATOR, MODELS, draw_inputs
from tests.support.onnx_bytes import FLOAT, STRING, attribute, int64s, model, node, tensor, value_info

X, Y = value_info("x", FLOAT, ("rows", 2)), value_info("y", FLOAT, ("rows", 2))
DIGITS = MODELS["digits"].read_bytes()
TEXT = "pydoc"


def floats(*rows):
    array = np.array(rows, "<f4")
    return Tensor("float32", array.shape, array.tobytes())


def trace_all(data, inputs):
    """The trace of a model, and for each of its operators what it took."""
    tracer = load_tracer(data, load_session(data))
    exhibits = [trace(tracer, inputs, number).exhibit for number in range(1, tracer.graph.last + 1)]
    return unpack_trace(trace(tracer, inputs).trace), exhibits


# That of text in `make test` by the operators of its steps: test_steps.py.
@pytest.mark.parametrize(
    "name", [name if name != TEXT else pytest.param(name, marks=pytest.mark.full) for name in MODELS]
)
@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.full), 7])
def test_each_operator_of_a_shipped_model_gives_alone_what_it_gives_in_the_model(name, rows):
    data = MODELS[name].read_bytes()
    inputs = draw_inputs(data, rows, seed=rows)

    whole, exhibits = trace_all(data, inputs)

    outputs, _ = run_session(load_session(data, "disable"), inputs)
    assert (whole[0], whole[-1]) == (compute_tensors_digest(inputs), compute_tensors_digest(outputs))
    for number, exhibit in enumerate(exhibits, 1):
        assert run_operator(data, number, exhibit).digest == whole[number]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_each_operator_of_any_model_gives_alone_what_it_gives_in_the_model(data):
    made = data.draw(random_model())
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    inputs = (floats(*data.draw(st.lists(st.tuples(number, number), min_size=1, max_size=3))),)

    whole, exhibits = trace_all(made, inputs)

    for number, exhibit in enumerate(exhibits, 1):
        assert run_operator(made, number, exhibit).digest == whole[number]


@pytest.mark.parametrize("name", EACH_OPERATOR)
def test_a_fault_planted_at_any_operator_of_a_shipped_model_and_passed_on_is_found_there(name):
    data = MODELS[name].read_bytes()
    inputs = draw_inputs(data, 2, seed=5)
    honest, _ = trace_all(data, inputs)

    for number in range(1, len(honest)):
        lie = plant(data, inputs, number)

        assert find_fault(honest, lie.trace) == number
        assert run_operator(data, number, lie.show(number)).digest != lie.trace[number]
        for other in range(1, len(honest)):
            if other != number:
                assert run_operator(data, other, lie.show(other)).digest == lie.trace[other]


def test_a_file_that_is_out_of_order_is_put_in_order_and_one_in_order_stays():
    backwards = model([node("Neg", ["b"], ["y"]), node("Abs", ["a"], ["b"]), node("Relu", ["x"], ["a"])], [X], [Y])
    sorted_file = model(
        [node("Neg", ["x"], ["a"]), node("Abs", ["x"], ["b"]), node("Add", ["a", "b"], ["y"])], [X], [Y]
    )

    assert [item.kind for item in read_graph(backwards).operators] == ["Relu", "Abs", "Neg"]
    assert read_graph(sorted_file).sources == ((), (0,), (0,), (1, 2), (3,))


def test_constants_are_part_of_the_model_and_no_operators():
    held = attribute("value", 5, tensor("", FLOAT, (1, 2), np.array([2, 3], "<f4").tobytes()), 4)
    nodes = [node("Constant", [], ["c"], held), node("Mul", ["x", "c"], ["m"]), node("Add", ["m", "b"], ["y"])]
    made = model(nodes, [X], [Y], (tensor("b", FLOAT, (1, 2), np.array([1, 1], "<f4").tobytes()),))

    whole, exhibits = trace_all(made, (floats([1, 1]),))

    graph = read_graph(made)
    assert [item.kind for item in graph.operators] == ["Mul", "Add"]
    assert graph.sources == ((), (0,), (1,), (2,))
    assert compute_operator(graph, 2, exhibits[1]) == (floats([3, 4]),)
    assert len(whole) == 4


def test_what_lies_between_operators_may_be_empty_a_scalar_or_no_number():
    nodes = [
        node("Sqrt", ["x"], ["root"]),  # NaN for what is negative
        node("IsNaN", ["root"], ["is_nan"]),
        node("Slice", ["x", "zero", "zero"], ["empty"]),
        node("ReduceMax", ["x"], ["top"], attribute("keepdims", 3, 0, 2)),
        node("Log", ["top"], ["depth"]),  # minus infinity for 0
        node("Where", ["is_nan", "depth", "root"], ["mixed"]),
        node("Relu", ["mixed"], ["y"]),
    ]
    made = model(nodes, [X], [Y], (int64s("zero", 0),))

    whole, exhibits = trace_all(made, (floats([-1, 0]),))
    clean, _ = trace_all(made, (floats([4, 0]),))

    assert len(set(whole)) == len(whole) - 1  # the outputs are what the last operator gives
    (root,) = exhibits[1].items[0].tensors
    assert root.data == bytes.fromhex("0000c07f") + floats([0]).data
    (top,) = exhibits[4].items[0].tensors
    assert (top.shape, len(top.data)) == ((), 4)
    for number, exhibit in enumerate(exhibits, 1):
        assert run_operator(made, number, exhibit).digest == whole[number]
        for item in exhibit.items:
            for value in item.tensors:
                verify_layout(value)
    assert clean[3] == whole[3]  # nothing of one thing and nothing of another


def test_every_nan_has_one_spelling():
    bits = np.array([0xFFC00000, 0x7F800001], "<u4").view("<f4")
    made = model(
        [
            node("Mul", ["x", "n"], ["a"]),
            node("IsNaN", ["a"], ["b"]),
            node("Cast", ["b"], ["y"], attribute("to", 3, FLOAT, 2)),
        ],
        [X],
        [Y],
        (tensor("n", FLOAT, (2,), bits.tobytes()),),
    )

    _, exhibits = trace_all(made, (floats([1, 1]),))

    (products,) = exhibits[1].items[0].tensors
    assert products.data == bytes.fromhex("0000c07f") * 2


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node("Neg", ["x"], ["y"]), node("Abs", ["x"], ["y"])], "two operators give 'y'"),
        ([node("Neg", ["x"], ["x"]), node("Abs", ["x"], ["y"])], "two operators give 'x'"),
        ([node("Add", ["x", "lost"], ["y"])], "nothing gives 'lost'"),
        ([node("Add", ["x", "y"], ["z"]), node("Neg", ["z"], ["y"])], "in a circle"),
        ([node("Neg", ["x"], ["z"])], "no operator gives the output 'y'"),
        ([node("Concat", ["x"] * 3, [f"o{i}" for i in range(65)]), node("Neg", ["o0"], ["y"])], "gives more than 64"),
    ],
)
def test_a_graph_that_has_no_order_is_refused(nodes, why):
    with pytest.raises(ModelRefused, match=why):
        read_graph(model(nodes, [X], [Y]))


def test_text_between_operators_has_no_digest_and_is_not_let_that_far():
    to_text = [
        node("Cast", ["x"], ["t"], attribute("to", 3, STRING, 2)),
        node("Cast", ["t"], ["y"], attribute("to", 3, FLOAT, 2)),
    ]

    with pytest.raises(ComputeFailed, match="'t' is of object: only tensors"):
        to_tensor("t", np.array(["1"], object))
    with pytest.raises(ModelRefused, match=r"node 1 \(Cast\) does not work"):
        load_session(model(to_text, [X], [Y]))


@pytest.mark.parametrize(
    ("operator", "exhibit", "why"),
    [
        (9, Exhibit(()), "no operator 9, the last is 3"),
        (0, Exhibit(()), "no operator 0"),
        (1, Exhibit(()), r"takes from \(0,\)"),
        (2, Exhibit((Given(0, (floats([1, 2]),)),)), r"takes from \(1,\)"),
        (1, Exhibit((Given(0, ()),)), "gives 1 tensors, not 0"),
        (1, Exhibit((Given(0, (Tensor("bool", (1, 2), b"\0\1"),)),)), "does not fit operator 1"),
        (2, Exhibit((Given(1, (Tensor("float32", (2,), bytes(8)),)),)), "operator 2|onnxruntime stopped"),
    ],
)
def test_an_exhibit_that_is_not_what_the_operator_takes_gives_no_digest_but_a_reason(operator, exhibit, why):
    nodes = [node("Neg", ["x"], ["a"]), node("Gather", ["a", "i"], ["y"], attribute("axis", 3, 1, 2))]
    made = model(nodes, [X], [Y], (int64s("i", 1, 0),))

    ran = run_operator(made, operator, exhibit)

    assert ran.operators == 3
    assert ran.digest == b""
    assert re.search(why, ran.reason)


def test_a_worker_process_traces_and_runs_single_operators_beside_whole_models():
    digest = compute_digest(DIGITS)
    inputs = draw_inputs(DIGITS, 3, seed=2)

    async def load_blob(_):
        return DIGITS

    async def main():
        with trio.fail_after(60):
            async with open_pool(load_blob) as pool:
                outputs, _ = await pool.compute(digest, inputs, 30)
                traced = await pool.trace(digest, inputs, 30, operator=4)
                ran = await pool.run_operator(digest, 4, traced.exhibit, 30)
                with pytest.raises(BadInput):
                    await pool.trace(digest, (), 30)
                with pytest.raises(ComputeFailed, match="no operator 99"):
                    await pool.trace(digest, inputs, 30, operator=99)
                return outputs, unpack_trace(traced.trace), ran, pool.stats

    outputs, whole, ran, stats = trio.run(main)

    assert whole[-1] == compute_tensors_digest(outputs)
    assert ran.digest == whole[4]
    assert stats.started == 1
