"""Protobuf without a schema: what is read can be written, and what is not protobuf says where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.engine.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    MalformedProtobuf,
    get_message,
    get_number,
    read_fields,
    read_numbers,
    read_packed,
    read_text,
    to_signed,
    write_fields,
    write_varint,
)
from tests.support.onnx_bytes import field, varint

numbers = st.integers(0, 2**64 - 1)
fields = st.one_of(
    st.tuples(st.integers(1, 2**29 - 1), st.just(VARINT), numbers),
    st.tuples(st.integers(1, 2**29 - 1), st.just(BYTES), st.binary(max_size=300)),
    st.tuples(st.integers(1, 2**29 - 1), st.just(FIXED32), st.binary(min_size=4, max_size=4)),
    st.tuples(st.integers(1, 2**29 - 1), st.just(FIXED64), st.binary(min_size=8, max_size=8)),
)


@given(st.lists(fields, max_size=8))
def test_what_is_written_is_read_again(items):
    assert list(read_fields(memoryview(write_fields(items)))) == items


@given(st.lists(fields, max_size=8))
def test_what_is_read_is_written_again_byte_for_byte(items):
    data = write_fields(items)

    assert write_fields(read_fields(memoryview(data))) == data


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    try:
        items = list(read_fields(memoryview(data)))
    except MalformedProtobuf:
        return
    assert list(read_fields(memoryview(write_fields(items)))) == items


@given(st.lists(numbers, max_size=6), st.lists(numbers, max_size=6))
def test_repeated_numbers_are_read_packed_and_one_by_one(single, packed):
    data = b"".join(field(8, number) for number in single) + field(8, b"".join(map(varint, packed))) + field(9, 7)

    assert read_numbers(memoryview(data), 8) == single + packed
    assert read_packed(memoryview(b"".join(map(varint, packed)))) == packed


def test_a_text_field_that_stands_there_twice_is_the_last_one():
    message = memoryview(field(4, "first") + field(5, "other") + field(4, "last"))

    assert read_text(message, 4) == "last"
    assert read_text(message, 6) == ""


def test_negative_numbers_are_the_upper_half_of_64_bits():
    assert [to_signed(number) for number in (0, 2**63 - 1, 2**63, 2**64 - 1)] == [0, 2**63 - 1, -(2**63), -1]
    assert to_signed(read_packed(memoryview(write_varint(-5 + 2**64)))[0]) == -5


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80" * 64, "breaks off at byte 10"),
        (b"\x0a\x7f", "127 bytes early"),
        (b"\x0d\x00", "3 bytes early"),
        (b"\x0b", "wire type 3"),
    ],
)
def test_what_is_no_protobuf_says_where(data, reason):
    with pytest.raises(MalformedProtobuf, match=reason):
        list(read_fields(memoryview(data)))


def test_a_value_of_the_other_type_is_refused():
    with pytest.raises(MalformedProtobuf, match="number stands"):
        get_message(7)
    with pytest.raises(MalformedProtobuf, match="bytes stand"):
        get_number(memoryview(b"7"))
    with pytest.raises(MalformedProtobuf, match="fixed number"):
        read_numbers(memoryview(write_fields([(8, FIXED32, b"abcd")])), 8)
