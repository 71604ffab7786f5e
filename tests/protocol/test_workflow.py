"""Numbers of feeds as inputs of models and back: exact, bounded, the same everywhere."""

import struct
from contextlib import suppress
from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ledger.model_records import TensorSpec
from protocol.tensor import Tensor, verify_tensor
from protocol.types import INT_MAX
from protocol.workflow import DTYPES, DoesNotFit, make_input, read_result

WHOLES = {
    "int64": "q",
    "int32": "i",
    "int16": "h",
    "int8": "b",
    "uint64": "Q",
    "uint32": "I",
    "uint16": "H",
    "uint8": "B",
}


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=8))
def test_whole_numbers_go_in_as_they_are(values):
    made = make_input(TensorSpec("int64", (0, len(values))), [(value, 6) for value in values])
    assert made.shape == (1, len(values))
    assert list(struct.unpack(f"<{len(values)}q", made.data)) == values


@given(st.integers(-(10**15), 10**15), st.integers(0, 12))
def test_a_float_model_gets_the_nearest_float(value, decimals):
    made = make_input(TensorSpec("float64", (0, 1)), [(value, decimals)])
    assert struct.unpack("<d", made.data)[0] == float(Decimal(value).scaleb(-decimals))


@pytest.mark.parametrize(
    ("dtype", "value"), [("uint8", 256), ("uint8", -1), ("int8", 128), ("int32", 2**31), ("int16", 2**15)]
)
def test_what_a_type_does_not_hold_does_not_fit(dtype, value):
    with pytest.raises(DoesNotFit):
        make_input(TensorSpec(dtype, (0, 1)), [(value, 0)])


@given(st.sampled_from(sorted(WHOLES)), st.data())
def test_a_whole_result_is_the_value(dtype, data):
    bits = 8 * struct.calcsize(WHOLES[dtype])
    low, high = (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    number = data.draw(st.integers(low, high))
    tensor = Tensor(dtype, (1, 1), struct.pack(f"<{WHOLES[dtype]}", number))
    if abs(number) <= INT_MAX:
        assert read_result((tensor,), 6) == number
    else:
        with pytest.raises(DoesNotFit):
            read_result((tensor,), 6)


@given(st.floats(-1e6, 1e6, width=32), st.integers(0, 12))
def test_a_float_result_is_rounded_half_to_even_from_its_exact_value(number, decimals):
    tensor = Tensor("float32", (1, 1), struct.pack("<f", number))
    exact = Decimal(number) * 10**decimals
    assert read_result((tensor,), decimals) == int(exact.to_integral_value(ROUND_HALF_EVEN))


@given(st.sampled_from([*DTYPES, "bool", "float16", "text"]), st.binary(max_size=16), st.integers(0, 12))
def test_no_result_makes_anything_but_a_value_or_a_reason(dtype, data, decimals):
    with suppress(DoesNotFit):
        assert abs(read_result((Tensor(dtype, (1,), data),), decimals)) <= INT_MAX


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_that_is_taken_makes_a_sound_tensor(dtype):
    verify_tensor(make_input(TensorSpec(dtype, (0, 2)), [(1, 0), (2, 0)]))
