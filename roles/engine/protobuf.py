"""Read and write protobuf without a schema: field numbers, wire types and values, in the order of the file.

Enough to look into ONNX models, and to change them, without the `onnx` package, which nodes do not have. A message
inside a message is bytes here: read it with `read_fields` again. Source: protobuf.dev, Encoding.
"""

from collections.abc import Iterable, Iterator

from protocol.varint import write_varint

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}

Value = int | memoryview
Field = tuple[int, int, Value]  # number, wire type, value: a whole number for VARINT, else the bytes


class MalformedProtobuf(ValueError):
    """These bytes are no protobuf, or have another type of value where one is needed. Says at which byte."""


def read_fields(message: memoryview) -> Iterator[Field]:
    """Every field, repeated ones as often as they stand there. MalformedProtobuf when it comes to what is none."""
    at = 0
    end = len(message)
    while at < end:
        key, at = read_varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = read_varint(message, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = read_varint(message, at)
        elif wire in _SIZES:
            size = _SIZES[wire]
        else:
            raise MalformedProtobuf(f"wire type {wire} at byte {at}")
        if size > end - at:
            raise MalformedProtobuf(f"it ends {size - (end - at)} bytes early")
        yield number, wire, message[at : at + size]
        at += size


def get_message(value: Value) -> memoryview:
    """The bytes of a field that must not be a number."""
    if isinstance(value, int):
        raise MalformedProtobuf("a number stands where a message belongs")
    return value


def get_number(value: Value) -> int:
    if not isinstance(value, int):
        raise MalformedProtobuf("bytes stand where a number belongs")
    return value


def read_text(message: memoryview, wanted: int) -> str:
    """The last value of a text field, as protobuf has it; empty when absent."""
    text = ""
    for number, _, value in read_fields(message):
        if number == wanted:
            text = bytes(get_message(value)).decode("utf-8", "replace")
    return text


def read_numbers(message: memoryview, wanted: int) -> list[int]:
    """The values of a repeated field of whole numbers, whether packed or one by one; unsigned (see `to_signed`)."""
    numbers = []
    for number, wire, value in read_fields(message):
        if number != wanted:
            continue
        if isinstance(value, int):
            numbers.append(value)
        elif wire == BYTES:
            numbers += read_packed(value)
        else:
            raise MalformedProtobuf("a fixed number stands where a varint belongs")
    return numbers


def read_packed(values: memoryview) -> list[int]:
    """The varints of a packed list."""
    numbers, at = [], 0
    while at < len(values):
        number, at = read_varint(values, at)
        numbers.append(number)
    return numbers


def read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MalformedProtobuf(f"a number breaks off at byte {at}")


def to_signed(number: int) -> int:
    """What an int64 or int32 field means by a varint.

    >>> to_signed(2**64 - 1)
    -1
    """
    return number - (1 << 64) if number >= 1 << 63 else number


def write_fields(fields: Iterable[tuple[int, int, int | bytes | memoryview]]) -> bytes:
    """A message of these fields: `write_fields(read_fields(m))` means what m means.

    >>> write_fields([(1, VARINT, 300), (2, BYTES, b"hi")]).hex()
    '08ac0212026869'
    """
    parts: list[bytes | memoryview] = []
    for number, wire, value in fields:
        parts.append(write_varint(number << 3 | wire))
        if isinstance(value, int):
            parts.append(write_varint(value))
            continue
        if wire == BYTES:
            parts.append(write_varint(len(value)))
        parts.append(value)
    return b"".join(parts)
