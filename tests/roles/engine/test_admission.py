"""Which files may reach onnxruntime at all."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.engine.admission import verify_model
from roles.engine.errors import ModelRefused
from roles.engine.onnx_file import CONSTANTS_MAX, EDGES_MAX, NODES_MAX, read_onnx_file
from roles.engine.schema import FIELDS_MAX
from roles.engine.specs import MODEL_BYTES_MAX
from tests.support.mutate import mutate
from tests.support.onnx_bytes import (
    FLOAT,
    INT64,
    STRING,
    attribute,
    field,
    int64s,
    many_products,
    model,
    node,
    of_int,
    of_ints,
    of_tensor,
    of_texts,
    tensor,
    unary,
    value_info,
    varint,
)

MODELS = {path.name: path.read_bytes() for path in (Path(__file__).parents[3] / "testnet" / "models").glob("*.onnx")}
X, Y = value_info("x", FLOAT, (1,)), value_info("y", FLOAT, (1,))
EXTERNAL = tensor("w", FLOAT, (1,), b"", field(13, field(1, "location") + field(2, "passwd")) + field(14, 1))
RELU = node("Relu", ["x"], ["y"])
OTHER_OPSET = field(8, field(1, "") + field(2, 17))
MICROSOFT = field(8, field(1, "com.microsoft") + field(2, 1))


def constant(data):
    """A graph whose only node is a constant with this as its tensor."""
    return model([node("Constant", [], ["y"], of_tensor("value", data))], [X], [Y])


def weights(data):
    return model([node("Add", ["x", "w"], ["y"])], [X], [Y], (data,))


def calls(operator, attributes=(), inputs=("x",), outputs=("y",), tensors=(), domain="", extra=b""):
    return model([node(operator, [*inputs], [*outputs], *attributes, domain=domain)], [X], [Y], tensors, extra)


# Shapes computed in the graph, as exporters write them: (rows, 4) and a cache of 3 steps, to (rows, 1, 2, 2).
TRANSFORMER = model(
    [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["rows"], of_int("axis", 0)),
        node("Concat", ["rows", "one", "two", "two"], ["split"], of_int("axis", 0)),
        node("Reshape", ["x", "split"], ["q"]),
        node("Concat", ["cache", "q"], ["k"], of_int("axis", 1)),
        node("Transpose", ["k"], ["kt"], of_ints("perm", 0, 2, 3, 1)),
        node("Transpose", ["q"], ["qt"], of_ints("perm", 0, 2, 1, 3)),
        node("MatMul", ["qt", "kt"], ["scores"]),
        node("Softmax", ["scores"], ["y"], of_int("axis", -1)),
    ],
    [value_info("x", FLOAT, ("rows", 4)), value_info("cache", FLOAT, ("rows", 3, 2, 2))],
    [value_info("y", FLOAT, ("rows", 2, 1, 4)), value_info("k", FLOAT, ("rows", 4, 2, 2))],
    (int64s("zero", 0), int64s("one", 1), int64s("two", 2)),
)
# Of models that ship mostly weights are hit; the others are all structure.
SEEDS = MODELS | {"transformer": TRANSFORMER, "relu": unary("Relu"), "products": many_products(3, 10, is_constant=True)}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        # No model at all.
        (b"", "0 bytes; 1 to"),
        (b"x" * (MODEL_BYTES_MAX + 1), f"{MODEL_BYTES_MAX + 1} bytes; 1 to {MODEL_BYTES_MAX} are run here"),
        (b"garbage", "no ONNX model"),
        (b"\x80" * 64, "breaks off"),
        (b"\x08" + b"\xff" * 9 + b"\x7f", "breaks off"),
        (field(7, b"\x0a\x7f"), "bytes early"),
        (field(7, 3), "graph of the model is written as another type"),
        (field(1, 8) + OTHER_OPSET, "no graph"),
        (unary("Relu") + b"\x0b", "wire type 3"),
        # Bytes that two readers could take for two things.
        (unary("Relu") + field(7, field(1, node("Loop", ["x"], ["z"]))), "says graph twice"),
        (unary("Relu") + field(99, 1), "has a field 99, which ONNX does not know"),
        (model([RELU + field(4, "Loop")], [X], [Y]), "says op_type twice"),
        (model([node("Cast", ["x"], ["y"], of_int("to", 1), of_int("to", 8))], [X], [Y]), "two attributes to"),
        (weights(tensor("w", FLOAT + 2**32, (1,), bytes(4))), "more than 32 bits"),
        (unary("Relu") + OTHER_OPSET, "names the operators of ai.onnx twice"),
        (model([node("Relu", ["x\xff".encode("latin-1")], ["y"])], [X], [Y]), "no text"),
        # What ONNX has and we do not run.
        (field(1, 6) + unary("Relu")[2:], "format version 6; from 7 on"),
        (model([RELU], [X], [Y], opset=12), "version 12 of ai.onnx; 13 to 21 are run here"),
        (model([RELU], [X], [Y], opset=22), "version 22 of ai.onnx; 13 to 21"),
        (calls("Scaler", extra=field(8, field(1, "ai.onnx.ml") + field(2, 4))), "version 4 of ai.onnx.ml; 1 to 3"),
        (calls("Scaler", domain="ai.onnx.ml"), "is of ai.onnx.ml, whose version the model does not say"),
        (calls("Gelu", domain="com.microsoft"), "'com.microsoft' are not onnx's own: only ai.onnx and ai.onnx.ml"),
        (unary("Relu") + MICROSOFT, "com.microsoft"),
        (unary("Loop"), "control flow"),
        (unary("If"), "control flow"),
        (unary("Scan"), "control flow"),
        (unary("RandomNormalLike"), "random"),
        (unary("Bernoulli"), "random"),
        (unary("DynamicQuantizeLinear"), "neighbours"),
        (unary("NonZero"), "hangs on its input"),
        (unary("Einsum"), "not among those listed"),
        (calls("Relu", [attribute("body", 6, b"", 5)]), "graph of its own"),
        (calls("Relu", [field(1, "bodies") + field(11, b"")]), "graph of its own"),
        (unary("Relu") + field(25, field(1, "f")), "functions"),
        (unary("Relu") + field(20, b""), "training information"),
        (model([RELU + field(8, "special")], [X], [Y]), "a function of the model's own"),
        (calls("Relu", [attribute("s", 22, b"", 11)]), "holds sparse_tensor"),
        (calls("Relu", [field(1, "a") + field(21, "b")]), "holds ref_attr_name"),
        (unary("Relu")[:2] + field(7, field(15, b"")), "sparse tensors"),
        (calls("Dropout", inputs=("x", "", "x")), "training mode"),
        (calls("BatchNormalization", [of_int("training_mode", 1)], ["x"] * 5), "training mode"),
        (calls("LayerNormalization", inputs=("x", "x"), outputs=("y", "mean")), "2 outputs"),
        (calls("LinearClassifier", [of_texts("classlabels_strings", "a")], domain="ai.onnx.ml",
               extra=field(8, field(1, "ai.onnx.ml") + field(2, 1))), "holds text in classlabels_strings"),
        (unary("Relu", STRING), "is of text: only float32, "),
        (unary("Relu", 16), "is of bfloat16"),
        (unary("Relu", 99), "is of type 99"),
        (model([RELU], [field(1, "x") + field(2, field(4, b""))], [Y]), "'x' is no tensor: sequences"),
        # Data elsewhere.
        (weights(EXTERNAL), "outside its own file"),
        (weights(tensor("w", FLOAT, (1,), bytes(4), field(14, 1))), "outside its own file"),
        (weights(tensor("w", FLOAT, (1,), bytes(4), field(13, b""))), "outside its own file"),
        (constant(EXTERNAL), "outside its own file"),
        (weights(tensor("w", FLOAT, (1,), bytes(4), field(3, b""))), "in pieces"),
        # Tensors that lie.
        (weights(tensor("w", FLOAT, (2,), bytes(4))), r"\(2,\), but holds 1 numbers"),
        (weights(tensor("w", FLOAT, (2**62, 4), bytes(4))), "but holds 1 numbers"),
        (weights(tensor("w", FLOAT, (-1,), bytes(4))), "no dimension may be below 0"),
        (weights(tensor("w", FLOAT, (1,) * 9, bytes(4))), "9 dimensions, at most 8"),
        (weights(field(1, 1) + field(2, FLOAT) + field(7, 5)), "is of float32, but keeps its numbers as int64_data"),
        (weights(tensor("w", INT64, (1,), bytes(8), field(7, 5))), "keeps its numbers as int64_data"),
        # Inputs, outputs and names.
        (unary("Relu", FLOAT, (2, "free")), "only the first dimension may be free"),
        (unary("Relu", FLOAT, (2, 0)), "a number from 1 on"),
        (unary("Relu", FLOAT, (-1, 2)), "a number from 1 on"),
        (unary("Relu", FLOAT, (1,) * 9), "9 dimensions"),
        (unary("Relu", FLOAT, (2**40,)), "no dimension may be more than"),
        (unary("Relu", FLOAT, (1_024, 1_024)), "4194304 bytes for one row, at most 2097152 are sent"),
        (model([RELU], [field(1, "x") + field(2, field(1, field(1, FLOAT)))], [Y]), "'x' has no shape"),
        (model([RELU], [], [Y]), "0 inputs and 1 outputs; 1 to 8 of each"),
        (model([RELU], [X] * 9, [Y]), "9 inputs and 1 outputs"),
        (model([RELU], [X], []), "1 inputs and 0 outputs"),
        (model([RELU], [value_info("x" * 300, FLOAT, (1,))], [Y]), "300 bytes, at most 256"),
        (model([RELU, RELU], [X], [Y]), "'y' is given more than once"),
        (model([RELU], [X, X], [Y]), "'x' is given more than once"),
        (model([RELU], [X], [Y], (tensor("x", FLOAT, (1,), bytes(4)),)), "'x' is given more than once"),
        (model([RELU], [X], [Y, Y]), "'y' is given more than once"),
        (model([RELU], [X], [value_info("z", FLOAT, (1,))]), "nothing gives output 'z'"),
        (model([node("Relu", ["z"], ["y"]), node("Relu", ["y"], ["z"])], [X], [Y]), r"node 1 \(Relu\) takes 'z'"),
        # Too much of it.
        (model([RELU] * (NODES_MAX + 1), [X], [Y]), f"more nodes than {NODES_MAX}, the most that are run here"),
        (model([RELU], [X], [Y], (b"",) * (CONSTANTS_MAX + 1)), "more initializers than 4096"),
        (calls("Concat", [of_int("axis", 0)], ["x"] * EDGES_MAX), f"1025 inputs and outputs, at most {EDGES_MAX}"),
        (unary("Relu") + field(14, b"") * (FIELDS_MAX + 1), f"more than {FIELDS_MAX} fields"),
        # Shapes that do not fit.
        (calls("MatMul", inputs=("x", "x2"), tensors=(int64s("x2", 1, 2),)), "do not fit each other"),
        (calls("Reshape", inputs=("x", "s"), tensors=(int64s("s", 7),)), "does not work for 64 rows"),
        (calls("Transpose", [of_ints("perm", 1, 0)]), "no order of 1 dimensions"),
        (calls("Conv", inputs=("x", "x")), "no image and kernels"),
    ],
)  # fmt: skip
def test_a_file_we_must_not_load_is_refused_with_the_reason(data, reason):
    with pytest.raises(ModelRefused, match=reason) as caught:
        verify_model(data)
    assert len(str(caught.value)) < 500


GROWING = {
    # The two files of facts: minutes of work and half a gigabyte, while loading.
    "products of constants": (many_products(1, 6_000, is_constant=True), r"\(ConstantOfShape\) gives a constant"),
    "many products of constants": (many_products(12, 3_000, is_constant=True), "at most 4194304 are taken"),
    "smaller ones": (many_products(12, 1_500, is_constant=True), "all done while loading; at most 1073741824"),
    "a constant": (calls("ConstantOfShape", inputs=("s",), tensors=(int64s("s", 2**17, 2**18),)), "34359738368"),
    "a range": (
        calls("Range", inputs=("a", "b", "c"), tensors=tuple(tensor(name, INT64, (), n.to_bytes(8, "little"))
              for name, n in (("a", 0), ("b", 2**40), ("c", 1)))),
        "1099511627776 numbers",
    ),
    "an expansion": (calls("Expand", inputs=("x", "s"), tensors=(int64s("s", 2**20, 2**10),)), "1073741824 numbers"),
    "a tiling": (calls("Tile", inputs=("x", "s"), tensors=(int64s("s", 2**40),)), "1099511627776 numbers"),
    "padding": (calls("Pad", inputs=("x", "s"), tensors=(int64s("s", 0, 2**40),)), "1099511627777 numbers"),
    "joining": (
        model([node("Concat", ["x", "x"], ["p1"], of_int("axis", 0)),
               *(node("Concat", [f"p{n}"] * 2, [f"p{n + 1}"], of_int("axis", 0)) for n in range(1, 36))],
              [X], [value_info("p36", FLOAT, (1,))]),
        r"node 26 \(Concat\) gives a tensor of 67108864 numbers",
    ),
    "targets": (
        calls("TreeEnsembleRegressor", [of_int("n_targets", 2**40)], domain="ai.onnx.ml",
              extra=field(8, field(1, "ai.onnx.ml") + field(2, 1))),
        "1099511627776 numbers",
    ),
    "an outer product": (
        model([node("Mul", ["column", "x"], ["y"])],
              [value_info("x", FLOAT, (1, 2**18)), value_info("column", FLOAT, (2**18, 1))], [Y]),
        "68719476736 numbers",
    ),
    "a size nobody can tell": (
        model([node("Cast", ["x"], ["s"], of_int("to", INT64)), node("ConstantOfShape", ["s"], ["y"])], [X], [Y]),
        "its size hangs on input 0, which nobody can tell",
    ),
    "a size from a shape": (
        model([node("Shape", ["x"], ["s"]), node("Mul", ["s", "many"], ["t"]), node("Expand", ["x", "t"], ["y"])],
              [value_info("x", FLOAT, ("rows", 1))], [Y], (int64s("many", 1, 2**30),)),
        f"a tensor of {2**36} numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GROWING)
def test_a_small_file_that_makes_large_tensors_or_long_work_is_refused_before_it_loads(name):
    data, reason = GROWING[name]

    assert len(data) < 4_000
    with pytest.raises(ModelRefused, match=reason):
        verify_model(data)


@pytest.mark.parametrize("name", MODELS)
def test_the_models_that_ship_are_let_through(name):
    verify_model(MODELS[name])


def test_a_transformer_step_with_a_cache_is_let_through():
    verify_model(TRANSFORMER)


def write_list(numbers, packed_from):
    """int64_data, one number at a time up to a place and packed from there."""
    single = b"".join(field(7, number) for number in numbers[:packed_from])
    return single + (field(7, b"".join(map(varint, numbers[packed_from:]))) if packed_from < len(numbers) else b"")


@pytest.mark.parametrize("packed_from", [0, 5_000, 10_000])
def test_long_lists_of_numbers_are_counted_however_they_are_written(packed_from):
    numbers = [number * 1_000_003 % 2**40 for number in range(10_000)]
    data = field(1, 10_000) + field(2, INT64) + field(8, "w") + write_list(numbers, packed_from)

    (found,) = read_onnx_file(weights(data)).tensors

    assert (found.shape, found.values) == ((10_000,), ())


@pytest.mark.parametrize("packed_from", [0, 3, 5])
def test_short_lists_are_read_however_they_are_written(packed_from):
    numbers = (3, 0, -1, 2**40, -(2**63))

    (found,) = read_onnx_file(
        weights(field(1, 5) + field(2, INT64) + field(8, "w") + write_list(numbers, packed_from))
    ).tensors

    assert found.values == numbers


@settings(max_examples=300)
@given(st.sampled_from(sorted(SEEDS)), st.randoms(use_true_random=False), st.integers(1, 4))
def test_a_mutated_file_is_let_through_or_refused_and_nothing_else(name, rng, times):
    data = SEEDS[name]
    for _ in range(times):
        data = mutate(data, (TRANSFORMER,), rng)
    with suppress(ModelRefused):
        verify_model(data)
