"""Two small networks for handwritten digits: one in float32, and the same in whole numbers."""

import warnings
from functools import cache

import numpy as np
import sklearn
from onnx import ModelProto, TensorProto, helper
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from testnet.models.train.data import SEED, Rows, shift_rows, split_digits
from testnet.models.train.graphs import Port, Trained, build_model
from testnet.models.train.scores import DIGITS, score_labels

HIDDEN = 256  # this and ALPHA were the best of a 4-fold cross-validation over the training rows alone
ALPHA = 0.01
EPOCHS = 60
WEIGHT_MAX = 63  # a u8×s8 product pair then fits 16 bits on processors without VNNI: 2 · 255 · 63 < 2^15
PIXEL_MAX = 16
LABELS = tuple(str(digit) for digit in range(10))


def train_exact() -> Trained:
    rows, network = _train_once()
    return _finish("digits", build_exact(network, rows), exact=True)


def train_fp32() -> Trained:
    _, network = _train_once()
    return _finish("digits-fp32", build_fp32(network), exact=False)


def _finish(name: str, model: ModelProto, exact: bool) -> Trained:
    training, heldout = split_digits()
    return Trained(
        name=name,
        kind="classify",
        model=model,
        source="digits",
        heldout=score_labels(model, heldout, DIGITS),
        training={"seed": SEED, "rows": len(training.inputs), "scikit-learn": sklearn.__version__},
        exact=exact,
        labels=LABELS,
    )


@cache
def _train_once() -> tuple[Rows, MLPClassifier]:
    rows = shift_rows(split_digits()[0])
    return rows, train_network(rows)


def train_network(rows: Rows) -> MLPClassifier:
    """A 64-256-10 network over pixels scaled to 0..1."""
    network = MLPClassifier((HIDDEN,), alpha=ALPHA, max_iter=EPOCHS, tol=0, n_iter_no_change=EPOCHS, random_state=0)
    with warnings.catch_warnings():
        # The number of epochs is fixed on purpose, so that the bytes do not hang on when the loss stops falling.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network.fit(rows.inputs / PIXEL_MAX, rows.targets)


def build_fp32(network: MLPClassifier) -> ModelProto:
    """float32 (batch, 64) pixels 0..16 → float32 (batch, 10) logits."""
    (first, second), (first_bias, second_bias) = network.coefs_, network.intercepts_
    constants = {
        "w1": (first / PIXEL_MAX).astype(np.float32),
        "b1": first_bias.astype(np.float32),
        "w2": second.astype(np.float32),
        "b2": second_bias.astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["pixels", "w1", "b1"], ["sum1"]),
        helper.make_node("Relu", ["sum1"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w2", "b2"], ["logits"]),
    ]
    inputs, outputs = [Port("pixels", TensorProto.FLOAT, (64,))], [Port("logits", TensorProto.FLOAT, (10,))]
    return build_model("digits-fp32", nodes, constants, inputs, outputs)


def build_exact(network: MLPClassifier, rows: Rows) -> ModelProto:
    """uint8 (batch, 64) pixels 0..16 → int32 (batch, 10) logits, in whole numbers only.

    Each layer's weights are scaled to ±63. The hidden layer is brought back to a byte by a whole division whose divisor
    lets all but one in 10,000 of the training activations fit. Up to rounding, only the scale of the logits differs
    from the float network's.
    """
    (first, second), (first_bias, second_bias) = network.coefs_, network.intercepts_
    first_scale = np.abs(first).max() / WEIGHT_MAX
    first_whole = np.rint(first / first_scale).astype(np.int8)
    first_bias_whole = np.rint(first_bias * PIXEL_MAX / first_scale).astype(np.int32)
    sums = rows.inputs.astype(np.int32) @ first_whole.astype(np.int32) + first_bias_whole
    divisor = int(np.ceil(np.quantile(np.maximum(sums, 0), 0.9999) / 255))
    second_scale = np.abs(second).max() / WEIGHT_MAX
    hidden_scale = divisor * first_scale / PIXEL_MAX
    constants = {
        "w1": first_whole,
        "b1": first_bias_whole,
        "zero": np.array(0, np.int32),
        "most": np.array(255 * divisor + divisor - 1, np.int32),
        "divisor": np.array(divisor, np.int32),
        "w2": np.rint(second / second_scale).astype(np.int8),
        "b2": np.rint(second_bias / (second_scale * hidden_scale)).astype(np.int32),
    }
    nodes = [
        helper.make_node("MatMulInteger", ["pixels", "w1"], ["product1"]),
        helper.make_node("Add", ["product1", "b1"], ["sum1"]),
        helper.make_node("Clip", ["sum1", "zero", "most"], ["clipped"]),
        helper.make_node("Div", ["clipped", "divisor"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["hidden"], to=TensorProto.UINT8),
        helper.make_node("MatMulInteger", ["hidden", "w2"], ["product2"]),
        helper.make_node("Add", ["product2", "b2"], ["logits"]),
    ]
    inputs, outputs = [Port("pixels", TensorProto.UINT8, (64,))], [Port("logits", TensorProto.INT32, (10,))]
    return build_model("digits", nodes, constants, inputs, outputs)
