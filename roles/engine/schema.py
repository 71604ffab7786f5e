"""Read a protobuf message against a list of the fields there may be, more strictly than protobuf itself.

Protobuf skips what it does not know and merges what comes twice. Here bytes that two readers could take for two things
are refused. Messages are views of one buffer; only text and lists of numbers are copied.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from roles.engine.errors import ModelRefused
from roles.engine.protobuf import BYTES, FIXED32, FIXED64, VARINT, MalformedProtobuf, Value, read_varint, to_signed

FIELDS_MAX = 2**17  # of one message; runs of numbers count once
LIST_READ_MAX = 4_096  # numbers of one list whose values are read; of longer ones only how many there are
# Lists that are not packed: the key comes again before each number. Such runs are taken at once, where they are long.
_RUNS = {
    VARINT: re.compile(rb"(?:([\x00-\x7f])[\x80-\xff]{0,9}[\x00-\x7f])(?:\1[\x80-\xff]{0,9}[\x00-\x7f])*"),
    FIXED32: re.compile(rb"([\x00-\x7f]).{4}(?:\1.{4})*", re.DOTALL),
}
_HIGH_BYTES = bytes(range(128, 256))


@dataclass(frozen=True)
class FieldKind:
    """What a field may hold. `wire` is how one value is written; `most` is how often it may come."""

    name: str
    wire: int
    most: int = 1

    @property
    def repeated(self) -> bool:
        return self.most > 1


@dataclass(frozen=True)
class Numbers:
    """A repeated field of numbers: how many, and their values if there are at most LIST_READ_MAX varints."""

    count: int
    values: tuple[int, ...] = ()


class Message:
    """The fields of one message by name. Absent ones read as empty: b"", 0, or no values at all."""

    def __init__(self, what: str, data: memoryview, kinds: Mapping[int, FieldKind]) -> None:
        self._what = what
        self._found: dict[str, list[Value | Numbers]] = {}
        for count, (number, wire, value) in enumerate(_read_fields(data, kinds)):
            if count >= FIELDS_MAX:
                raise ModelRefused(f"{what} has more than {FIELDS_MAX} fields")
            kind = kinds.get(number)
            if kind is None:
                raise MalformedProtobuf(f"{what} has a field {number}, which ONNX does not know")
            values = self._found.setdefault(kind.name, [])
            if len(values) >= kind.most > 1:
                raise ModelRefused(f"{what} has more {kind.name}s than {kind.most}, the most that are run here")
            if values and not kind.repeated:
                raise ModelRefused(f"{what} says {kind.name} twice, so that two readers could read two things")
            if wire != kind.wire and not isinstance(value, Numbers):
                if not (kind.repeated and wire == BYTES):
                    raise MalformedProtobuf(f"{kind.name} of {what} is written as another type")
                assert isinstance(value, memoryview)
                value = _read_packed(value, kind)
            values.append(value)

    def has(self, name: str) -> bool:
        return name in self._found

    def get_int(self, name: str, bits: int = 64) -> int:
        """A signed number. ModelRefused when it does not fit `bits`: other readers would cut it off."""
        value = self._found.get(name, [0])[0]
        assert isinstance(value, int)
        signed = to_signed(value)
        if not -(2 ** (bits - 1)) <= signed < 2 ** (bits - 1):
            raise ModelRefused(f"{name} of {self._what} is {signed}, more than {bits} bits")
        return signed

    def get_message(self, name: str) -> memoryview:
        return self.get_messages(name)[0] if self.has(name) else memoryview(b"")

    def get_messages(self, name: str) -> list[memoryview]:
        return [value for value in self._found.get(name, []) if isinstance(value, memoryview)]

    def get_text(self, name: str, bytes_max: int) -> str:
        return (self.get_texts(name, bytes_max) or [""])[0]

    def get_texts(self, name: str, bytes_max: int) -> list[str]:
        return [_read_text(self._what, name, value, bytes_max) for value in self.get_messages(name)]

    def get_numbers(self, name: str) -> Numbers:
        """All of a repeated field of numbers together."""
        parts = [part if isinstance(part, Numbers) else _count_one(part) for part in self._found.get(name, [])]
        count = sum(part.count for part in parts)
        return Numbers(count, tuple(value for part in parts for value in part.values) if count <= LIST_READ_MAX else ())


def _read_text(what: str, name: str, value: memoryview, bytes_max: int) -> str:
    if len(value) > bytes_max:
        raise ModelRefused(f"{name} of {what} has {len(value)} bytes, at most {bytes_max} are taken")
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelRefused(f"{name} of {what} is no text") from error


def _count_one(value: Value) -> Numbers:
    return Numbers(1, (to_signed(value),)) if isinstance(value, int) else Numbers(1)


def _read_packed(data: memoryview, kind: FieldKind) -> Numbers:
    if kind.wire in (FIXED32, FIXED64):
        size = 4 if kind.wire == FIXED32 else 8
        if len(data) % size:
            raise MalformedProtobuf(f"{kind.name} holds {len(data)} bytes of numbers of {size}")
        return Numbers(len(data) // size)
    if kind.wire != VARINT:
        raise MalformedProtobuf(f"{kind.name} is written as another type")
    count = len(bytes(data).translate(None, _HIGH_BYTES))
    values, at = [], 0
    while at < len(data) and count <= LIST_READ_MAX:
        value, at = _read_number(data, at)
        values.append(to_signed(value))
    return Numbers(count, tuple(values))


def _read_fields(message: memoryview, kinds: Mapping[int, FieldKind]) -> Iterator[tuple[int, int, Value | Numbers]]:
    """Field number, wire type and value."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_number(message, at)
        number, wire = key >> 3, key & 7
        kind = kinds.get(number)
        value: Value | Numbers
        if kind is not None and kind.repeated and kind.wire == wire and wire in _RUNS and key < 0x80:
            value, at = _read_run(message, start, wire)
        elif wire == VARINT:
            value, at = _read_number(message, at)
        else:
            if wire == BYTES:
                size, at = _read_number(message, at)
            elif wire in (FIXED32, FIXED64):
                size = 4 if wire == FIXED32 else 8
            else:
                raise MalformedProtobuf(f"protobuf wire type {wire} at byte {start}")
            if size > len(message) - at:
                raise MalformedProtobuf(f"it ends {size - (len(message) - at)} bytes early")
            value = message[at : at + size]
            at += size
        yield number, wire, value


def _read_run(message: memoryview, start: int, wire: int) -> tuple[Numbers, int]:
    """The numbers from here on that have this key before them."""
    found = _RUNS[wire].match(message, start)
    if found is None:
        raise MalformedProtobuf(f"a number breaks off at byte {start}")
    end = found.end()
    if wire == FIXED32:
        return Numbers((end - start) // 5), end
    # Key and number end in one byte below 128 each.
    count = len(bytes(message[start:end]).translate(None, _HIGH_BYTES)) // 2
    values, at = [], start
    while at < end and count <= LIST_READ_MAX:
        value, at = _read_number(message, at + 1)
        values.append(to_signed(value))
    return Numbers(count, tuple(values)), end


def _read_number(message: memoryview, at: int) -> tuple[int, int]:
    number, end = read_varint(message, at)
    if number >= 2**64:
        raise MalformedProtobuf(f"a number breaks off at byte {end}: it has more than 64 bits")
    return number, end
