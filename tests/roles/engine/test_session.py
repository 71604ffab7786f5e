"""One model, loaded and run: what comes out, and what is refused with which words."""

from pathlib import Path

import numpy as np
import pytest

from protocol.content import compute_digest
from protocol.errors import LocalError, MissingBlob
from protocol.ledger.limits import ROWS_MAX
from protocol.tensor import Tensor, verify_tensor
from roles.engine import inline
from roles.engine.errors import BadInput, ComputeFailed, ModelRefused
from roles.engine.inline import InlineEngine
from roles.engine.profile import get_isa, parse_isa
from roles.engine.session import load_session, run_session
from tests.support.onnx_bytes import FLOAT, INT32, INT64, UINT8, attribute, int64s, model, node, unary, value_info

DIGITS = (Path(__file__).parents[3] / "testnet" / "models" / "digits.onnx").read_bytes()


def floats(*rows):
    array = np.array(rows, "<f4")
    return Tensor("float32", array.shape, array.tobytes())


def test_outputs_come_in_the_models_order_with_a_profile_that_says_how():
    session = load_session(unary("Neg"), "basic")

    (output,), profile = run_session(session, (floats([1, -2], [3, -4], [0, 5]),))

    assert output == floats([-1, 2], [-3, 4], [-0.0, -5])
    assert profile.endswith(f";ep=cpu;isa={get_isa()};th=1;opt=basic;batch=3")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64", "uint8", "bool"])
def test_every_kind_of_number_goes_through_unchanged(dtype):
    codes = {"float16": 10, "float32": 1, "float64": 11, "int32": 6, "int64": 7, "uint8": 2, "bool": 9}
    array = np.array([[0, 1]], np.dtype(dtype).newbyteorder("<"))
    tensor = Tensor(dtype, (1, 2), array.tobytes())

    (output,), _ = run_session(load_session(unary("Identity", codes[dtype])), (tensor,))

    verify_tensor(output)
    assert output == tensor


@pytest.mark.parametrize(
    ("inputs", "expected", "got"),
    [
        ((), r"1 \(uint8 \(rows, 64\)\)", "0"),
        ((Tensor("uint8", (1, 64), bytes(64)),) * 2, "1 ", "2"),
        ((Tensor("float32", (1, 64), bytes(256)),), r"uint8 \(rows, 64\)", r"float32 \(1, 64\)"),
        ((Tensor("uint8", (1, 63), bytes(63)),), r"uint8 \(rows, 64\)", r"uint8 \(1, 63\)"),
        ((Tensor("uint8", (64,), bytes(64)),), r"uint8 \(rows, 64\)", r"uint8 \(64,\)"),
        ((Tensor("uint8", (0, 64), b""),), f"1 to {ROWS_MAX} rows", "0 rows"),
        ((Tensor("uint8", (65, 64), bytes(65 * 64)),), f"1 to {ROWS_MAX} rows", "65 rows"),
        ((Tensor("uint8", (1, 64), bytes(63)),), "a sound tensor", "wants 64 bytes, has 63"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_what_was_expected_and_what_came(inputs, expected, got):
    with pytest.raises(BadInput, match=f"expected {expected}.*, got .*{got}"):
        run_session(load_session(DIGITS), inputs)


def test_nan_is_no_input_and_no_output():
    session = load_session(unary("Log"))

    with pytest.raises(BadInput, match="NaN"):
        run_session(session, (floats([float("nan"), 1]),))
    with pytest.raises(ComputeFailed, match="NaN or infinity"):
        run_session(session, (floats([0, 1]),))


def test_inputs_of_one_job_have_the_same_rows():
    ends = [value_info(name, FLOAT, ("rows", 1)) for name in ("a", "b", "y")]
    session = load_session(model([node("Concat", ["a", "b"], ["y"], attribute("axis", 3, 0, 2))], ends[:2], ends[2:]))

    with pytest.raises(BadInput, match="2 rows, as in the other inputs, got 1 rows"):
        run_session(session, (floats([1], [2]), floats([1])))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (unary("NoSuchOperator"), "not run here"),
        (unary("BitShift", INT32), "does not load"),
        (unary("Erf", UINT8), "does not load"),
    ],
)
def test_a_model_we_cannot_run_is_refused_with_the_reason(data, reason):
    with pytest.raises(ModelRefused, match=reason):
        load_session(data)


def test_an_output_larger_than_an_answer_is_no_output():
    # One row fits, three do not.
    grow = model(
        [node("Expand", ["x", "shape"], ["y"])],
        [value_info("x", FLOAT, ("rows", 1))],
        [value_info("y", FLOAT, ("rows", 2**18))],
        (int64s("shape", 1, 2**18),),
    )
    with pytest.raises(ComputeFailed, match="too large"):
        run_session(load_session(grow), (floats([1], [2], [3]),))


def test_an_operator_that_fails_on_these_values_says_so():
    gather = model(
        [node("Gather", ["table", "x"], ["y"])],
        [value_info("x", INT64, (1,))],
        [value_info("y", INT64, (1,))],
        (int64s("table", 1, 2, 3),),
    )
    index = Tensor("int64", (1,), (9).to_bytes(8, "little"))

    with pytest.raises(ComputeFailed, match="onnxruntime stopped"):
        run_session(load_session(gather), (index,))


def test_an_unknown_optimisation_level_is_our_own_mistake():
    with pytest.raises(LocalError, match="all, extended, basic, disable"):
        load_session(DIGITS, "most")


def test_the_inline_engine_loads_a_model_once_and_forgets_the_least_used(monkeypatch):
    monkeypatch.setattr(inline, "SESSIONS_MAX", 2)
    blobs = {compute_digest(data): data for data in (unary("Neg"), unary("Abs"), unary("Relu"))}
    neg, abs_, relu = blobs
    loads = []

    def load_blob(digest):
        loads.append(digest)
        return blobs[digest]

    engine = InlineEngine(load_blob)
    outputs = [engine.compute(digest, (floats([1, -2]),))[0][0] for digest in (neg, abs_, neg, relu, neg, abs_)]

    assert outputs[:2] == [floats([-1, 2]), floats([1, 2])]
    assert loads == [neg, abs_, relu, abs_]


def test_the_inline_engine_passes_on_that_a_model_is_not_here():
    def load_blob(digest):
        raise MissingBlob(digest)

    with pytest.raises(MissingBlob):
        InlineEngine(load_blob).compute(bytes(32), ())


@pytest.mark.parametrize(
    ("cpuinfo", "isa"),
    [
        ("flags : sse2 avx avx2 avx512f avx512_vnni amx_int8", "avx512vnni"),
        ("flags : sse2 avx avx2 avx512f", "avx512"),
        ("flags : sse2 avx avx2 avx_vnni", "avx2vnni"),
        ("flags : fpu sse2", "sse"),
        ("Features : fp asimd asimddp", "arm64dotprod"),
        ("processor : 0", ""),
    ],
)
def test_the_instruction_set_level_is_the_best_the_processor_has(cpuinfo, isa):
    assert parse_isa(cpuinfo) == isa
