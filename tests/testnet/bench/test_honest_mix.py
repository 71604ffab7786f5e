"""Honest nodes under many profiles: they really differ, nobody is blamed, and the table would say so."""

import sys
from pathlib import Path

import pytest

from roles.engine.rows_runner import LEVELS
from testnet.bench.cheat.mix import BATCHES, SHARES, MixRow, TableEngine, make_rows, make_table, plan, simulate_mix
from testnet.bench.cheat.outcomes import Outcomes
from testnet.bench.cheat.sweep import Piece, Result
from testnet.sim_inputs import get_heldout_inputs, load_model_records


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mix") / "table.npz"
    make_table([sys.executable], path, lambda text: None)
    return path


def test_profiles_agree_to_the_bit_on_the_exact_model_and_not_on_every_float_model(table: Path) -> None:
    import onnxruntime

    digests = {}
    for record in load_model_records(tuple(SHARES)):
        engines = [
            TableEngine(str(table), onnxruntime.__version__, level, batch) for level in LEVELS for batch in BATCHES
        ]
        assert len({engine.profile for engine in engines}) == len(LEVELS) * len(BATCHES)
        rows = [get_heldout_inputs(row, record) for row in range(100)]
        digests[record.name] = max(len({engine.compute(record.digest, row)[0] for engine in engines}) for row in rows)
    assert digests["digits"] == 1
    assert digests["digits-cnn"] > 1


@pytest.mark.parametrize(
    ("model", "mode"), [("digits", "individual"), ("digits-cnn", "individual"), ("digits-cnn", "batch")]
)
def test_honest_nodes_of_many_profiles_are_paid_and_not_blamed(table: Path, model: str, mode: str) -> None:
    piece = Piece(model, mode, seed=2, jobs=24)
    outcomes, _ = simulate_mix(str(table), piece)
    (row,) = make_rows([Result(piece, outcomes, {})])
    assert row.missed == ()
    assert outcomes.answered == outcomes.jobs == 24
    assert not outcomes.again


def test_a_table_of_honest_nodes_says_what_they_suffered() -> None:
    sums = Outcomes(jobs=9, answered=8, wrong_released=1, convictions=2, honest_slashed=3, unsettled=1, unpaid=4)
    words = " | ".join(MixRow("digits", "batch", sums).missed)
    for part in (
        "3 nodes were slashed, 2 claims",
        "1 answers are beyond",
        "4 honest answers earned",
        "1 requests had no answer",
        "open in 1 networks",
    ):
        assert part in words


def test_half_of_the_jobs_are_for_the_model_whose_workers_can_be_slashed() -> None:
    pieces = plan(100_000, first_seed=1)
    assert sum(piece.jobs for piece in pieces) >= 100_000
    assert len(set(pieces)) == len(pieces)
    exact = sum(piece.jobs for piece in pieces if piece.strategy == "digits")
    assert exact * 2 == sum(piece.jobs for piece in pieces)
