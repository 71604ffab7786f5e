"""Protobuf's wire format, as far as gossip and its neighbours need it: bounded reading of any field, and writing.

By hand, because a router spends its time here. Source: Protocol Buffers, Encoding.
"""

from collections.abc import Iterator

from protocol.errors import RemoteError
from protocol.varint import write_varint as write_varint

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


class MalformedPacket(RemoteError):
    """Bytes that are not what they should be. They cost the sender its stream."""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint's value, of 64 bits at most, and where it ends. IndexError when it is cut off."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value = byte & 0x7F
    for i in range(1, 10):
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + i + 1
    raise MalformedPacket("a varint of more than ten bytes")


def read_field(packet: bytes, at: int, end: int) -> tuple[int, int, bytes, int]:
    """Any field: its number, its value as a number, its value as bytes, and where it ends."""
    tag, at = read_varint(packet, at)
    kind, number = tag & 7, tag >> 3
    value, data = 0, b""
    if not number:
        raise MalformedPacket("a field with number 0")
    if kind == VARINT:
        value, at = read_varint(packet, at)
    elif kind == BYTES:
        length, at = read_varint(packet, at)
        if at + length > end:
            raise MalformedPacket("a field that ends after what it is in")
        data = packet[at : at + length]
        at += length
    elif kind == FIXED64:
        at += 8
    elif kind == FIXED32:
        at += 4
    else:
        raise MalformedPacket(f"a field of wire type {kind}")
    if at > end:
        raise MalformedPacket("a field that ends after what it is in")
    return number, value, data, at


class Looks:
    """How many more fields may be looked at."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def fields(self, packet: bytes, at: int, stop: int, fields_max: int) -> Iterator[tuple[int, int, bytes]]:
        while at < stop and fields_max and self.left > 0:
            fields_max -= 1
            self.left -= 1
            number, value, data, at = read_field(packet, at, stop)
            yield number, value, data


def read_fields(message: bytes, fields_max: int) -> list[tuple[int, int, bytes]]:
    """Number, value and bytes of each field of a protobuf message, at most so many. Raises MalformedPacket."""
    try:
        return list(Looks(fields_max).fields(message, 0, len(message), fields_max))
    except IndexError as error:
        raise MalformedPacket("a message that is cut off") from error


def write_bytes(number: int, data: bytes) -> bytes:
    """A field of bytes."""
    return write_varint(number << 3 | BYTES) + write_varint(len(data)) + data
