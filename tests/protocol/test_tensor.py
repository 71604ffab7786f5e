"""Tensors: what numpy writes is taken, what would hurt it is not, and one tensor has one digest."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from protocol.codec import decode, encode
from protocol.errors import MalformedMessage
from protocol.tensor import (
    ITEM_SIZES,
    TENSOR_BYTES_MAX,
    Tensor,
    compute_tensor_digest,
    compute_tensors_digest,
    decode_tensors,
    encode_tensors,
    verify_tensor,
)
from tests.support.from_types import values_of

FLOATS = ("float16", "float32", "float64")


def from_array(array: "np.ndarray[Any, Any]") -> Tensor:
    return Tensor(array.dtype.name, array.shape, array.astype(array.dtype.newbyteorder("<")).tobytes())


@given(
    st.sampled_from(sorted(ITEM_SIZES)).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    )
)
def test_arrays_pass_unless_a_number_is_none(array: "np.ndarray[Any, Any]") -> None:
    tensor = from_array(array)

    assert decode(Tensor, encode(tensor)) == tensor
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        with pytest.raises(MalformedMessage, match="NaN"):
            verify_tensor(tensor)
    else:
        verify_tensor(tensor)
        assert decode_tensors(encode_tensors((tensor,) * 2)) == (tensor,) * 2


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_one_bad_float_among_many_is_found(dtype: str, bad: float) -> None:
    for position in (0, 1, 4_999, 9_999):
        array = np.full(10_000, 1.0, dtype)
        array[position] = bad
        with pytest.raises(MalformedMessage, match="NaN"):
            verify_tensor(from_array(array))


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_smallest_and_negative_zero_are_numbers(dtype: str) -> None:
    limits = np.finfo(dtype)
    array = np.array([limits.max, limits.min, limits.tiny, limits.smallest_subnormal, 0.0, -0.0], dtype)

    verify_tensor(from_array(array))
    assert compute_tensor_digest(from_array(array[4:5])) != compute_tensor_digest(from_array(array[5:6]))


def test_every_float16_is_judged_as_numpy_judges_it() -> None:
    for bits in range(0x1_0000):
        data = bits.to_bytes(2, "little")
        tensor = Tensor("float16", (1,), data)
        if np.isfinite(np.frombuffer(data, "<f2")[0]):
            verify_tensor(tensor)
        else:
            with pytest.raises(MalformedMessage):
                verify_tensor(tensor)


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        ("float32", (2,), bytes(4)),
        ("float32", (1,), bytes(5)),
        ("float32", (), b""),
        ("float8", (1,), bytes(1)),
        ("object", (1,), bytes(8)),
        ("", (), b""),
        ("<f4", (1,), bytes(4)),
        ("bool", (2,), b"\0\2"),
        ("int8", (TENSOR_BYTES_MAX, TENSOR_BYTES_MAX), b""),
        ("int8", (0, *(TENSOR_BYTES_MAX,) * 7), b""),
    ],
)
def test_a_tensor_that_does_not_fit_itself_is_refused(dtype: str, shape: tuple[int, ...], data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        verify_tensor(Tensor(dtype, shape, data))


def test_empty_batches_and_scalars_are_tensors() -> None:
    verify_tensor(Tensor("float32", (0, 64), b""))
    verify_tensor(Tensor("float64", (), bytes(8)))


@given(values_of(Tensor), values_of(Tensor))
def test_different_tensors_have_different_digests(first: Tensor, second: Tensor) -> None:
    assert (compute_tensor_digest(first) == compute_tensor_digest(second)) is (first == second)
    assert (compute_tensors_digest((first,)) == compute_tensors_digest((second,))) is (first == second)
    assert compute_tensors_digest((first, second)) != compute_tensors_digest((first,))
    assert compute_tensors_digest((first,)) != compute_tensor_digest(first)


def test_the_same_bytes_in_another_shape_or_type_are_another_tensor() -> None:
    data = bytes(16)
    tensors = [
        Tensor(dtype, shape, data)
        for dtype, shape in (
            ("float32", (4,)),
            ("float32", (2, 2)),
            ("float32", (4, 1)),
            ("int32", (4,)),
            ("int64", (2,)),
        )
    ]

    assert len({compute_tensor_digest(tensor) for tensor in tensors}) == len(tensors)


@given(st.binary(max_size=100))
def test_random_bytes_are_no_tensors(data: bytes) -> None:
    try:
        tensors = decode_tensors(data)
    except MalformedMessage:
        return
    assert encode_tensors(tensors) == data
