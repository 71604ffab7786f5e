"""Train the iris model and make the circuit that `zk` proofs are of: everything in `roles/zk/iris`.

Run `python -m testnet.models.train.iris` with the extras `train` and `zk` installed. Training is seeded; the set-up is
not, by its nature: whoever made it knows a secret with which anything can be proven, so it serves test networks only.
Each run makes another set-up, hence another verifying key: the committed files are the reference.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import ezkl
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPClassifier

from protocol.proofs.zk import decode_number
from roles.zk.circuit import FOLDER

SEED = 2
HELDOUT_ROWS = 30
HIDDEN = 8
SCALE = 7  # values are whole multiples of 2^-7 in the circuit
LOGROWS = 10  # not found by ezkl: 555 rows fit, and its own choice of 17 takes 30 s instead of 0.3 (0104)
OPSET, IR_VERSION = 13, 8
SPECIES = ["setosa", "versicolor", "virginica"]
DATA_SOURCE = {
    "dataset": "Iris",
    "authors": "R. A. Fisher, 1936",
    "from": "UCI Machine Learning Repository, dataset 53, doi 10.24432/C56C76, by way of scikit-learn's load_iris",
    "licence": "CC BY 4.0 (dataset); BSD-3-Clause (scikit-learn, which ships the copy)",
}

Array = np.ndarray[Any, np.dtype[Any]]


def train() -> tuple[list[Array], float, Array]:
    """Weights and biases in multiples of 2^-SCALE, the share of held-out rows they get right, and all rows."""
    data = load_iris()
    rows, species = data.data.astype(np.float32), data.target
    order = np.random.default_rng(SEED).permutation(len(rows))
    heldout, kept = order[:HELDOUT_ROWS], order[HELDOUT_ROWS:]
    model = MLPClassifier((HIDDEN,), solver="lbfgs", alpha=1.0, max_iter=1_000, random_state=SEED)
    model.fit(rows[kept], species[kept])
    arrays = (model.coefs_[0], model.intercepts_[0], model.coefs_[1], model.intercepts_[1])
    weights = [np.round(array * 2**SCALE).astype(np.float32) / np.float32(2**SCALE) for array in arrays]
    accuracy = float((run(weights, rows[heldout]).argmax(1) == species[heldout]).mean())
    return weights, accuracy, rows


def run(weights: list[Array], rows: Array) -> Array:
    """Logits, (rows, 3)."""
    logits: Array = np.maximum(rows @ weights[0] + weights[1], 0) @ weights[2] + weights[3]
    return logits


def build_model(weights: list[Array]) -> onnx.ModelProto:
    names = ("weights_0", "bias_0", "weights_1", "bias_1")
    nodes = [
        helper.make_node("Gemm", ["measures", "weights_0", "bias_0"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "weights_1", "bias_1"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "iris",
        [helper.make_tensor_value_info("measures", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(array, name) for array, name in zip(weights, names, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="rolemesh")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def make_circuit(folder: Path) -> None:
    """Settings, set-up and verifying key of model.onnx."""
    arguments = ezkl.PyRunArgs()
    arguments.decomp_base, arguments.decomp_legs = 128, 4
    arguments.input_scale = arguments.param_scale = SCALE
    arguments.input_visibility = arguments.output_visibility = "public"
    arguments.param_visibility = "fixed"
    model, settings = folder / "model.onnx", folder / "settings.json"
    ezkl.gen_settings(model, settings, arguments)
    fields = json.loads(settings.read_text())
    fields["run_args"]["logrows"], fields["timestamp"] = LOGROWS, 0
    settings.write_text(json.dumps(fields, indent=1) + "\n")
    ezkl.gen_srs(folder / "test-setup.bin", LOGROWS)
    ezkl.compile_circuit(model, folder / "circuit", settings)
    ezkl.setup(folder / "circuit", folder / "verifying-key.bin", folder / "pk", folder / "test-setup.bin", None, False)


def measure_error(folder: Path, weights: list[Array], rows: Array) -> float:
    """The largest difference between the circuit's outputs and the model's, over these rows, in units of 2^-SCALE."""
    worst = 0.0
    for row in rows:
        (folder / "input").write_text(json.dumps({"input_data": [row.tolist()]}))
        witness = ezkl.gen_witness(str(folder / "input"), str(folder / "circuit"), None, None, None)
        found = np.array([decode_number(bytes.fromhex(number)) for number in witness["outputs"][0]]) / 2**SCALE
        worst = max(worst, float(np.abs(found - run(weights, row[None])[0]).max()))
    return float(worst * 2**SCALE)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    weights, accuracy, rows = train()
    (FOLDER / "model.onnx").write_bytes(build_model(weights).SerializeToString())
    make_circuit(FOLDER)
    error = measure_error(FOLDER, weights, rows)
    for name in ("circuit", "pk", "input"):
        (FOLDER / name).unlink()
    about = {
        "name": "iris",
        "what": "species of an iris from four lengths in cm; logits",
        "labels": SPECIES,
        "accuracy": round(accuracy, 4),
        "error_max": round(error, 2),
        "slack": int(np.ceil(error * 1.5)),  # for rows between those measured
        "data": DATA_SOURCE,
        "sha256": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(FOLDER.iterdir())
            if path.suffix in (".onnx", ".bin")
        },
    }
    (FOLDER / "circuit.json").write_text(json.dumps(about, indent=1) + "\n")
    print(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
