"""The operators that are run here, each with the rule that tells what it gives.

What is listed is enough for multilayer perceptrons, convolutional networks, whole-number and QLinear networks, tree
ensembles and other classical models as skl2onnx writes them, and transformers with a key-value cache. What is not:
whatever hangs on dice (Random*, Multinomial, Bernoulli) or on the rest of the batch (DynamicQuantizeLinear), control
flow, text, sequences and maps, operators whose output's size hangs on its input's contents (NonZero, Unique, Compress),
and the many that nobody has needed yet: each is a kernel in C++ that strangers may feed.
"""

from collections.abc import Callable

from roles.engine import layouts, shapes
from roles.engine.shapes import Call, Kind

OPSETS = {"": (13, 21), "ai.onnx.ml": (1, 3)}

Rule = Callable[[Call], list[Kind]]


def _each(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, dict[str, Rule]] = {
    "": {
        # Number by number.
        **_each("Abs Neg Sign Sqrt Reciprocal Exp Log Erf Sin Cos Floor Ceil Round Not Identity Clip", shapes.same),
        **_each("Relu LeakyRelu Elu Gelu HardSigmoid HardSwish Sigmoid Softplus Tanh", shapes.same),
        **_each("Add Sub Mul Div Mod Pow Min Max Sum Mean PRelu And Or BitShift", shapes.stretched),
        **_each("Equal Greater GreaterOrEqual Less LessOrEqual", shapes.compared),
        **_each("IsNaN IsInf", shapes.asked),
        "Where": shapes.chosen,
        "Cast": shapes.cast,
        # Along an axis.
        **_each("Softmax LogSoftmax LayerNormalization BatchNormalization Dropout CumSum Trilu", shapes.same),
        **_each("ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd", shapes.reduced),
        **_each("ArgMax ArgMin", shapes.arg_reduced),
        "TopK": shapes.top_k,
        # Products and convolutions.
        "MatMul": shapes.matmul,
        "Gemm": shapes.gemm,
        "Conv": shapes.conv,
        **_each("MaxPool AveragePool", shapes.pool),
        **_each("GlobalMaxPool GlobalAveragePool", shapes.pool_all),
        # In whole numbers.
        "MatMulInteger": shapes.matmul_integer,
        "ConvInteger": shapes.conv_integer,
        "QLinearMatMul": shapes.qlinear_matmul,
        "QLinearConv": shapes.qlinear_conv,
        "QuantizeLinear": shapes.quantized,
        "DequantizeLinear": shapes.dequantized,
        # Moving numbers.
        "Shape": layouts.shape_of,
        "Reshape": layouts.reshaped,
        "Flatten": layouts.flattened,
        "Transpose": layouts.transposed,
        "Unsqueeze": layouts.unsqueezed,
        "Squeeze": layouts.squeezed,
        "Concat": layouts.joined,
        "Split": layouts.split,
        "Slice": layouts.sliced,
        "Gather": layouts.gathered,
        "GatherElements": layouts.gathered_elements,
        "GatherND": layouts.gathered_nd,
        **_each("ScatterElements ScatterND", shapes.same),
        "Expand": layouts.expanded,
        "Tile": layouts.tiled,
        "Pad": layouts.padded,
        "Range": layouts.counted,
        "ConstantOfShape": layouts.filled,
        "Constant": layouts.constant,
    },
    "ai.onnx.ml": {
        **_each("LinearClassifier TreeEnsembleClassifier", shapes.labels_and_scores),
        **_each("LinearRegressor TreeEnsembleRegressor", shapes.targets),
        **_each("Normalizer Scaler", shapes.as_float),
        "ArrayFeatureExtractor": shapes.features,
    },
}
# More outputs than one, where an operator has them; anything else gives one.
OUTPUTS_MAX = {"Split": 1_024, "TopK": 2, "LinearClassifier": 2, "TreeEnsembleClassifier": 2}
# Why, for those that people are likely to miss.
REASONS = {
    **dict.fromkeys(
        "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split(),
        "it is random, so nobody could repeat it",
    ),
    **dict.fromkeys("If Loop Scan SequenceMap".split(), "it is control flow, whose end nobody can tell"),
    "DynamicQuantizeLinear": "it scales by what else is in the batch, so a row's answer depends on its neighbours",
    **dict.fromkeys("NonZero Unique Compress NonMaxSuppression".split(), "the size of its output hangs on its input"),
    "ZipMap": "it gives maps; export without it (skl2onnx: zipmap=False)",
}
