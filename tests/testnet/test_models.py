"""The models that ship: what the manifest says of them is true, in our own engine."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from protocol.content import format_cid
from protocol.tensor import Tensor
from roles.engine.session import load_session, run_session

FOLDER = Path(__file__).parents[2] / "testnet" / "models"
MANIFEST = json.loads((FOLDER / "models.json").read_text())
MODELS = {entry["name"]: entry for entry in MANIFEST["models"]}
SIZE_BYTES_MAX = 200 * 1024


def read_model(name):
    return (FOLDER / MODELS[name]["file"]).read_bytes()


def read_heldout():
    with np.load(FOLDER / MANIFEST["heldout"]["file"]) as arrays:
        return arrays["inputs"], arrays["labels"]


def run_rows(session, rows, batch):
    """The outputs of all rows, `batch` at a time, as one (rows, 10) array."""
    dtype = session.inputs[0].dtype
    parts = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch].astype(dtype)
        (output,), _ = run_session(session, (Tensor(dtype, part.shape, part.tobytes()),))
        parts.append(np.frombuffer(output.data, output.dtype).reshape(output.shape))
    return np.concatenate(parts)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_the_file_its_manifest_names(name):
    data = read_model(name)

    digest = hashlib.sha256(data).digest()

    assert digest.hex() == MODELS[name]["sha256"]
    assert format_cid(digest) == MODELS[name]["cid"]
    assert len(data) == MODELS[name]["size_bytes"] < SIZE_BYTES_MAX


@pytest.mark.parametrize("name", MODELS)
def test_a_model_takes_and_gives_what_its_manifest_says(name):
    session = load_session(read_model(name))

    for specs, entries in ((session.inputs, MODELS[name]["inputs"]), (session.outputs, MODELS[name]["outputs"])):
        assert [(spec.name, spec.dtype, list(spec.shape)) for spec in specs] == [
            (entry["name"], entry["dtype"], entry["shape"]) for entry in entries
        ]
    assert MODELS[name]["labels"] == [str(digit) for digit in range(10)]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_labels_the_held_out_rows_as_well_as_its_manifest_says(name):
    rows, labels = read_heldout()

    outputs = run_rows(load_session(read_model(name)), rows, 60)

    accuracy = (outputs.argmax(axis=1) == labels).mean()
    assert accuracy == pytest.approx(MODELS[name]["heldout_accuracy"], abs=1e-4)
    assert accuracy >= 0.96


def test_the_held_out_rows_are_distinct_pictures():
    rows, labels = read_heldout()

    assert (
        hashlib.sha256((FOLDER / MANIFEST["heldout"]["file"]).read_bytes()).hexdigest() == MANIFEST["heldout"]["sha256"]
    )
    assert rows.dtype == np.uint8
    assert rows.shape == (MANIFEST["heldout"]["rows"], 64)
    assert len(np.unique(rows, axis=0)) == len(rows) >= 540
    assert rows.max() == 16
    assert set(labels) == set(range(10))


@pytest.mark.parametrize("optimise", ["all", "extended", "basic", "disable"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_exact_model_gives_the_same_bits_at_every_level_thread_count_and_batch(optimise, threads):
    rows, _ = read_heldout()
    expected = run_rows(load_session(read_model("digits")), rows, 60)

    session = load_session(read_model("digits"), optimise, threads)

    for batch in (1, 7, 64):
        assert np.array_equal(run_rows(session, rows, batch), expected)


def test_the_exact_model_computes_what_whole_numbers_do():
    onnx = pytest.importorskip("onnx", reason="reading the weights needs the extra `train`")
    graph = onnx.load_from_string(read_model("digits")).graph
    weights = {each.name: onnx.numpy_helper.to_array(each).astype(np.int64) for each in graph.initializer}
    rows, _ = read_heldout()
    # Any byte is a legal pixel, not only 0..16.
    rows = np.concatenate([rows, np.random.default_rng(1).integers(0, 256, (200, 64)).astype(np.uint8)])

    sums = np.clip(rows @ weights["w1"] + weights["b1"], weights["zero"], weights["most"])
    expected = sums // weights["divisor"] @ weights["w2"] + weights["b2"]

    assert np.array_equal(run_rows(load_session(read_model("digits")), rows, 50), expected)
    assert max(np.abs(weights["w1"]).max(), np.abs(weights["w2"]).max()) <= 63
    assert {each.op_type for each in graph.node} == {"MatMulInteger", "Add", "Clip", "Div", "Cast"}


def test_no_held_out_row_was_trained_on():
    pytest.importorskip("sklearn", reason="the training rows come with scikit-learn")
    pytest.importorskip("onnx", reason="the training script builds graphs with onnx")
    from testnet.models.train import shift_rows, split_digits

    training, heldout = split_digits()
    rows, labels = read_heldout()

    assert np.array_equal(heldout.pixels, rows)
    assert np.array_equal(heldout.digits, labels)
    trained = {row.tobytes() for row in shift_rows(training).pixels}
    assert not trained & {row.tobytes() for row in rows}
