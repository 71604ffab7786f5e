"""Train the two digit models that ship with rolemesh and write them with their held-out rows and manifest.

Run `python -m testnet.models.train` with the extra `train` installed; running the models needs none of it. Everything
is seeded, so one machine writes the same bytes each time. Another processor may round the training differently: the
committed files and their digests in `models.json` are the reference, not a second training.
"""

import argparse
import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import sklearn
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from protocol.content import format_cid

SEED = 2
HELDOUT_ROWS = 600
HIDDEN = 256  # this and ALPHA were the best of a 4-fold cross-validation over the training rows alone
ALPHA = 0.01
EPOCHS = 60
WEIGHT_MAX = 63  # a u8×s8 product pair then fits 16 bits on processors without VNNI: 2 · 255 · 63 < 2^15
PIXEL_MAX = 16
OPSET = 17
IR_VERSION = 8
LABELS = [str(digit) for digit in range(10)]
DATA_SOURCE = {
    "dataset": "Optical Recognition of Handwritten Digits",
    "authors": "E. Alpaydin and C. Kaynak, 1998",
    "from": "UCI Machine Learning Repository, dataset 80, doi 10.24432/C50P49, by way of scikit-learn's load_digits",
    "licence": "CC BY 4.0 (dataset); BSD-3-Clause (scikit-learn, which ships the copy)",
    "changes": "1,797 rows split by seed; pixels kept as whole numbers 0..16; training rows also shifted by one pixel",
}

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Rows:
    """Images as (rows, 64) uint8 in 0..16, and their digits as (rows,) int64."""

    pixels: Array
    digits: Array


def split_digits() -> tuple[Rows, Rows]:
    """Training and held-out rows. No held-out row equals another row of either part."""
    data = load_digits()
    pixels, digits = data.data.astype(np.uint8), data.target.astype(np.int64)
    if len(np.unique(pixels, axis=0)) != len(pixels):
        raise ValueError("the dataset repeats a row, so the parts could overlap")
    order = np.random.default_rng(SEED).permutation(len(pixels))
    held, rest = order[:HELDOUT_ROWS], order[HELDOUT_ROWS:]
    return Rows(pixels[rest], digits[rest]), Rows(pixels[held], digits[held])


def shift_rows(rows: Rows) -> Rows:
    """The rows, and each of them moved by one pixel up, down, left and right."""
    images = rows.pixels.reshape(-1, 8, 8)
    moved = [images]
    for axis, step in ((1, 1), (1, -1), (2, 1), (2, -1)):
        copy = np.roll(images, step, axis)
        edge = 0 if step == 1 else -1
        if axis == 1:
            copy[:, edge, :] = 0
        else:
            copy[:, :, edge] = 0
        moved.append(copy)
    return Rows(np.concatenate(moved).reshape(-1, 64), np.tile(rows.digits, len(moved)))


def train_network(rows: Rows) -> MLPClassifier:
    """A 64-256-10 network over pixels scaled to 0..1."""
    network = MLPClassifier((HIDDEN,), alpha=ALPHA, max_iter=EPOCHS, tol=0, n_iter_no_change=EPOCHS, random_state=0)
    with warnings.catch_warnings():
        # The number of epochs is fixed on purpose, so that the bytes do not hang on when the loss stops falling.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network.fit(rows.pixels / PIXEL_MAX, rows.digits)


def build_fp32(network: MLPClassifier) -> onnx.ModelProto:
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
    return build_model("digits-fp32", nodes, constants, TensorProto.FLOAT, TensorProto.FLOAT)


def build_exact(network: MLPClassifier, rows: Rows) -> onnx.ModelProto:
    """uint8 (batch, 64) pixels 0..16 → int32 (batch, 10) logits, in whole numbers only.

    Each layer's weights are scaled to ±63. The hidden layer is brought back to a byte by a whole division whose divisor
    lets all but one in 10,000 of the training activations fit. Up to rounding, only the scale of the logits differs
    from the float network's.
    """
    (first, second), (first_bias, second_bias) = network.coefs_, network.intercepts_
    first_scale = np.abs(first).max() / WEIGHT_MAX
    first_whole = np.rint(first / first_scale).astype(np.int8)
    first_bias_whole = np.rint(first_bias * PIXEL_MAX / first_scale).astype(np.int32)
    sums = rows.pixels.astype(np.int32) @ first_whole.astype(np.int32) + first_bias_whole
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
    return build_model("digits", nodes, constants, TensorProto.UINT8, TensorProto.INT32)


def build_model(
    name: str, nodes: list[onnx.NodeProto], constants: dict[str, Array], input_type: int, output_type: int
) -> onnx.ModelProto:
    """A checked model from `pixels` (batch, 64) to `logits` (batch, 10)."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("pixels", input_type, ["batch", 64])],
        [helper.make_tensor_value_info("logits", output_type, ["batch", 10])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(
        graph, producer_name="rolemesh", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def score(model_bytes: bytes, rows: Rows) -> float:
    """Share of rows the model labels correctly, computed by onnx's own reference evaluator."""
    evaluator = ReferenceEvaluator(onnx.load_from_string(model_bytes))
    dtype = np.uint8 if b"MatMulInteger" in model_bytes else np.float32
    (logits,) = evaluator.run(None, {"pixels": rows.pixels.astype(dtype)})
    return float((np.argmax(logits, axis=1) == rows.digits).mean())


def describe(name: str, file: str, data: bytes, accuracy: float, exact: bool) -> dict[str, Any]:
    digest = hashlib.sha256(data).digest()
    return {
        "name": name,
        "file": file,
        "size_bytes": len(data),
        "sha256": digest.hex(),
        "cid": format_cid(digest),
        "class": "exact" if exact else "fp32",
        "heldout_accuracy": round(accuracy, 4),
        "inputs": [{"name": "pixels", "dtype": "uint8" if exact else "float32", "shape": [0, 64]}],
        "outputs": [{"name": "logits", "dtype": "int32" if exact else "float32", "shape": [0, 10]}],
        "labels": LABELS,
    }


def write_models(folder: Path) -> None:
    """Train, and write digits.onnx, digits-fp32.onnx, digits-heldout.npz and models.json into `folder`."""
    training, heldout = split_digits()
    rows = shift_rows(training)
    network = train_network(rows)
    entries = []
    for name, model, exact in (
        ("digits", build_exact(network, rows), True),
        ("digits-fp32", build_fp32(network), False),
    ):
        data = model.SerializeToString(deterministic=True)
        (folder / f"{name}.onnx").write_bytes(data)
        entries.append(describe(name, f"{name}.onnx", data, score(data, heldout), exact))
    samples = folder / "digits-heldout.npz"
    np.savez(samples, inputs=heldout.pixels, labels=heldout.digits.astype(np.uint8))
    manifest = {
        "models": entries,
        "heldout": {
            "file": samples.name,
            "rows": len(heldout.pixels),
            "sha256": hashlib.sha256(samples.read_bytes()).hexdigest(),
            "arrays": {"inputs": "(rows, 64) uint8, pixels 0..16", "labels": "(rows,) uint8, digits 0..9"},
        },
        "training": {
            "script": "testnet/models/train.py",
            "seed": SEED,
            "rows": len(training.pixels),
            "rows_with_shifts": len(rows.pixels),
            "scikit-learn": sklearn.__version__,
            "onnx": onnx.__version__,
            "numpy": np.__version__,
        },
        "source": DATA_SOURCE,
    }
    (folder / "models.json").write_text(json.dumps(manifest, indent=2) + "\n")
    for entry in entries:
        print(f"{entry['file']}: {entry['size_bytes']} bytes, held-out {entry['heldout_accuracy']:.4f}, {entry['cid']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write into")
    write_models(parser.parse_args().out)
