"""Calibration: what is measured bounds what the ledger would compare, and holds on rows it was not made from."""

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.ledger.models import explain_calibration
from protocol.proofs.classes import PPT, is_within
from protocol.tensor import Tensor
from roles.engine.rounding import round_weights
from roles.engine.rows_runner import LEVELS
from testnet.calibrate import CHUNK_ROWS, DETECTED_MIN, calibrate
from testnet.rows_process import RowsFailed, RowsProcess
from testnet.sample_rows import BadRows, draw_rows, read_rows, split_rows
from testnet.spread import Envelope
from tests.support.onnx_bytes import FLOAT, unary

MODELS = Path(__file__).parents[2] / "testnet" / "models"
FP32 = (MODELS / "digits-fp32.onnx").read_bytes()
INPUTS = [["pixels", "tensor(float)", ["batch", 64]]]


def tensors(array: np.ndarray) -> tuple[Tensor, ...]:
    return (Tensor(array.dtype.name, array.shape, array.astype(array.dtype.newbyteorder("<")).tobytes()),)


@given(
    base=st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3),
    moves=st.lists(st.lists(st.floats(-1e-4, 1e-4), min_size=3, max_size=3), min_size=2, max_size=4),
    cheat=st.lists(st.floats(-1e-2, 1e-2), min_size=3, max_size=3),
)
@example(base=[0.0] * 3, moves=[[0.0] * 3, [0.0, 0.0, 4.1e-5], [0.0, 0.0, -2.3e-5]], cheat=[0.0] * 3)
def test_no_honest_pair_is_beyond_the_measured_distance_and_no_honest_run_nearer_to_the_cheat(
    base: list[float], moves: list[list[float]], cheat: list[float]
) -> None:
    runs = [np.array([base], np.float32) + np.array([move], np.float32) for move in moves]
    forged = runs[0] + np.array([cheat], np.float32)
    envelope = Envelope([runs[0]])
    for run in runs[1:]:
        envelope.add([run])

    honest = int(envelope.measure_honest()[0] * PPT) + 2
    near = int(envelope.measure_cheat([forged])[0] * PPT) - 2

    assert all(is_within(tensors(one), tensors(other), honest) for one, other in combinations(runs, 2))
    assert near <= 0 or not any(is_within(tensors(run), tensors(forged), near - 2) for run in runs)


def test_whole_numbers_that_differ_are_a_whole_row_apart() -> None:
    scores, labels = np.array([[0.5], [0.25]], np.float32), np.array([1, 2])
    envelope = Envelope([scores, labels])
    envelope.add([scores, np.array([1, 3])])

    assert envelope.measure_honest().tolist() == [0.0, 1.0]
    assert envelope.measure_cheat([scores, np.array([7, 2])]).tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="does not have 2 rows"):
        Envelope([scores, labels[:1]])


@pytest.fixture(scope="module")
def report():
    rows = draw_rows(INPUTS, 2 * CHUNK_ROWS + 3, 1, 0, 16)
    heldout = draw_rows(INPUTS, 1_000, 2, 0, 16)
    notes: list[str] = []
    found = calibrate(FP32, rows, heldout, [sys.executable], 1, notes.append)
    assert any("trying the bound" in note for note in notes)
    return found


def test_the_shipped_float_model_is_of_the_fp32_class_and_half_precision_shows_in_held_out_rows(report) -> None:
    assert report.reason == explain_calibration(report.calibration) == ""
    assert (report.calibration.rows, report.heldout_rows, report.profiles) == (2 * CHUNK_ROWS + 3, 1_000, 12)
    assert report.heldout_outside == 0
    assert report.detected["fp16"] >= DETECTED_MIN
    assert report.detected["int8"] == 1.0
    assert report.int8_min > report.calibration.fp16_ppt / PPT > 0


def test_the_measure_is_that_of_single_runs_compared_as_the_ledger_does(report) -> None:
    """Other held-out rows again, one profile against another, by the pure function that decides."""
    rows = draw_rows(INPUTS, 300, 3, 0, 16)
    bound = report.calibration.bound_ppt
    cheats = {"honest": FP32, "fp16": round_weights(FP32, "fp16")}
    with RowsProcess(sys.executable, cheats) as process:
        (mine,) = process.run(rows, "honest", "all", 1)
        for level in LEVELS:
            (other,) = process.run(rows, "honest", level, 8)
            (forged,) = process.run(rows, "fp16", level, 8)
            for row in range(300):
                at = slice(row, row + 1)
                assert is_within(tensors(mine[at]), tensors(other[at]), bound)
                assert not is_within(tensors(mine[at]), tensors(forged[at]), bound)


def test_a_model_on_which_half_precision_cannot_show_is_refused_the_class() -> None:
    rows = draw_rows([["x", "tensor(float)", ["rows", 2]]], 20, 1, 0, 1)

    found = calibrate(unary("Sigmoid", FLOAT), rows, rows, [sys.executable], 1)

    assert "half precision" in found.reason
    assert found.calibration.fp16_ppt == 0


def test_a_python_without_onnxruntime_and_a_model_that_cannot_be_loaded_are_named(tmp_path: Path) -> None:
    with pytest.raises(RowsFailed, match="cannot be run"):
        RowsProcess(str(tmp_path / "python"), {"honest": FP32})
    with pytest.raises(RowsFailed, match=r"InvalidProtobuf|INVALID_PROTOBUF|Fail"):
        RowsProcess(sys.executable, {"honest": b"nonsense"})
    fake = tmp_path / "fake"
    fake.write_text("#!/bin/sh\necho 'no onnxruntime here' >&2\nexit 3\n")
    fake.chmod(0o755)
    with pytest.raises(RowsFailed, match="no onnxruntime here"):
        RowsProcess(str(fake), {"honest": FP32})


def test_rows_come_from_a_file_or_a_seed_and_fit_the_model(tmp_path: Path) -> None:
    assert (draw_rows(INPUTS, 5, 1, 0, 16)[0] == draw_rows(INPUTS, 5, 1, 0, 16)[0]).all()
    assert not (draw_rows(INPUTS, 5, 1, 0, 16)[0] == draw_rows(INPUTS, 5, 2, 0, 16)[0]).all()
    whole = draw_rows([["x", "tensor(uint8)", [1, 3]]], 400, 1, 0, 2)[0]
    assert (whole.dtype, whole.shape, set(whole.ravel().tolist())) == (np.uint8, (400, 3), {0, 1, 2})

    np.savez(tmp_path / "rows.npz", inputs=np.zeros((7, 64), np.uint8), short=np.zeros((7, 63), np.float32))
    (rows,) = read_rows(tmp_path / "rows.npz", INPUTS)
    assert (rows.dtype, rows.shape) == (np.float32, (7, 64))
    first, last = split_rows([rows], 0.3)
    assert (len(first[0]), len(last[0])) == (5, 2)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([["short", "tensor(float)", ["b", 64]]], "expected"),
        ([["a", "tensor(float)", ["b", 64]], ["b", "tensor(float)", ["b", 64]]], "no array 'a'"),
        ([["inputs", "tensor(uint8)", ["b", 2]]], "numbers would change"),
        ([["inputs", "tensor(string)", ["b", 2]]], "cannot be filled"),
        ([["inputs", "tensor(float)", ["b", "c"]]], "only the first dimension"),
        ([["inputs", "tensor(float)", [4, 2]]], "must be free, or 1"),
        ([["inputs", "tensor(float)", ["b", 2]], ["short", "tensor(float)", ["b", 63]]], "2, 7 rows"),
    ],
)
def test_rows_that_do_not_fit_say_why(tmp_path: Path, inputs: list[list[object]], reason: str) -> None:
    np.savez(tmp_path / "rows.npz", inputs=np.full((2, 2), 0.5), short=np.zeros((7, 63), np.float32))

    with pytest.raises(BadRows, match=reason):
        read_rows(tmp_path / "rows.npz", inputs)


def test_a_file_that_is_none_and_a_range_beyond_the_type_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.npz").write_text("hello")
    with pytest.raises(BadRows, match=r"no \.npz"):
        read_rows(tmp_path / "rows.npz", INPUTS)
    with pytest.raises(BadRows, match="within 0 and 255"):
        draw_rows([["x", "tensor(uint8)", ["b", 2]]], 1, 1, 0, 300)
    with pytest.raises(BadRows, match="too few"):
        split_rows([np.zeros((1, 2))], 0.2)
