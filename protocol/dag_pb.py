"""Nodes that link blocks: the dag-pb codec, read strictly. Source: ipld.io, DAG-PB specification.

What is read is what would be written: links before data, every field once and in order, numbers at their shortest.
"""

from typing import NamedTuple

from protocol.cid import Cid, unpack_cid
from protocol.errors import LocalError, MalformedMessage
from protocol.varint import write_varint

NUMBER_MAX = 2**63 - 1
_LINKS, _DATA = 2, 1  # fields of a node; links stand first
_CID, _NAME, _SIZE = 1, 2, 3  # fields of a link
_VARINT, _BYTES = 0, 2  # wire types


class Link(NamedTuple):
    """A child: its name, empty in files, and the bytes of all blocks from it on down (Tsize)."""

    cid: Cid
    name: str
    dag_bytes: int


class Node(NamedTuple):
    links: tuple[Link, ...]
    data: bytes


def encode_node(node: Node) -> bytes:
    """The block of a node. Links stand in the order they are given: `unixfs` sorts those of folders."""
    parts = []
    for cid, name, dag_bytes in node.links:
        link = write_bytes(_CID, cid.pack()) + write_bytes(_NAME, name.encode()) + write_number(_SIZE, dag_bytes)
        parts.append(write_bytes(_LINKS, link))
    return b"".join((*parts, write_bytes(_DATA, node.data)))


def decode_node(block: bytes) -> Node:
    """The node of a block. MalformedMessage unless it is spelt as `encode_node` spells it."""
    links, data = [], b""
    for number, value in read_fields(block):
        if number == _LINKS and isinstance(value, bytes):
            links.append(_decode_link(value))
        elif number == _DATA and isinstance(value, bytes):
            data = value
        else:
            raise MalformedMessage(f"a dag-pb node has no field {number} of this type")
    node = Node(tuple(links), data)
    if encode_node(node) != block:
        raise MalformedMessage("not the canonical spelling of a dag-pb node")
    return node


def _decode_link(value: bytes) -> Link:
    fields = dict(read_fields(value))
    cid, name, dag_bytes = fields.get(_CID), fields.get(_NAME, b""), fields.get(_SIZE)
    if not isinstance(cid, bytes) or not isinstance(name, bytes) or not isinstance(dag_bytes, int):
        raise MalformedMessage("a dag-pb link without its CID, name or size")
    try:
        return Link(unpack_cid(cid), name.decode(), dag_bytes)
    except UnicodeDecodeError as error:
        raise MalformedMessage("the name in a dag-pb link is not UTF-8") from error


# As much of protobuf as this takes. Source: protobuf.dev, Encoding.


def write_number(field: int, value: int) -> bytes:
    """A field with a whole number."""
    return _write_varint(field << 3 | _VARINT) + _write_varint(value)


def write_bytes(field: int, value: bytes) -> bytes:
    """A field with bytes."""
    return _write_varint(field << 3 | _BYTES) + _write_varint(len(value)) + value


def read_fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """Field numbers and values in order. MalformedMessage for what is no protobuf of numbers and bytes."""
    fields: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        value, at = _read_varint(message, at)
        if key & 7 == _VARINT:
            fields.append((key >> 3, value))
            continue
        if key & 7 != _BYTES or value > len(message) - at:
            raise MalformedMessage("not a dag-pb node: a field breaks off or is of another type")
        fields.append((key >> 3, message[at : at + value]))
        at += value
    return fields


def _write_varint(number: int) -> bytes:
    if not 0 <= number <= NUMBER_MAX:
        raise LocalError(f"{number} is not a size")
    return write_varint(number)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 63, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MalformedMessage("not a dag-pb node: a number breaks off or is too large")
