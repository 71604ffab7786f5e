"""A convolutional network for handwritten digits: trained in numpy, written as a graph.

Images are (batch, channels, 8, 8) in the graph, (batch, 8, 8, channels) while training.
"""

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from testnet.models.learn.adam import Array, Plan, Progress, take_step, view_parameters
from testnet.models.learn.convolution import SIZES, compute_gradient, draw_parameters
from testnet.models.train.data import SEED, Rows, shift_rows, split_digits
from testnet.models.train.digits import LABELS, PIXEL_MAX
from testnet.models.train.graphs import Port, Trained, build_model
from testnet.models.train.scores import DIGITS, score_labels

PLAN = Plan(steps=1_500, batch=64, rate_max=3e-3, seed=SEED)


def train_cnn() -> Trained:
    training, heldout = split_digits()
    model = build_cnn(view_parameters(train_network(shift_rows(training), PLAN), SIZES))
    return Trained(
        name="digits-cnn",
        kind="classify",
        model=model,
        source="digits",
        heldout=score_labels(model, heldout, DIGITS),
        training={"seed": SEED, "rows": len(training.inputs), "steps": PLAN.steps},
        labels=LABELS,
    )


def train_network(rows: Rows, plan: Plan) -> Array:
    """The parameters after the plan's steps, each on rows drawn anew."""
    rng = np.random.default_rng(plan.seed)
    flat = draw_parameters(rng)
    progress = Progress(flat, np.zeros_like(flat), np.zeros_like(flat))
    images = (rows.inputs / PIXEL_MAX).astype(np.float32).reshape(-1, 8, 8, 1)
    while progress.done < plan.steps:
        drawn = rng.integers(0, len(images), plan.batch)
        _, gradient = compute_gradient(progress.flat, images[drawn], rows.targets[drawn])
        take_step(progress, gradient, plan)
    return progress.flat


def build_cnn(weights: dict[str, Array]) -> ModelProto:
    """float32 (batch, 64) pixels 0..16 → float32 (batch, 10) logits."""
    constants: dict[str, Any] = {
        "image": np.array([0, 1, 8, 8], np.int64),
        "w1": _to_kernel(weights["conv1"] / np.float32(PIXEL_MAX)),
        "b1": weights["conv1_bias"],
        "w2": _to_kernel(weights["conv2"]),
        "b2": weights["conv2_bias"],
        "w3": np.ascontiguousarray(weights["dense1"].reshape(4, 4, 32, 64).transpose(2, 0, 1, 3)).reshape(512, 64),
        "b3": weights["dense1_bias"],
        "w4": weights["dense2"],
        "b4": weights["dense2_bias"],
    }
    nodes = [
        helper.make_node("Reshape", ["pixels", "image"], ["images"]),
        helper.make_node("Conv", ["images", "w1", "b1"], ["sum1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["sum1"], ["raised1"]),
        helper.make_node("Conv", ["raised1", "w2", "b2"], ["sum2"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["sum2"], ["raised2"]),
        helper.make_node("MaxPool", ["raised2"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["sum3"]),
        helper.make_node("Relu", ["sum3"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w4", "b4"], ["logits"]),
    ]
    inputs, outputs = [Port("pixels", TensorProto.FLOAT, (64,))], [Port("logits", TensorProto.FLOAT, (10,))]
    return build_model("digits-cnn", nodes, constants, inputs, outputs)


def _to_kernel(weights: Array) -> Array:
    """(channels · 9, outputs) → (outputs, channels, 3, 3)."""
    return np.ascontiguousarray(weights.T.reshape(weights.shape[1], -1, 3, 3))
