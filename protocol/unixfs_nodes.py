"""What a node of a file or folder says, checked before anything below it is fetched or written."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from protocol.cid import Cid
from protocol.dag_pb import Link, decode_node, read_fields
from protocol.errors import MalformedMessage
from protocol.shards import SHARD, Shard, list_links, read_shard
from protocol.unixfs import (
    FILE,
    FILE_BYTES_FIELD,
    FOLDER,
    LINKS_MAX,
    PART_BYTES_FIELD,
    TYPE_FIELD,
    verify_entry_name,
)

SYMLINK = 4  # a type that is not read
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


def read_unixfs(block: bytes) -> File | Folder | Shard:
    """The file or folder of a dag-pb block. MalformedMessage says what is wrong with it."""
    node = decode_node(block)
    fields = read_fields(node.data)
    types = [value for number, value in fields if number == TYPE_FIELD]
    if types == [FILE]:
        return _read_file(node.links, fields)
    if types == [FOLDER]:
        return _read_folder(node.links, fields)
    if types == [SHARD]:
        return read_shard(node.links, node.data)
    kind = "a symbolic link, which could lead anywhere" if types == [SYMLINK] else "something else"
    raise MalformedMessage(f"neither a file nor a folder, but {kind}")


def list_entries(folder: Folder | Shard, read: Callable[[Cid], bytes]) -> Iterator[Link]:
    """The entries of a folder; nodes of a divided one come from `read`. MalformedMessage, and what `read` raises."""
    if isinstance(folder, Folder):
        yield from folder.entries
    else:
        yield from _list_shard(folder, b"", read)


def _list_shard(shard: Shard, path: bytes, read: Callable[[Cid], bytes]) -> Iterator[Link]:
    for below, link in list_links(shard, path):
        if link.name:
            verify_entry_name(link.name)
            yield link
            continue
        node = read_unixfs(read(link.cid))
        if not isinstance(node, Shard):
            raise MalformedMessage(f"{link.cid} is not the part of a divided folder it is said to be")
        yield from _list_shard(node, below, read)


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
