"""PROTOCOL's one table: what equal and different outputs mean, by class, profiles and distance."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InvalidProof, MalformedMessage
from protocol.ledger.model_records import ModelRecord
from protocol.proofs.classes import DIFFERENCE_FLOOR, PPT, Comparison, Computation, compare, is_within
from protocol.proofs.profiles import Profile, list_differences, parse_profile
from protocol.tensor import Tensor, compute_tensors_digest
from roles.engine.profile import format_profile
from tests.protocol.ledger.test_models import CALIBRATION

PLAIN = "ort=1.31.1;ep=cpu;isa=avx512vnni;th=1;opt=all;batch=1"
OFF = PLAIN.replace("opt=all", "opt=disable")
OTHER = PLAIN.replace("1.31.1", "1.26.0")
EXACT = ModelRecord("digits", bytes(32), 1, (), (), ())
FP32 = replace(EXACT, exact=0, calibration=(CALIBRATION,))  # bound 4e-6
BOUND = CALIBRATION.bound_ppt
DTYPES = ("float16", "float32", "float64")


def tensor(array: object, dtype: str = "float32") -> Tensor:
    values = np.asarray(array, np.dtype(dtype).newbyteorder("<"))
    return Tensor(dtype, values.shape, values.tobytes())


def computed(array: object, profile: str = PLAIN, is_known: bool = True) -> Computation:
    outputs = (tensor(array),)
    return Computation(profile, compute_tensors_digest(outputs), outputs if is_known else None)


ROW = [[1.0, -2.0, 0.5]]
NEAR = [[1.0, -2.0, 0.500005]]
FAR = [[1.0, -2.0, 0.5001]]


@pytest.mark.parametrize(
    ("model", "profiles", "answer", "word"),
    [
        (EXACT, (PLAIN, PLAIN), ROW, Comparison.AGREE),
        (EXACT, (PLAIN, OTHER), ROW, Comparison.AGREE),
        (EXACT, (PLAIN, PLAIN), NEAR, Comparison.DISPUTABLE),
        (EXACT, (PLAIN, OTHER), NEAR, Comparison.DISPUTABLE),
        (EXACT, (PLAIN, "rubbish"), NEAR, Comparison.DISPUTABLE),
        (FP32, (PLAIN, PLAIN), ROW, Comparison.AGREE),
        (FP32, (PLAIN, OTHER), ROW, Comparison.AGREE),
        (FP32, (OFF, OFF), NEAR, Comparison.DISPUTABLE),
        (FP32, (PLAIN, PLAIN), NEAR, Comparison.REFUND),
        (FP32, (OFF, PLAIN), NEAR, Comparison.WITHIN),
        (FP32, (PLAIN, OTHER), NEAR, Comparison.WITHIN),
        (FP32, (PLAIN, OTHER), FAR, Comparison.REFUND),
        (FP32, ("rubbish", "rubbish"), NEAR, Comparison.WITHIN),
        (FP32, ("rubbish", "rubbish"), FAR, Comparison.REFUND),
        (replace(FP32, calibration=()), (PLAIN, OTHER), NEAR, Comparison.REFUND),
    ],
)
def test_the_table(model: ModelRecord, profiles: tuple[str, str], answer: object, word: Comparison) -> None:
    one, other = computed(ROW, profiles[0]), computed(answer, profiles[1])

    assert compare(model, one, other) == compare(model, other, one) == word


@pytest.mark.parametrize("known", [(True, False), (False, True), (False, False)])
def test_a_float_model_under_two_profiles_is_undecided_without_both_outputs(known: tuple[bool, bool]) -> None:
    one, other = computed(ROW, PLAIN, known[0]), computed(FAR, OTHER, known[1])

    assert compare(FP32, one, other) == Comparison.OPEN
    assert compare(FP32, one, computed(ROW, OTHER, known[1])) == Comparison.AGREE


def test_outputs_that_do_not_have_their_digest_are_no_evidence() -> None:
    forged = replace(computed(ROW, OTHER), digest=bytes(32))

    with pytest.raises(InvalidProof):
        compare(FP32, computed(ROW), forged)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (tensor([[1.0, np.nan]]), tensor([[1.0, np.nan]])),
        (tensor([[1.0, np.inf]]), tensor([[1.0, np.inf]])),
        (tensor([[1.0, 2.0]]), tensor([1.0, 2.0])),
        (tensor([[1.0, 2.0]]), tensor([[1.0], [2.0]])),
        (tensor([[1.0, 2.0]]), tensor([[1.0, 2.0]], "float64")),
        (Tensor("float32", (1, 2), bytes(8)), Tensor("float32", (1, 2), bytes(7))),
        (tensor([[1, 2]], "int64"), tensor([[1, 3]], "int64")),
        (tensor([[1.7e308]], "float64"), tensor([[-1.7e308]], "float64")),
    ],
)
def test_what_cannot_be_measured_is_never_near(one: Tensor, other: Tensor) -> None:
    assert not is_within((one,), (other,), 10**18)
    assert not is_within((), (one,), 10**18)


def test_a_row_of_zeros_may_be_off_by_the_floor_and_no_more() -> None:
    zeros = tensor([[0.0, 0.0]], "float64")

    assert is_within((zeros,), (tensor([[DIFFERENCE_FLOOR, 0.0]], "float64"),), BOUND)
    assert not is_within((zeros,), (tensor([[DIFFERENCE_FLOOR * 1.01, 0.0]], "float64"),), BOUND)


def test_the_larger_of_both_rows_is_the_measure_so_it_does_not_matter_who_asks() -> None:
    zeros, small = tensor([[0.0]], "float64"), tensor([[DIFFERENCE_FLOOR * 1.0001]], "float64")

    assert is_within((zeros,), (small,), 10**9)
    assert is_within((small,), (zeros,), 10**9)


def test_each_row_is_measured_by_its_own_largest_number_and_every_output_counts() -> None:
    loud, quiet = [[1e6, 1.0], [1.0, 1.0]], [[1e6, 2.0], [1.0, 1.0]]
    assert is_within((tensor(loud),), (tensor(quiet),), BOUND)
    assert not is_within((tensor(loud[::-1]),), (tensor([[1.0, 2.0], quiet[0]]),), BOUND)
    assert not is_within((tensor(loud), tensor(ROW)), (tensor(loud), tensor(FAR)), BOUND)
    assert is_within((tensor(loud), tensor(0.5)), (tensor(loud), tensor(0.5000005)), BOUND)


numbers = st.floats(-1e3, 1e3, width=32)
shapes = st.sampled_from([(), (1,), (3,), (2, 3), (3, 2, 2), (1, 5)])


@given(data=st.data(), shape=shapes, dtype=st.sampled_from(DTYPES), exponent=st.integers(-9, 0))
def test_nearness_is_what_numpy_says_symmetric_and_grows_with_the_bound(
    data: st.DataObject, shape: tuple[int, ...], dtype: str, exponent: int
) -> None:
    size = int(np.prod(shape))
    base = np.array(data.draw(st.lists(numbers, min_size=size, max_size=size))).reshape(shape)
    moved = base + np.array(data.draw(st.lists(numbers, min_size=size, max_size=size))).reshape(shape) * 10.0**exponent
    one, other = tensor(base.astype(dtype), dtype), tensor(moved.astype(dtype), dtype)
    bounds = sorted(data.draw(st.lists(st.integers(0, 10**9), min_size=2, max_size=4)))

    words = [is_within((one,), (other,), bound) for bound in bounds]

    assert words == [is_within((other,), (one,), bound) for bound in bounds]
    assert words == sorted(words)
    assert words == [is_near_by_numpy(one, other, bound) for bound in bounds]
    assert is_within((one,), (one,), 0)


def is_near_by_numpy(one: Tensor, other: Tensor, bound: int) -> bool:
    first, second = (
        np.frombuffer(item.data, np.dtype(item.dtype).newbyteorder("<"))
        .astype(np.float64)
        .reshape(item.shape[0] if item.shape else 1, -1)
        for item in (one, other)
    )
    largest = np.maximum(np.abs(first).max(axis=1), np.abs(second).max(axis=1))
    return bool((np.abs(first - second).max(axis=1) - DIFFERENCE_FLOOR <= largest / PPT * bound).all())


words = st.text("abcxyzABC0189._+-", min_size=1, max_size=12).filter(lambda text: text[0] not in "._+-")
profiles = st.builds(
    Profile,
    ort=words,
    ep=words,
    isa=words,
    th=st.integers(1, 64),
    opt=st.sampled_from(("all", "extended", "basic", "disable")),
    batch=st.integers(1, 64),
)


@given(one=profiles, other=profiles)
def test_a_profile_is_read_as_it_was_written_and_differing_fields_are_named(one: Profile, other: Profile) -> None:
    assert parse_profile(str(one)) == one
    assert list_differences(one, one) == ()
    assert (list_differences(one, other) == ()) is (one == other)
    assert list_differences(one, replace(one, batch=one.batch + 1, opt="x")) == ("opt", "batch")


def test_the_engine_writes_profiles_that_can_be_read() -> None:
    profile = parse_profile(format_profile("1.31.1", "disable", 8))

    assert (profile.ort, profile.ep, profile.th, profile.batch) == ("1.31.1", "cpu", 1, 8)
    assert not profile.is_optimised


@pytest.mark.parametrize(
    "text",
    [
        "",
        PLAIN + ";",
        PLAIN + "\n",
        PLAIN[:-1] + "0",
        PLAIN[:-1] + "01",
        PLAIN.replace("th=1;", ""),
        PLAIN.replace("all", "most"),
        PLAIN.replace("cpu", "c pu"),
        PLAIN.replace("ep=cpu;isa=avx512vnni", "isa=avx512vnni;ep=cpu"),
    ],
)
def test_a_profile_has_one_spelling(text: str) -> None:
    assert str(parse_profile(PLAIN)) == PLAIN
    with pytest.raises(MalformedMessage):
        parse_profile(text)


@given(exact=st.booleans(), one=st.sampled_from((PLAIN, OFF, OTHER)), other=st.sampled_from((PLAIN, OFF, OTHER)))
def test_equal_bits_always_agree_and_a_dispute_needs_exactness_or_equal_profiles_unoptimised(
    exact: bool, one: str, other: str
) -> None:
    model = EXACT if exact else FP32

    assert compare(model, computed(ROW, one), computed(ROW, other)) == Comparison.AGREE
    word = compare(model, computed(ROW, one), computed(FAR, other))
    assert (word == Comparison.DISPUTABLE) is (exact or one == other == OFF)
