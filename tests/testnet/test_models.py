"""The models that ship: what the manifest says of them is true, in our own engine and its worker processes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import trio

from protocol.content import format_cid
from protocol.tensor import Tensor
from roles.engine.pool import open_pool
from roles.engine.session import load_session, run_session
from roles.engine.specs import MODEL_BYTES_MAX
from testnet.genesis import MODELS as SERVED
from testnet.genesis import list_shipped, load_models
from tests.support.onnx_weights import read_graph

FOLDER = Path(__file__).parents[2] / "testnet" / "models"
MANIFEST = json.loads((FOLDER / "models.json").read_text())
MODELS = {entry["name"]: entry for entry in MANIFEST["models"]}
ROWS_AT_A_TIME = 60
PATIENCE_S = 60
# The least a model may score on rows it never saw.
SCORES_MIN = {
    "digits": 0.96,
    "digits-fp32": 0.96,
    "digits-cnn": 0.98,
    "digits-trees": 0.96,
    "cancer": 0.95,
    "diabetes": 0.4,
    "volatility": 0.1,
    "forecast": 0.8,
}
WHOLE_OPERATORS = {"MatMulInteger", "Add", "Clip", "Div", "Cast", "Max", "Mul", "ReduceSum", "Slice", "Sub"}


def read_model(name):
    return (FOLDER / MODELS[name]["file"]).read_bytes()


def read_samples(name):
    """Held-out rows, and what should come out for each: a label or a number."""
    with np.load(FOLDER / MODELS[name]["heldout"]["file"], allow_pickle=False) as arrays:
        return arrays["inputs"], arrays["labels"] if "labels" in arrays else arrays["values"]


def cut_tensors(rows, dtype, size=ROWS_AT_A_TIME):
    for start in range(0, len(rows), size):
        part = rows[start : start + size].astype(dtype)
        yield (Tensor(dtype, part.shape, part.tobytes()),)


def to_array(tensor):
    return np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape)


def run_rows(session, rows, size=ROWS_AT_A_TIME):
    """The outputs of all rows, `size` at a time, as one array."""
    batches = cut_tensors(rows, session.inputs[0].dtype, size)
    return np.concatenate([to_array(run_session(session, inputs)[0][0]) for inputs in batches])


def compute_score(entry, outputs, expected):
    if entry["heldout"]["metric"] == "accuracy":
        labels = np.array(entry["labels"])[outputs.argmax(axis=1)]
        return (labels == expected.astype(labels.dtype)).mean()
    if entry["heldout"]["metric"] == "qlike_skill":
        constant = np.full(len(expected), entry["heldout"]["baseline"])
        return 1 - compute_qlike(outputs[:, 0], expected) / compute_qlike(constant, expected)
    return 1 - np.square(outputs[:, 0] - expected).sum() / np.square(expected - expected.mean()).sum()


def compute_qlike(said, expected):
    ratio = np.square(expected / said.astype(np.float64))
    return (ratio - np.log(ratio) - 1).mean()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_the_file_its_manifest_names(name):
    data = read_model(name)

    digest = hashlib.sha256(data).digest()

    assert digest.hex() == MODELS[name]["sha256"]
    assert format_cid(digest) == MODELS[name]["cid"]
    assert len(data) == MODELS[name]["size_bytes"] <= MODEL_BYTES_MAX
    assert MODELS[name]["source"] in MANIFEST["sources"]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_takes_and_gives_what_its_manifest_says(name):
    session = load_session(read_model(name))

    for specs, entries in ((session.inputs, MODELS[name]["inputs"]), (session.outputs, MODELS[name]["outputs"])):
        assert [(spec.name, spec.dtype, list(spec.shape)) for spec in specs] == [
            (entry["name"], entry["dtype"], entry["shape"]) for entry in entries
        ]
    if MODELS[name]["kind"] == "classify":
        assert len(MODELS[name]["labels"]) == session.outputs[0].shape[1]


@pytest.mark.parametrize("name", MODELS)
def test_only_a_model_that_computes_in_whole_numbers_is_called_exact(name):
    graph = read_graph(read_model(name))

    is_whole = set(graph.operators) <= WHOLE_OPERATORS and all(
        each.dtype.kind in "iu" for each in graph.weights.values()
    )

    assert (MODELS[name]["class"] == "exact") == is_whole
    assert 13 <= graph.opsets[""] <= 21
    assert graph.opsets.get("ai.onnx.ml", 1) <= 3


@pytest.mark.parametrize("name", SCORES_MIN)
def test_a_worker_process_does_as_well_on_held_out_rows_as_the_manifest_says(name):
    entry, data = MODELS[name], read_model(name)
    digest = bytes.fromhex(entry["sha256"])
    rows, expected = read_samples(name)

    async def load_blob(wanted):
        return {digest: data}[wanted]

    async def compute_all():
        with trio.fail_after(PATIENCE_S):
            async with open_pool(load_blob) as pool:
                batches = cut_tensors(rows, entry["inputs"][0]["dtype"])
                return [(await pool.compute(digest, inputs, PATIENCE_S))[0][0] for inputs in batches]

    outputs = np.concatenate([to_array(tensor) for tensor in trio.run(compute_all)])

    assert np.isfinite(outputs).all()
    score = compute_score(entry, outputs, expected)
    assert score == pytest.approx(entry["heldout"]["score"], abs=1e-4)
    assert score >= SCORES_MIN[name]
    assert len(rows) == entry["heldout"]["rows"]


def test_every_model_that_labels_or_foretells_rows_has_its_score_tested():
    assert set(SCORES_MIN) == {name for name, entry in MODELS.items() if entry["kind"] in ("classify", "regress")}


@pytest.mark.parametrize("samples", MANIFEST["samples"], ids=lambda samples: samples["file"])
def test_the_held_out_rows_are_distinct_and_the_ones_the_manifest_names(samples):
    data = (FOLDER / samples["file"]).read_bytes()

    assert hashlib.sha256(data).hexdigest() == samples["sha256"]
    with np.load(FOLDER / samples["file"], allow_pickle=False) as arrays:
        assert {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()} == samples["arrays"]
        assert len(np.unique(arrays["inputs"], axis=0)) == len(arrays["inputs"])


def test_held_out_digits_are_whole_pixels_of_every_digit():
    rows, labels = read_samples("digits")

    assert rows.dtype == np.uint8
    assert len(rows) >= 540
    assert rows.max() == 16
    assert set(labels) == set(range(10))


@pytest.mark.parametrize("optimise", ["all", "extended", "basic", "disable"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_exact_model_gives_the_same_bits_at_every_level_thread_count_and_batch(optimise, threads):
    rows, _ = read_samples("digits")
    expected = run_rows(load_session(read_model("digits")), rows)

    session = load_session(read_model("digits"), optimise, threads)

    for batch in (1, 7, 64):
        assert np.array_equal(run_rows(session, rows, batch), expected)


def test_the_exact_model_computes_what_whole_numbers_do():
    graph = read_graph(read_model("digits"))
    weights = {name: values.astype(np.int64) for name, values in graph.weights.items()}
    rows, _ = read_samples("digits")
    # Any byte is a legal pixel, not only 0..16.
    rows = np.concatenate([rows, np.random.default_rng(1).integers(0, 256, (200, 64)).astype(np.uint8)])

    sums = np.clip(rows @ weights["w1"] + weights["b1"], weights["zero"], weights["most"])
    expected = sums // weights["divisor"] @ weights["w2"] + weights["b2"]

    assert np.array_equal(run_rows(load_session(read_model("digits")), rows, 50), expected)
    assert max(np.abs(weights["w1"]).max(), np.abs(weights["w2"]).max()) <= 63


@pytest.mark.parametrize("threads", [1, 2])
def test_no_order_of_adding_votes_moves_a_bit_of_what_the_trees_say(threads):
    rows, _ = read_samples("digits-trees")
    expected = run_rows(load_session(read_model("digits-trees")), rows)

    session = load_session(read_model("digits-trees"), "disable", threads)

    for batch in (1, 7, 64):
        assert np.array_equal(run_rows(session, rows, batch), expected)
    assert np.array_equal(expected.sum(axis=1), np.ones(len(rows)))
    assert np.array_equal(expected * 2**15, np.rint(expected * 2**15))


def compute_returns(closes):
    ratios = closes[:, 1:] * 10**6 // closes[:, :-1]
    return np.clip(ratios, 0, 2 * 10**6) - 10**6


@pytest.mark.parametrize("name", ["volatility", "forecast"])
def test_the_models_of_series_compute_what_whole_numbers_do(name):
    """Any closes are legal, also nought and those of a feed with many decimals."""
    weights = read_graph(read_model(name)).weights
    rows, _ = read_samples(name)
    rng = np.random.default_rng(1)
    wild = np.concatenate([rng.integers(0, 2**62, (40, 9)), rng.integers(0, 3, (40, 9)), rows * 1_000, rows // 1_000])
    rows = np.concatenate([rows, wild]).astype(np.int64)
    closes = np.clip(rows, 1, 4 * 10**12)
    returns = compute_returns(closes)

    got = run_rows(load_session(read_model(name)), rows, 50)[:, 0]

    if name == "volatility":
        variance = ((np.square(returns) * weights["weights"]).sum(axis=1) + weights["constant"]) >> 16
        assert np.abs(got - np.sqrt(variance.astype(np.float64))).max() <= 1
    else:
        factor = np.clip((returns * weights["weights"]).sum(axis=1) + weights["constant"], 0, 2 * 10**6 << 16) >> 16
        assert np.array_equal(got, closes[:, -1] * factor // 10**6)
    assert got.min() >= 0


def test_probabilities_of_cancer_add_up_to_one():
    rows, _ = read_samples("cancer")

    outputs = run_rows(load_session(read_model("cancer")), rows)

    assert outputs.sum(axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-6)
    assert outputs.min() >= 0


def test_a_network_serves_the_two_digit_models_unless_others_are_named():
    assert [record.name for record in load_models()] == list(SERVED) == ["digits", "digits-fp32"]
    assert [record.name for record in load_models(list_shipped())] == list(MODELS)
    assert [record.name for record in load_models({"cancer", "digits"})] == ["digits", "cancer"]


def test_no_held_out_row_was_trained_on():
    pytest.importorskip("sklearn", reason="the training rows come with scikit-learn")
    pytest.importorskip("onnx", reason="the trainers write graphs")
    from testnet.models.train.data import shift_rows, split_cancer, split_diabetes, split_digits
    from testnet.models.train.series import AHEAD, split_series

    series = (("volatility", lambda: split_series(AHEAD)), ("forecast", lambda: split_series(1)))
    for name, split in (("digits", split_digits), ("cancer", split_cancer), ("diabetes", split_diabetes), *series):
        training, heldout = split()
        trained = shift_rows(training) if name == "digits" else training
        rows, _ = read_samples(name)
        assert np.array_equal(heldout.inputs, rows)
        assert not {row.tobytes() for row in trained.inputs} & {row.tobytes() for row in rows}
