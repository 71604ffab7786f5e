"""Exact models give one digest whatever runs them; float models stay in their bound on rows it was not made from.

Over several versions of onnxruntime, each in an environment of its own that is made here if packages can be had.
"""

import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from protocol.generation import read_form
from protocol.proofs.classes import PPT
from roles.engine.exactness import find_inexact
from roles.engine.generate import OPTIMISE, Caches
from roles.engine.rows_runner import LEVELS
from roles.engine.session import load_session
from testnet.calibrate import DETECTED_MIN, calibrate
from testnet.models.learn.text import encode_text, read_text, split_text
from testnet.rows_process import RowsProcess
from testnet.sample_rows import draw_rows, read_rows
from tests.support.generations import load_model

FOLDER = Path(__file__).parents[2] / "testnet" / "models"
MODELS = {entry["name"]: entry for entry in json.loads((FOLDER / "models.json").read_text("utf-8"))["models"]}
EXACT = sorted(name for name, entry in MODELS.items() if entry["class"] == "exact")
RUNS = 10_000
ROWS = 64
BATCHES = (1, 7, 16, 64)
THREADS = (1, 2, 3, 4)
VERSIONS = ("1.26.0", "1.28.0")  # besides the running one; the first is the oldest that is supported
INSTALL_S_MAX = 300


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """This Python, and one for each other version."""
    found = [sys.executable]
    for version in VERSIONS:
        folder = tmp_path_factory.mktemp(f"onnxruntime-{version}")
        venv.create(folder, with_pip=True)
        python = str(folder / "bin" / "python")
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", f"onnxruntime=={version}"]
        try:
            done = subprocess.run(install, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"NOT CHECKED over versions: installing onnxruntime {version} took over {INSTALL_S_MAX} s")
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"NOT CHECKED over versions: onnxruntime {version} cannot be installed: {reason}")
        found.append(python)
    return found


def count_digests(name: str, pythons: Sequence[str]) -> tuple[set[str], int, set[str]]:
    """The digests of a model's outputs over RUNS runs, how many there were, and by which versions."""
    data = (FOLDER / MODELS[name]["file"]).read_bytes()
    digests, runs = set(), 0
    with ExitStack() as stack:
        processes = [stack.enter_context(RowsProcess(python, {name: data})) for python in pythons]
        described = processes[0].described["inputs"]
        rows = [array[:ROWS] for array in read_rows(FOLDER / MODELS[name]["heldout"]["file"], described)]
        while runs < RUNS:
            for process in processes:
                for level in LEVELS:
                    for threads in THREADS:
                        for batch in BATCHES:
                            outputs = process.run(rows, name, level, batch, threads)
                            digests.add(sha256(b"".join(output.tobytes() for output in outputs)).hexdigest())
                            runs += -(-ROWS // batch)
        return digests, runs, {process.version for process in processes}


@pytest.mark.full
@pytest.mark.parametrize("name", EXACT)
def test_an_exact_model_gives_one_digest_over_levels_threads_and_batches(name: str) -> None:
    digests, runs, _ = count_digests(name, [sys.executable])

    assert runs >= RUNS
    assert len(digests) == 1


@pytest.mark.full
@pytest.mark.parametrize("name", EXACT)
def test_an_exact_model_gives_one_digest_over_versions_too(name: str, pythons: list[str]) -> None:
    digests, runs, versions = count_digests(name, pythons)

    assert runs >= RUNS
    assert len(versions) == len(pythons)
    assert len(digests) == 1


def test_every_shipped_model_of_the_exact_class_is_exact_by_its_graph() -> None:
    assert EXACT
    for name, entry in MODELS.items():
        reason = find_inexact((FOLDER / entry["file"]).read_bytes())
        assert (reason == "") is (entry["class"] == "exact"), (name, reason)


@pytest.mark.full
@pytest.mark.parametrize("name", ["digits-cnn", "digits-fp32"])
def test_a_float_model_stays_within_its_bound_over_versions_and_half_precision_shows(
    name: str, pythons: list[str]
) -> None:
    """The bound is made from drawn rows and tried on real ones."""
    data = (FOLDER / MODELS[name]["file"]).read_bytes()
    with RowsProcess(sys.executable, {name: data}) as process:
        inputs = process.described["inputs"]
    heldout = read_rows(FOLDER / MODELS[name]["heldout"]["file"], inputs)
    moved = [np.concatenate([heldout[0], np.roll(heldout[0], 1, axis=1), np.roll(heldout[0], -1, axis=1)])]

    report = calibrate(data, draw_rows(inputs, 5_000, 1, 0, 16), moved, pythons, 1)

    assert report.reason == ""
    assert report.heldout_rows == 3 * len(heldout[0]) >= 1_800
    assert report.heldout_outside == 0
    assert report.detected["fp16"] >= DETECTED_MIN


def read_steps(start: int, count: int) -> list[np.ndarray]:
    """What so many steps take that read held-out text from a place on, an array for each input of the model."""
    session = load_session(load_model(), OPTIMISE)
    form = read_form(session.inputs, session.outputs)
    assert form is not None
    caches, taken = Caches(session, form), []
    for token in encode_text(split_text(read_text(FOLDER))[1][start : start + count]):
        taken.append([np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape) for tensor in caches.show(token)])
        caches.step(token)
    return [np.concatenate(arrays) for arrays in zip(*taken, strict=True)]


@pytest.mark.full
def test_steps_of_text_stay_within_the_bound_that_ships_and_half_precision_shows(pythons: list[str]) -> None:
    """On text that the shipped calibration has not seen."""
    used, tried = read_steps(15_000, 256), read_steps(20_500, 512)

    report = calibrate(load_model(), used, tried, pythons, 0)

    assert report.reason == ""
    assert report.heldout_honest * PPT <= MODELS["pydoc"]["calibration"]["bound_ppt"]
    assert report.heldout_outside == 0
    assert report.detected["fp16"] >= DETECTED_MIN
