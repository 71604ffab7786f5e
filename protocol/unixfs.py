"""Files and folders as blocks, cut and linked as the profile `unixfs-v1-2025` has it, so that names equal IPFS tools'.

A file is cut into raw leaves of 1 MiB; nodes of up to 1,024 links stand over them, all leaves at one depth. A file of
one leaf is that leaf. A folder is a node with one link per entry, ordered by name, or more nodes when it is large
(`shards`). Modes and times are not kept.
Source: UnixFS specification; IPIP-499.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from protocol.cid import DAG_PB, RAW, Cid, compute_cid
from protocol.dag_pb import Link, Node, encode_node, write_number
from protocol.errors import MalformedMessage
from protocol.shards import Spread, format_place, spread_names, write_places

CHUNK_BYTES = 1024 * 1024
LINKS_MAX = 1_024  # of a file's node
FOLDER_BYTES_MAX = 256 * 1024  # a folder's node; above, it is divided: `shards`
NAME_BYTES_MAX = 255
FOLDER, FILE = 1, 2  # types of UnixFS nodes
TYPE_FIELD, FILE_BYTES_FIELD, PART_BYTES_FIELD = 1, 3, 4


class Block(NamedTuple):
    cid: Cid
    data: bytes


class Root(NamedTuple):
    """A file or folder, or a part of a file, by its topmost block.

    `content_bytes` are the bytes of its files, `dag_bytes` those of all blocks that it takes.
    """

    cid: Cid
    content_bytes: int
    dag_bytes: int


class FileBuilder:
    """Links the leaves of one file while they come, and gives the nodes as they fill up: no more than a path is held.

    >>> builder = FileBuilder()
    >>> builder.add(make_leaf(b"hello world"))
    []
    >>> root, blocks = builder.finish()
    >>> str(root.cid), root.content_bytes, blocks
    ('bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e', 11, [])
    """

    def __init__(self, links_max: int = LINKS_MAX) -> None:
        self._links_max = links_max
        self._levels: list[list[Root]] = [[]]

    def add(self, leaf: Block) -> list[Block]:
        """Take the next leaf; the nodes that it has filled."""
        return self._push(0, Root(leaf.cid, len(leaf.data), len(leaf.data)))

    def finish(self) -> tuple[Root, list[Block]]:
        """The file, and the nodes that were not full. A file without leaves is one empty leaf, to be stored as well."""
        if self._levels == [[]]:
            empty = make_leaf(b"")
            return Root(empty.cid, 0, 0), [empty]
        blocks: list[Block] = []
        level = 0
        while level + 1 < len(self._levels) or len(self._levels[level]) > 1:
            blocks += self._lift(level)
            level += 1
        return self._levels[level][0], blocks

    def _push(self, level: int, part: Root) -> list[Block]:
        if level == len(self._levels):
            self._levels.append([])
        blocks = []
        # Only now is it known that this level has more than one node.
        if len(self._levels[level]) == self._links_max:
            blocks = self._lift(level)
        self._levels[level].append(part)
        return blocks

    def _lift(self, level: int) -> list[Block]:
        """Put a node over what waits at a level."""
        part, block = link_parts(self._levels[level])
        self._levels[level] = []
        return [block, *self._push(level + 1, part)]


def make_leaf(data: bytes) -> Block:
    """A block of plain bytes."""
    return Block(compute_cid(RAW, data), data)


def link_parts(parts: Iterable[Root]) -> tuple[Root, Block]:
    """The node over consecutive parts of a file."""
    parts = tuple(parts)
    content_bytes = sum(part.content_bytes for part in parts)
    data = write_number(TYPE_FIELD, FILE) + write_number(FILE_BYTES_FIELD, content_bytes)
    data += b"".join(write_number(PART_BYTES_FIELD, part.content_bytes) for part in parts)
    return _make_node(Node(tuple(Link(part.cid, "", part.dag_bytes) for part in parts), data), content_bytes)


def link_entries(entries: Mapping[str, Root]) -> tuple[Root, list[Block]]:
    """The nodes of a folder, its root last. MalformedMessage for a name that no folder may hold."""
    for name in entries:
        verify_entry_name(name)
    links = tuple(Link(entries[name].cid, name, entries[name].dag_bytes) for name in sorted(entries, key=str.encode))
    content_bytes = sum(entry.content_bytes for entry in entries.values())
    root, block = _make_node(Node(links, write_number(TYPE_FIELD, FOLDER)), content_bytes)
    if len(block.data) <= FOLDER_BYTES_MAX:
        return root, [block]
    return _link_spread(spread_names(entries), entries)


def _link_spread(spread: Spread, entries: Mapping[str, Root]) -> tuple[Root, list[Block]]:
    """The nodes of a divided folder, or of a part of it."""
    links: list[Link] = []
    blocks: list[Block] = []
    content_bytes = 0
    for place, found in spread.places.items():
        if isinstance(found, str):
            below = entries[found]
            links.append(Link(below.cid, format_place(place) + found, below.dag_bytes))
        else:
            below, made = _link_spread(found, entries)
            blocks += made
            links.append(Link(below.cid, format_place(place), below.dag_bytes))
        content_bytes += below.content_bytes
    root, block = _make_node(Node(tuple(links), write_places(spread.places)), content_bytes)
    return root, [*blocks, block]


def verify_entry_name(name: str) -> None:
    """MalformedMessage for what is no plain name of one entry: it could lead out of the folder it is written to."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise MalformedMessage(f"{name!r} is no name for an entry of a folder")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise MalformedMessage(f"the name {name!r} is not UTF-8") from error
    if size > NAME_BYTES_MAX:
        raise MalformedMessage(f"a name has at most {NAME_BYTES_MAX} bytes, {name[:32]!r}… has {size}")


def _make_node(node: Node, content_bytes: int) -> tuple[Root, Block]:
    data = encode_node(node)
    block = Block(compute_cid(DAG_PB, data), data)
    return Root(block.cid, content_bytes, len(data) + sum(link.dag_bytes for link in node.links)), block
