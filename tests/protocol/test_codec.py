"""The codec: one value, one spelling, and nothing but MalformedMessage for the rest."""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any, ClassVar

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import codec
from protocol.codec import DEPTH_MAX, ITEMS_MAX, MESSAGE_BYTES_MAX, decode, encode, get_size_max
from protocol.errors import LocalError, MalformedMessage
from protocol.types import INT_MAX, AtMost, Digest, Exactly, Name, NodeState, Signed, UpTo, Whole
from tests.protocol.future_annotations import Later
from tests.support.from_types import to_json, values_of


@dataclass(frozen=True)
class Inner:
    number: Annotated[int, UpTo(300)]
    text: Annotated[str, AtMost(40)]


@dataclass(frozen=True)
class Outer:
    DOMAIN: ClassVar[str] = "outer"

    digest: Digest
    whole: Whole
    data: Annotated[bytes, AtMost(300)]
    inner: Inner
    items: Annotated[tuple[Inner, ...], AtMost(3)]
    numbers: Annotated[tuple[Annotated[int, UpTo(7)], ...], AtMost(20)]


@dataclass(frozen=True)
class Many:
    items: Annotated[tuple[Annotated[bytes, AtMost(4096)], ...], AtMost(ITEMS_MAX)]


@dataclass(frozen=True)
class Endless:
    more: Annotated[tuple["Endless", ...], AtMost(1)]


@dataclass(frozen=True)
class Depth:
    below: Signed


@dataclass(frozen=True)
class Nothing:
    pass


SAMPLE = Outer(bytes(range(32)), 70_000, b"data", Inner(200, "text"), (Inner(0, ""), Inner(300, "é")), (1, 2, 3))


def test_the_code_made_for_a_record_can_reach_nothing_outside():
    plan = codec._compile(Outer)
    for function in (plan.to_raw, plan.from_raw):
        assert set(function.__globals__["__builtins__"]) == {"type", "len", "int", "bytes", "str", "tuple"}


@given(values_of(Outer))
def test_what_is_encoded_decodes_to_the_same_and_others_read_it_alike(value: Outer) -> None:
    data = encode(value)

    assert decode(Outer, data) == value
    assert to_json(msgspec.msgpack.decode(data)) == to_json(value)
    assert msgspec.msgpack.encode(msgspec.msgpack.decode(data)) == data
    assert len(data) <= get_size_max(Outer)


def test_an_empty_dataclass_is_an_empty_array() -> None:
    assert encode(Nothing()) == b"\x90"
    assert decode(Nothing, b"\x90") == Nothing()


def test_annotations_may_be_written_as_text() -> None:
    assert decode(Later, encode(Later(5, (b"a",)))) == Later(5, (b"a",))


def test_long_lists_of_large_items_fit() -> None:
    value = Many(tuple(bytes(3000) for _ in range(ITEMS_MAX)))

    assert decode(Many, encode(value)) == value


def test_enum_members_are_written_as_their_plain_values() -> None:
    class Size(IntEnum):
        LARGE = 300

    inner = Inner(Size.LARGE, NodeState.SERVING)

    assert encode(inner) == encode(Inner(300, "serving"))


@given(st.integers(-INT_MAX, INT_MAX))
def test_a_signed_number_comes_back_and_takes_as_few_bytes_as_msgpack_needs(number: int) -> None:
    data = encode(Depth(number))
    assert data == msgpack.packb([number])
    assert decode(Depth, data) == Depth(number)
    assert len(data) <= get_size_max(Depth)


@pytest.mark.parametrize("number", [-INT_MAX - 1, INT_MAX + 1, True])
def test_a_signed_number_has_bounds(number: int) -> None:
    with pytest.raises(LocalError):
        encode(Depth(number))
    with pytest.raises(MalformedMessage):
        decode(Depth, msgpack.packb([number]))


@pytest.mark.parametrize(
    ("number", "text"),
    [(-1, ""), (301, ""), (True, ""), (1.0, ""), (None, ""), (0, "a" * 41), (0, "é" * 21), (0, b"a"), (0, "\ud800")],
)
def test_what_breaks_a_bound_is_not_encoded(number: Any, text: Any) -> None:
    with pytest.raises(LocalError):
        encode(Inner(number, text))


def test_only_the_fields_own_types_are_encoded() -> None:
    fields: dict[str, Any] = {
        "digest": bytes(32),
        "whole": 1,
        "data": b"",
        "inner": Inner(1, ""),
        "items": (),
        "numbers": (),
    }
    for name, wrong in (
        ("digest", bytes(31)),
        ("digest", bytearray(32)),
        ("inner", Nothing()),
        ("items", [Inner(1, "")]),
        ("items", (Inner(1, ""),) * 4),
    ):
        with pytest.raises(LocalError):
            encode(Outer(**{**fields, name: wrong}))


def test_a_message_above_the_cap_is_neither_encoded_nor_decoded() -> None:
    value = Many(tuple(bytes(4096) for _ in range(ITEMS_MAX)))

    with pytest.raises(LocalError):
        encode(value)
    with pytest.raises(MalformedMessage, match="at most"):
        decode(Many, bytes(MESSAGE_BYTES_MAX + 1))
    with pytest.raises(MalformedMessage, match="at most 10 allowed"):
        decode(Outer, encode(SAMPLE), size_max=10)


RAW = (bytes(32), 1, b"", (1, ""), (), ())


@pytest.mark.parametrize(
    ("position", "wrong"),
    [
        (0, bytes(31)),
        (0, "a" * 32),
        (0, None),
        (1, -1),
        (1, 2**63),
        (1, True),
        (1, 1.0),
        (1, math.nan),
        (1, -0.0),
        (1, {}),
        (1, {1: 1}),
        (1, msgpack.ExtType(5, b"")),
        (1, msgpack.Timestamp(1)),
        (2, bytes(301)),
        (2, ""),
        (3, (1,)),
        (3, (1, "", 1)),
        (3, (301, "")),
        (3, (1, "é" * 21)),
        (3, (1, b"")),
        (4, ((1, ""),) * 4),
        (4, (1,)),
        (4, {}),
        (5, (8,)),
    ],
)
def test_what_breaks_a_type_or_bound_is_not_decoded(position: int, wrong: Any) -> None:
    assert decode(Outer, msgpack.packb(RAW)) == Outer(bytes(32), 1, b"", Inner(1, ""), (), ())
    raw = [*RAW]
    raw[position] = wrong

    with pytest.raises(MalformedMessage):
        decode(Outer, msgpack.packb(raw))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x90\x90",
        b"\x80",
        b"\xa1\xff",
        b"\xa3\xed\xa0\x80",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xc7\x00\x05",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\x91" * 1000,
        b"\x91" * 100_000,
        b"\x81\x90\x90",
        b"\x81\x80\x80",
    ],
)
def test_bytes_that_are_no_message_are_malformed(data: bytes) -> None:
    for cls in (Outer, Nothing, Many):
        with pytest.raises(MalformedMessage):
            decode(cls, data)


@given(st.data())
def test_any_other_spelling_of_the_same_value_is_refused(data: st.DataObject) -> None:
    value = data.draw(values_of(Outer))
    widen = data.draw(st.integers(0, 25))

    other = _spell_wide(to_raw(value), [widen])

    if other != encode(value):
        assert msgpack.unpackb(other, use_list=False) == to_raw(value)  # a looser reader takes it for the same
        with pytest.raises(MalformedMessage, match=r"canonical|allowed"):
            decode(Outer, other)


def test_every_item_of_a_message_has_other_spellings_that_are_refused() -> None:
    refused = 0
    for position in range(18):
        other = _spell_wide(to_raw(SAMPLE), [position])
        assert other != encode(SAMPLE)
        with pytest.raises(MalformedMessage, match="canonical"):
            decode(Outer, other)
        refused += 1
    assert refused == 18


@pytest.mark.parametrize(
    "annotation",
    [
        int,
        bytes,
        str,
        bool,
        float,
        dict,
        Any,
        int | None,
        tuple[int, ...],
        Annotated[int, AtMost(5)],
        Annotated[int, UpTo(2**63)],
        Annotated[int, UpTo(5, 1)],
        Annotated[int, UpTo(5, -(2**63))],
        Annotated[int, UpTo(5), UpTo(6)],
        Annotated[bytes, UpTo(5)],
        Annotated[str, Exactly(5)],
        Annotated[bool, UpTo(1)],
        Annotated[tuple[bytes, ...], AtMost(5)],
        Annotated[tuple[Whole, Whole], AtMost(2)],
        Annotated[tuple[Whole, ...], AtMost(ITEMS_MAX + 1)],
        Annotated[list[Whole], AtMost(2)],
    ],
)
def test_a_field_without_a_bound_of_its_kind_cannot_be_used(annotation: Any) -> None:
    cls: Any = dataclass(frozen=True)(type("Unbounded", (), {"__annotations__": {"field": annotation}}))

    with pytest.raises(LocalError):
        encode(cls(1))


def test_only_frozen_dataclasses_of_bounded_depth_can_be_used() -> None:
    annotation: Any = Name
    for _ in range(DEPTH_MAX):
        annotation = Annotated[tuple[annotation, ...], AtMost(1)]
    deep: type = dataclass(frozen=True)(type("Deep", (), {"__annotations__": {"field": annotation}}))
    melting: type = dataclass(type("Melting", (), {"__annotations__": {"field": Whole}}))
    named: type = dataclass(frozen=True, kw_only=True)(type("Named", (), {"__annotations__": {"field": Whole}}))

    for cls in (deep, melting, named, Endless, int):
        with pytest.raises(LocalError):
            get_size_max(cls)
    with pytest.raises(LocalError):
        decode(Inner, bytearray(b"\x90"))  # type: ignore[arg-type]


def to_raw(value: Any) -> Any:
    return msgpack.unpackb(encode(value), use_list=False)


def _spell_wide(raw: Any, countdown: list[int]) -> bytes:
    """msgpack in which one item, counted in order, has the longest header there is for it."""
    is_wide = countdown[0] == 0
    countdown[0] -= 1
    if isinstance(raw, int):
        return b"\xcf" + raw.to_bytes(8) if is_wide else msgpack.packb(raw)
    if isinstance(raw, bytes):
        return b"\xc6" + len(raw).to_bytes(4) + raw if is_wide else msgpack.packb(raw)
    if isinstance(raw, str):
        text = raw.encode()
        return b"\xdb" + len(text).to_bytes(4) + text if is_wide else msgpack.packb(raw)
    items = b"".join(_spell_wide(item, countdown) for item in raw)
    header = b"\xdd" + len(raw).to_bytes(4) if is_wide else msgpack.Packer().pack_array_header(len(raw))
    return header + items
