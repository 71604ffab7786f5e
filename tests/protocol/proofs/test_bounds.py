"""Float outputs beside their model's bound: who is paid, who is disputed, who is guilty, and what nobody can know."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.ledger.models import BOUND_TIMES
from protocol.proofs.bounds import (
    DISPUTED_HALVES,
    GUILTY_HALVES,
    NUDGES,
    get_bound_ppt,
    is_disputed,
    is_near,
    judge_outputs,
    nudge,
)
from protocol.proofs.classes import DIFFERENCE_FLOOR, PPT
from protocol.proofs.trace import Judgement
from protocol.tensor import Tensor
from testnet.sim_inputs import get_engine, get_heldout_inputs, load_model_records
from tests.protocol.proofs.test_classes import BOUND, EXACT, FP32, tensor

LARGEST = 100.0


def row_at(bounds: float) -> tuple[Tensor, ...]:
    """A row so many bounds away from `row_at(0)`, in doubles so that nothing is rounded."""
    off = bounds * BOUND / PPT * LARGEST + (DIFFERENCE_FLOOR if bounds else 0)
    return (tensor([[LARGEST, 1.0 + off]], "float64"),)


TRUE = row_at(0)


def test_only_calibrated_models_of_numbers_have_a_bound() -> None:
    assert get_bound_ppt(FP32) == BOUND
    assert get_bound_ppt(EXACT) == get_bound_ppt(replace(FP32, calibration=())) == get_bound_ppt(None) == 0
    (text,) = load_model_records(("pydoc",))
    assert text.calibration
    assert get_bound_ppt(text) == 0
    assert not is_near(EXACT, TRUE, TRUE)
    assert not is_disputed(EXACT, TRUE, row_at(9))


@pytest.mark.parametrize(
    ("bounds", "near", "disputed", "word"),
    [
        (0, True, False, Judgement.SOUND),
        (0.99, True, False, Judgement.SOUND),
        (1.01, False, False, None),
        (1.49, False, False, None),
        (1.51, False, True, None),
        (1.99, False, True, None),
        (2.01, False, True, Judgement.WRONG),
        (99, False, True, Judgement.WRONG),
    ],
)
def test_between_the_bound_and_guilt_nobody_is_paid_by_it_nor_slashed(
    bounds: float, near: bool, disputed: bool, word: Judgement | None
) -> None:
    shown = row_at(bounds)
    assert is_near(FP32, shown, TRUE) is near
    assert is_disputed(FP32, shown, TRUE) is disputed
    assert judge_outputs(BOUND, shown, TRUE, [TRUE] * NUDGES) is word


@example(at=1.55, apart=0.25)  # a verifier that disputes from one bound on
@given(at=st.floats(0, 6), apart=st.floats(-1 / BOUND_TIMES, 1 / BOUND_TIMES))
def test_an_honest_verifier_loses_no_bond_and_lets_nobody_go_that_is_guilty(at: float, apart: float) -> None:
    """Verifier and validator are honest, and so at most a quarter of the bound apart."""
    shown, verifier, validator = row_at(at), row_at(0.5), row_at(0.5 + apart)
    word = judge_outputs(BOUND, shown, validator, [validator] * NUDGES)
    if is_disputed(FP32, shown, verifier):
        assert word is not Judgement.SOUND
    else:
        assert word is not Judgement.WRONG


def test_an_honest_worker_is_out_of_reach_by_eight_times_the_farthest_honest_row() -> None:
    assert GUILTY_HALVES * BOUND_TIMES // 2 == 8
    assert 2 < DISPUTED_HALVES < GUILTY_HALVES


def test_of_rows_that_are_hard_to_compute_a_validator_says_nothing_against_anybody() -> None:
    shown, steady, moved = row_at(9), row_at(0), row_at(0.6)
    assert judge_outputs(BOUND, shown, steady, [steady, moved]) is None
    assert judge_outputs(BOUND, steady, steady, [steady, moved]) is Judgement.SOUND
    for value in (math.nan, math.inf):
        odd = (tensor([[LARGEST, value]], "float64"),)
        assert judge_outputs(BOUND, odd, odd, [odd, odd]) is None
        assert judge_outputs(BOUND, steady, odd, [odd, odd]) is None
        assert judge_outputs(BOUND, odd, steady, [steady, steady]) is Judgement.WRONG


def test_nudged_inputs_are_the_nearest_others_and_the_same_at_every_node() -> None:
    values = np.array([[0.0, 1.0, -3.5, np.float32(3.4028235e38), np.inf, np.nan, 1e-45, 16.0] * 4], np.float32)
    whole = Tensor("int32", (2,), bytes(8))
    first, kept = nudge((tensor(values), whole), 1)
    assert kept == whole
    assert first == nudge((tensor(values),), 1)[0] != nudge((tensor(values),), 2)[0]
    moved = np.frombuffer(first.data, "<f4").reshape(values.shape)
    fixed = (values == 0) | ~np.isfinite(values) | (values == np.float32(3.4028235e38))
    assert np.array_equal(moved[fixed], values[fixed], equal_nan=True)
    free, freed = values[~fixed], moved[~fixed]
    up, down = np.nextafter(free, np.float32(np.inf)), np.nextafter(free, np.float32(-np.inf))
    assert ((freed == up) | (freed == down)).all()
    assert (freed == up).any()
    assert (freed == down).any()


@pytest.mark.parametrize("name", ["digits-fp32", "digits-cnn"])
def test_rows_of_the_models_that_ship_are_easy_enough_to_judge(name: str) -> None:
    (model,) = load_model_records((name,))
    bound_ppt = get_bound_ppt(model)
    for row in range(0, 200, 5):
        inputs = get_heldout_inputs(row, model)
        own, *nudged = (
            get_engine().compute(model.digest, given)[0]
            for given in (inputs, *(nudge(inputs, number) for number in range(1, NUDGES + 1)))
        )
        far = (replace(own[0], data=np.frombuffer(own[0].data, "<f4").__mul__(np.float32(1.0001)).tobytes()),)
        assert judge_outputs(bound_ppt, far, own, nudged) is Judgement.WRONG
