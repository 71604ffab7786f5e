"""Each operator that is let through, run by onnxruntime: it gives the shape and type that its rule told beforehand."""

import numpy as np
import pytest

from protocol.tensor import Tensor
from roles.engine.admission import read_model
from roles.engine.onnx_file import DTYPES
from roles.engine.operators import RULES
from roles.engine.session import load_session, run_session
from tests.support.onnx_bytes import (
    field,
    model,
    node,
    of_float,
    of_floats,
    of_int,
    of_ints,
    of_tensor,
    of_text,
    of_texts,
    tensor,
    value_info,
)

CODES = {name: code for code, (name, _) in DTYPES.items()}
ML = field(8, field(1, "ai.onnx.ml") + field(2, 3))
F = np.float32


def floats(*shape):
    """Numbers from 0.25 on, that no operator turns into infinity."""
    return (np.arange(np.prod(shape, dtype=int)).reshape(shape) % 7 / 8 + 0.25).astype(F)


def whole(dtype, *shape):
    return (np.arange(np.prod(shape, dtype=int)).reshape(shape) % 7 + 1).astype(dtype)


def ints(*values):
    """A constant that says a shape."""
    return Constant(np.array(values, np.int64))


class Constant:
    """An input that stands in the file."""

    def __init__(self, array):
        self.array = np.asarray(array)


def write_tensor(name, array):
    return tensor(name, CODES[array.dtype.name], array.shape, array.tobytes())


def build(operator, inputs, attributes=(), outputs=1, opset=17, domain="", dtypes=()):
    """A model of one node whose outputs have these types, the names of its outputs, and what it is to be given."""
    names = [f"i{place}" if value is not None else "" for place, value in enumerate(inputs)]
    named = [(name, value) for name, value in zip(names, inputs, strict=True) if name]
    given = [(name, value) for name, value in named if not isinstance(value, Constant)]
    constants = [write_tensor(name, value.array) for name, value in named if isinstance(value, Constant)]
    results = [f"o{place}" for place in range(outputs)]
    types = dict(zip(results, dtypes or ("float32",) * outputs, strict=True))
    steps = [node(operator, names, results, *attributes, domain=domain)]
    if not given:
        # A graph takes something, even if what it gives hangs on it in no way.
        given = [("spare", floats(1))]
        steps.append(node("Identity", ["spare"], ["also"]))
        types["also"] = "float32"
    ends = [value_info(name, CODES[value.dtype.name], value.shape) for name, value in given]
    gives = [field(1, name) + field(2, field(1, field(1, CODES[dtype]))) for name, dtype in types.items()]
    data = model(steps, ends, gives, tuple(constants), ML if domain else b"", opset)
    return data, results, tuple(Tensor(value.dtype.name, value.shape, value.tobytes()) for _, value in given)


def tell_and_run(operator, inputs, attributes=(), outputs=1, opset=17, domain=""):
    """What the rule tells of the outputs before, and what they are."""
    data, names, _ = build(operator, inputs, attributes, outputs, opset, domain)
    values = read_model(data)[1]
    told = [(values[name].shape, values[name].dtype) for name in names]
    data, _, tensors = build(operator, inputs, attributes, outputs, opset, domain, [dtype for _, dtype in told])
    results, _ = run_session(load_session(data), tensors)
    return told, [(result.shape, result.dtype) for result in results[:outputs]]


SCALE, ZERO = Constant(F(0.5)), Constant(np.uint8(3))
ONE, TWO = Constant(F(1)), Constant(np.int64([2]))
ROWS = floats(3, 4)
IMAGE, KERNEL = floats(2, 3, 9, 8), Constant(floats(6, 3, 3, 2))
TREE = (
    of_ints("nodes_treeids", 0, 0, 0), of_ints("nodes_nodeids", 0, 1, 2), of_ints("nodes_featureids", 1, 0, 0),
    of_floats("nodes_values", 0.5, 0, 0), of_floats("nodes_hitrates", 1, 1, 1),
    of_texts("nodes_modes", "BRANCH_LEQ", "LEAF", "LEAF"), of_ints("nodes_truenodeids", 1, 0, 0),
    of_ints("nodes_falsenodeids", 2, 0, 0), of_ints("nodes_missing_value_tracks_true", 0, 0, 0),
)  # fmt: skip
VOTES = (of_ints("class_treeids", 0, 0), of_ints("class_nodeids", 1, 2), of_ints("class_ids", 0, 2))
LEAVES = (of_ints("target_treeids", 0, 0), of_ints("target_nodeids", 1, 2), of_ints("target_ids", 0, 1))
SIMPLE = (
    "Abs Neg Sign Sqrt Reciprocal Exp Log Erf Sin Cos Floor Ceil Round Identity Clip Relu LeakyRelu Elu HardSigmoid "
)
SIMPLE += "HardSwish Sigmoid Softplus Tanh Softmax LogSoftmax"
CASES = {
    **{name: [(name, [ROWS])] for name in SIMPLE.split()},
    **{name: [(name, [floats(2, 1, 4), floats(3, 1)])] for name in "Add Sub Mul Div Pow PRelu".split()},
    **{name: [(name, [floats(2, 1), floats(3), ONE])] for name in "Min Max Sum Mean".split()},
    **{
        name: [(name, [floats(2, 1), floats(3)])] for name in "Equal Greater GreaterOrEqual Less LessOrEqual".split()
    },
    **{name: [(name, [whole("bool", 2, 1), whole("bool", 3)])] for name in ("And", "Or")},
    **{name: [(name, [ROWS])] for name in ("IsNaN", "IsInf")},
    "Not": [("Not", [whole("bool", 2)])],
    "Gelu": [("Gelu", [ROWS], (), 1, 20)],
    "Mod": [("Mod", [whole("int32", 2, 3), whole("int32", 3)])],
    "BitShift": [("BitShift", [whole("uint8", 2, 3), whole("uint8", 3)], [of_text("direction", "RIGHT")])],
    "Where": [("Where", [whole("bool", 2, 1), floats(3), floats(1)])],
    "Cast": [("Cast", [ROWS], [of_int("to", code)]) for code in (1, 2, 3, 6, 7, 9, 10, 11)],
    "LayerNormalization": [("LayerNormalization", [ROWS, Constant(floats(4)), Constant(floats(4))])],
    "BatchNormalization": [("BatchNormalization", [IMAGE, *[Constant(floats(3))] * 4])],
    "Dropout": [("Dropout", [ROWS, SCALE])],
    "CumSum": [("CumSum", [ROWS, Constant(np.int64(1))])],
    "Trilu": [("Trilu", [ROWS])],
    **{
        name: [
            (name, [floats(2, 3, 4)]),
            (name, [floats(2, 3, 4)], [of_ints("axes", -1, 0)]),
            (name, [floats(2, 3, 4)], [of_ints("axes", 1), of_int("keepdims", 0)]),
            (name, [floats(2, 3, 4), ints(-2)], [of_int("keepdims", 0)], 1, 18),
            (name, [floats(2, 3, 4)], [of_int("noop_with_empty_axes", 1)], 1, 18),
        ]
        for name in "ReduceMean ReduceMax ReduceMin ReduceProd".split()
    },
    "ReduceSum": [("ReduceSum", [floats(2, 3, 4), ints(0, -1)]), ("ReduceSum", [floats(2, 3)])],
    **{
        name: [(name, [ROWS]), (name, [ROWS], [of_int("axis", -1), of_int("keepdims", 0)])]
        for name in ("ArgMax", "ArgMin")
    },
    "TopK": [("TopK", [ROWS, TWO], (), 2), ("TopK", [ROWS, TWO], [of_int("axis", 0)], 2)],
    "MatMul": [
        ("MatMul", [floats(*first), floats(*second)])
        for first, second in [((3, 4), (4, 2)), ((4,), (4, 2)), ((3, 4), (4,)), ((4,), (4,)), ((5, 1, 3, 4), (2, 4, 2))]
    ],
    "Gemm": [
        ("Gemm", [ROWS, floats(4, 5), floats(5)]),
        ("Gemm", [floats(4, 3), floats(5, 4)], [of_int("transA", 1), of_int("transB", 1)]),
    ],
    "Conv": [
        ("Conv", [IMAGE, KERNEL]),
        ("Conv", [IMAGE, KERNEL], [of_ints("pads", 1, 0, 2, 1), of_ints("strides", 2, 3)]),
        ("Conv", [IMAGE, KERNEL], [of_ints("dilations", 2, 3), of_text("auto_pad", "VALID")]),
        ("Conv", [IMAGE, KERNEL], [of_ints("strides", 2, 3), of_text("auto_pad", "SAME_UPPER")]),
        ("Conv", [IMAGE, Constant(floats(6, 1, 3, 3))], [of_int("group", 3)]),
        ("Conv", [floats(1, 2, 9), Constant(floats(4, 2, 3))]),
    ],
    **{
        name: [
            (name, [IMAGE], [of_ints("kernel_shape", 3, 2)]),
            (name, [IMAGE], [of_ints("kernel_shape", 2, 2), of_ints("strides", 2, 2), of_int("ceil_mode", 1)]),
            (name, [IMAGE], [of_ints("kernel_shape", 3, 3), of_ints("pads", 1, 1, 1, 1)]),
        ]
        for name in ("MaxPool", "AveragePool")
    },
    **{name: [(name, [IMAGE])] for name in ("GlobalMaxPool", "GlobalAveragePool")},
    "MatMulInteger": [("MatMulInteger", [whole("uint8", 3, 4), Constant(whole("int8", 4, 2)), ZERO])],
    "ConvInteger": [("ConvInteger", [whole("uint8", 1, 3, 5, 5), Constant(whole("uint8", 2, 3, 3, 3))])],
    "QLinearMatMul": [
        ("QLinearMatMul", [whole("uint8", 3, 4), SCALE, ZERO, Constant(whole("uint8", 4, 2)), SCALE, ZERO, SCALE, ZERO])
    ],
    "QLinearConv": [
        (
            "QLinearConv",
            [whole("uint8", 1, 3, 5, 5), SCALE, ZERO, Constant(whole("uint8", 2, 3, 3, 3)), SCALE, ZERO, SCALE, ZERO],
        )
    ],
    "QuantizeLinear": [("QuantizeLinear", [ROWS, SCALE, ZERO]), ("QuantizeLinear", [ROWS, SCALE])],
    "DequantizeLinear": [("DequantizeLinear", [whole("uint8", 3, 4), SCALE, ZERO])],
    "Shape": [("Shape", [floats(2, 3, 4)]), ("Shape", [floats(2, 3, 4)], [of_int("start", 1), of_int("end", -1)])],
    "Reshape": [
        ("Reshape", [floats(2, 3, 4), ints(4, -1)]),
        ("Reshape", [floats(2, 3, 4), ints(0, 12)]),
        ("Reshape", [floats(2, 3, 4), ints(0, 0, 2, -1)]),
    ],
    "Flatten": [("Flatten", [floats(2, 3, 4)], [of_int("axis", axis)]) for axis in (0, 1, 2, 3, -1)],
    "Transpose": [("Transpose", [floats(2, 3, 4)]), ("Transpose", [floats(2, 3, 4)], [of_ints("perm", 1, 2, 0)])],
    "Unsqueeze": [("Unsqueeze", [ROWS, ints(0, -1)])],
    "Squeeze": [("Squeeze", [floats(1, 3, 1)]), ("Squeeze", [floats(1, 3, 1), ints(-1)])],
    "Concat": [("Concat", [ROWS, floats(3, 2)], [of_int("axis", -1)])],
    "Split": [
        ("Split", [ROWS], [of_int("axis", 1)], 2),
        ("Split", [ROWS, ints(1, 2)], (), 2),
        ("Split", [ROWS], [of_int("num_outputs", 2)], 2, 18),
    ],
    "Slice": [
        ("Slice", [floats(5, 6), ints(1), ints(4)]),
        ("Slice", [floats(5, 6), ints(-1, 1), ints(-(2**63), 2**63 - 1), ints(1, 0), ints(-2, 2)]),
    ],
    "Gather": [
        ("Gather", [floats(5, 6), Constant(np.int64([[0, 1, 2]]))], [of_int("axis", 1)]),
        ("Gather", [floats(5, 6), Constant(np.int64(2))]),
    ],
    "GatherElements": [("GatherElements", [ROWS, Constant(np.int64([[0, 1]]))], [of_int("axis", 1)])],
    "GatherND": [
        ("GatherND", [floats(2, 3, 4), Constant(np.int64([[0, 1], [1, 2], [1, 0]]))]),
        ("GatherND", [floats(2, 3, 4), Constant(np.int64([[0], [2]]))], [of_int("batch_dims", 1)]),
    ],
    "ScatterElements": [("ScatterElements", [ROWS, Constant(np.int64([[0, 1]])), Constant(floats(1, 2))])],
    "ScatterND": [("ScatterND", [ROWS, Constant(np.int64([[0], [2]])), Constant(floats(2, 4))])],
    "Expand": [("Expand", [floats(3, 1), ints(2, 1, 6)])],
    "Tile": [("Tile", [ROWS, ints(2, 3)])],
    "Pad": [("Pad", [ROWS, ints(1, 0, -1, 2)]), ("Pad", [ROWS, ints(1, 2), ONE, ints(-1)], (), 1, 18)],
    "Range": [
        ("Range", [Constant(np.int64(end)) for end in ends]) for ends in [(1, 10, 3), (10, 0, -4), (3, 1, 1), (1, 2, 5)]
    ]
    + [("Range", [Constant(F(end)) for end in (0, 1, 0.3)])],
    "ConstantOfShape": [
        ("ConstantOfShape", [ints(2, 3)]),
        ("ConstantOfShape", [ints(2, 3)], [of_tensor("value", write_tensor("v", np.int64([5])))]),
    ],
    "Constant": [
        ("Constant", [], [of_tensor("value", write_tensor("v", whole("int32", 2, 3)))]),
        ("Constant", [], [of_int("value_int", 3)]),
        ("Constant", [], [of_ints("value_ints", 3, 4)]),
        ("Constant", [], [of_float("value_float", 3)]),
        ("Constant", [], [of_floats("value_floats", 3, 4)]),
    ],
}  # fmt: skip
ML_CASES = {
    "LinearClassifier": [
        ("LinearClassifier", [ROWS], [of_floats("coefficients", *range(12)), of_floats("intercepts", 1, 2, 3),
                                      of_ints("classlabels_ints", 7, 8, 9)], 2),
        ("LinearClassifier", [ROWS], [of_floats("coefficients", *range(8)), of_floats("intercepts", 1, 2),
                                      of_ints("classlabels_ints", 0, 1)], 2),
    ],
    "LinearRegressor": [
        ("LinearRegressor", [ROWS], [of_floats("coefficients", *range(8)), of_floats("intercepts", 1, 2),
                                     of_int("targets", 2)]),
    ],
    "Normalizer": [("Normalizer", [ROWS], [of_text("norm", "L2")])],
    "Scaler": [("Scaler", [ROWS], [of_floats("offset", 1, 2, 3, 4), of_floats("scale", 1, 2, 3, 4)])],
    "ArrayFeatureExtractor": [("ArrayFeatureExtractor", [ROWS, ints(0, 2)])],
    "TreeEnsembleClassifier": [
        ("TreeEnsembleClassifier", [ROWS],
         [*TREE, *VOTES, of_floats("class_weights", 1, 1), of_ints("classlabels_int64s", 4, 5, 6)], 2),
    ],
    "TreeEnsembleRegressor": [
        ("TreeEnsembleRegressor", [ROWS], [*TREE, *LEAVES, of_floats("target_weights", 1, 2), of_int("n_targets", 2)]),
    ],
}  # fmt: skip


def test_every_operator_of_the_table_is_tried_here():
    assert set(CASES) == set(RULES[""])
    assert set(ML_CASES) == set(RULES["ai.onnx.ml"])


@pytest.mark.parametrize("operator", CASES)
def test_an_operator_gives_what_its_rule_tells(operator):
    for case in CASES[operator]:
        told, given = tell_and_run(*case)
        assert told == given, case


@pytest.mark.parametrize("operator", ML_CASES)
def test_an_operator_of_classical_models_gives_what_its_rule_tells(operator):
    for case in ML_CASES[operator]:
        told, given = tell_and_run(*case, domain="ai.onnx.ml")
        assert told == given, case
