"""What a node of a file or folder says, checked before anything below it is fetched or written."""

from typing import NamedTuple

from protocol.cid import Cid
from protocol.dag_pb import Link, decode_node, read_fields
from protocol.errors import MalformedMessage
from protocol.unixfs import (
    FILE,
    FILE_BYTES_FIELD,
    FOLDER,
    LINKS_MAX,
    PART_BYTES_FIELD,
    TYPE_FIELD,
    verify_entry_name,
)

SYMLINK, SHARD = 4, 5  # types that are not read
DEPTH_MAX = 128  # of nodes below each other, folders and files together


class Part(NamedTuple):
    """A part of a file, and how many of the file's bytes it holds."""

    cid: Cid
    content_bytes: int


class File(NamedTuple):
    parts: tuple[Part, ...]
    content_bytes: int


class Folder(NamedTuple):
    """Entries with one name each, ordered by it."""

    entries: tuple[Link, ...]


def read_unixfs(block: bytes) -> File | Folder:
    """The file or folder of a dag-pb block. MalformedMessage says what is wrong with it."""
    node = decode_node(block)
    fields = read_fields(node.data)
    types = [value for number, value in fields if number == TYPE_FIELD]
    if types == [FILE]:
        return _read_file(node.links, fields)
    if types == [FOLDER]:
        return _read_folder(node.links, fields)
    known = {SYMLINK: "a symbolic link, which could lead anywhere", SHARD: "a divided folder"}
    kind = types[0] if len(types) == 1 and isinstance(types[0], int) else 0
    raise MalformedMessage(f"neither a file nor a folder, but {known.get(kind, 'something else')}")


def _read_file(links: tuple[Link, ...], fields: list[tuple[int, int | bytes]]) -> File:
    sizes = [value for number, value in fields if number == PART_BYTES_FIELD and isinstance(value, int)]
    totals = [value for number, value in fields if number == FILE_BYTES_FIELD and isinstance(value, int)]
    if len(fields) != 1 + len(totals) + len(sizes) or len(totals) != 1:
        raise MalformedMessage("a file's node has its type, its size and the sizes of its parts, nothing else")
    if not 0 < len(links) == len(sizes) <= LINKS_MAX:
        raise MalformedMessage(f"a file's node has 1 to {LINKS_MAX} parts, a size for each")
    if sum(sizes) != totals[0] or 0 in sizes or any(link.name for link in links):
        raise MalformedMessage("a file's parts have bytes but no names, and add up to the file")
    return File(tuple(Part(link.cid, size) for link, size in zip(links, sizes, strict=True)), totals[0])


def _read_folder(links: tuple[Link, ...], fields: list[tuple[int, int | bytes]]) -> Folder:
    if len(fields) != 1:
        raise MalformedMessage("a folder's node has its type and nothing else")
    names = [link.name.encode() for link in links]
    if names != sorted(set(names)):
        raise MalformedMessage("a folder's entries are ordered by name, each name once")
    for link in links:
        verify_entry_name(link.name)
    return Folder(links)
