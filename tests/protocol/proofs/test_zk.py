"""What a proof's public numbers say about a job: no more and no less than its input, rounded, and nearly its output."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InvalidProof
from protocol.proofs.zk import (
    FIELD_ORDER,
    Terms,
    compute_circuit_id,
    decode_number,
    encode_number,
    quantise,
    verify_numbers,
)
from protocol.tensor import Tensor

TERMS = Terms((1, 2), (1, 2), input_scale=7, output_scale=7, slack=2)


def floats(*values: float) -> Tensor:
    return Tensor("float32", (1, len(values)), struct.pack(f"<{len(values)}f", *values))


def numbers(*values: int) -> tuple[bytes, ...]:
    return tuple(encode_number(value) for value in values)


INPUT, OUTPUT = floats(5.0, -0.5), floats(2.0, -3.0)
GOOD = numbers(640, -64, 256, -384)


def test_the_numbers_of_a_job_are_its_input_and_nearly_its_output() -> None:
    verify_numbers(TERMS, (INPUT,), (OUTPUT,), GOOD)
    verify_numbers(TERMS, (INPUT,), (OUTPUT,), numbers(640, -64, 258, -386))
    verify_numbers(TERMS, (INPUT,), (OUTPUT,), numbers(640, -64, 254, -382))


CHANGED = {
    "another input": numbers(641, -64, 256, -384),
    "an input of the other sign": numbers(640, 64, 256, -384),
    "an output beyond the bound": numbers(640, -64, 259, -384),
    "an output beyond the bound on the other side": numbers(640, -64, 256, -387),
    "a number too few": GOOD[:3],
    "a number too many": (*GOOD, encode_number(0)),
    "none": (),
    "an input spelled past the field": ((640 + FIELD_ORDER).to_bytes(32, "little"), *GOOD[1:]),
    "an output spelled past the field": (*GOOD[:2], (256 + FIELD_ORDER).to_bytes(32, "little"), GOOD[3]),
    "an output as large as the field": (*GOOD[:2], (FIELD_ORDER // 2).to_bytes(32, "little"), GOOD[3]),
}


@pytest.mark.parametrize("name", CHANGED)
def test_numbers_are_refused_that_have(name: str) -> None:
    with pytest.raises(InvalidProof):
        verify_numbers(TERMS, (INPUT,), (OUTPUT,), CHANGED[name])


TENSORS = {
    "no input": ((), (OUTPUT,)),
    "two inputs": ((INPUT, INPUT), (OUTPUT,)),
    "an input of three numbers": ((floats(5.0, -0.5, 1.0),), (OUTPUT,)),
    "an input of whole numbers": ((Tensor("int32", (1, 2), INPUT.data),), (OUTPUT,)),
    "an output of another shape": ((INPUT,), (Tensor("float32", (2, 1), OUTPUT.data),)),
    "no output": ((INPUT,), ()),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_job_does_not_fit_the_circuit_that_has(name: str) -> None:
    inputs, outputs = TENSORS[name]
    with pytest.raises(InvalidProof, match="this job has not"):
        verify_numbers(TERMS, inputs, outputs, GOOD)


@given(st.integers(-FIELD_ORDER // 2 + 1, FIELD_ORDER // 2))
def test_a_whole_number_survives_the_field(number: int) -> None:
    assert decode_number(encode_number(number)) == number


@given(st.floats(-1e6, 1e6, width=32))
def test_rounding_is_to_the_nearest_and_the_same_on_both_sides_of_zero(value: float) -> None:
    assert abs(quantise(value, 7) - value * 128) <= 0.5
    assert quantise(-value, 7) == -quantise(value, 7)


def test_a_circuit_is_known_by_all_that_verifies_it() -> None:
    parts = [b"m" * 32, b"s", b"k", b"u"]
    changed = [[*parts[:index], parts[index] + b"x", *parts[index + 1 :]] for index in range(4)]
    assert len({compute_circuit_id(*each) for each in [parts, *changed]}) == 5
