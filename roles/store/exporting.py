"""Take files and folders out of a store: every block hashed as it is read, nothing visible before all of it is there.

A name in a folder is checked before it is used; what is written stands in a new folder of its own until the end, so
that no name, link or file that is there already can lead a write anywhere else.
"""

import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from protocol.cid import RAW, Cid
from protocol.errors import MalformedMessage
from protocol.shards import Shard
from protocol.unixfs import CHUNK_BYTES
from protocol.unixfs_nodes import DEPTH_MAX, File, Folder, Part, list_entries, read_unixfs
from roles.store.store import Store

READERS = 2
READS_MAX = 3  # blocks read ahead: what is in the processor's caches is written twice as fast as what is not

Tell = Callable[[int], None]  # how many bytes of content have been written


class Exported(NamedTuple):
    files: int
    content_bytes: int


class TargetExists(Exception):
    """Something stands where the export would go."""

    def __init__(self, target: Path) -> None:
        super().__init__(f"{target} exists")
        self.target = target


def export(store: Store, cid: Cid, target: Path, tell: Tell = lambda content_bytes: None) -> Exported:
    """Write a file or folder to `target`, which must not exist.

    Raises TargetExists, MissingBlob, MalformedMessage, OSError; nothing is left then.
    """
    if os.path.lexists(target):
        raise TargetExists(target)
    partial = target.parent / f".{target.name[:64]}.{secrets.token_hex(8)}.partial"
    with ThreadPoolExecutor(READERS, thread_name_prefix="store-get") as pool:
        writer = _Writer(store, pool, tell)
        try:
            writer.write_entry(cid, partial, None, 0)
            if os.path.lexists(target):
                raise TargetExists(target)
            os.rename(partial, target)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            if partial.is_dir():
                shutil.rmtree(partial)
            else:
                partial.unlink(missing_ok=True)
            raise
    return Exported(writer.files, writer.content_bytes)


def export_stream(store: Store, cid: Cid, stream: BinaryIO, tell: Tell = lambda content_bytes: None) -> Exported:
    """Write a file to a stream, each block once it is checked. Raises as `export`, for a folder too."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="store-get") as pool:
        writer = _Writer(store, pool, tell)
        try:
            node = writer.read_node(cid)
            if isinstance(node, Folder | Shard):
                raise MalformedMessage("a folder cannot be written to a stream")
            writer.write_content(cid, node, stream)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Exported(1, writer.content_bytes)


class _Writer:
    def __init__(self, store: Store, pool: ThreadPoolExecutor, tell: Tell) -> None:
        self._read = store.read
        self._read_into = store.read_into
        self._pool = pool
        self._tell = tell
        self._rooms = [bytearray(CHUNK_BYTES) for _ in range(READS_MAX)]  # one for each block read ahead
        self.files = 0
        self.content_bytes = 0

    def read_node(self, cid: Cid) -> File | Folder | Shard | None:
        """None for a leaf."""
        return None if cid.codec == RAW else read_unixfs(self._read(cid))

    def write_entry(self, cid: Cid, path: Path, name: str | None, depth: int) -> None:
        """Write what a CID names to a new path."""
        if depth >= DEPTH_MAX:
            raise MalformedMessage(f"more than {DEPTH_MAX} folders inside each other")
        node = self.read_node(cid)
        if isinstance(node, Folder | Shard):
            path.mkdir()
            for entry in list_entries(node, self._read):
                self.write_entry(entry.cid, path / entry.name, entry.name, depth + 1)
            return
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(handle, "wb", buffering=0) as file:
            self.write_content(cid, node, file)
        self.files += 1

    def write_content(self, cid: Cid, node: File | None, stream: BinaryIO) -> None:
        leaves = iter(((cid, None),)) if node is None else self._walk(node, 1)
        for data in self._read_ahead(leaves):
            left = memoryview(data)
            while left:
                left = left[stream.write(left) :]
            self.content_bytes += len(data)
            self._tell(self.content_bytes)

    def _walk(self, node: File, depth: int) -> Iterator[tuple[Cid, int | None]]:
        """The leaves of a file in order, each with the bytes it must have."""
        for part in node.parts:
            if part.cid.codec == RAW:
                yield part
                continue
            yield from self._walk(self._read_part(part, depth), depth + 1)

    def _read_part(self, part: Part, depth: int) -> File:
        below = self.read_node(part.cid)
        if depth >= DEPTH_MAX or not isinstance(below, File) or below.content_bytes != part.content_bytes:
            raise MalformedMessage(
                f"{part.cid} is not the part of a file of {part.content_bytes} bytes it is said to be"
            )
        return below

    def _read_ahead(self, leaves: Iterator[tuple[Cid, int | None]]) -> Iterator[bytes | memoryview]:
        """What is given is good until the next is asked for: then its room is read into again."""
        reads: deque[tuple[Cid, int | None, Future[bytes | memoryview]]] = deque()
        for turn, (cid, size) in enumerate(leaves):
            reads.append((cid, size, self._pool.submit(self._read_into, cid, self._rooms[turn % READS_MAX])))
            if len(reads) >= READS_MAX:
                yield self._take(*reads.popleft())
        while reads:
            yield self._take(*reads.popleft())

    def _take(self, cid: Cid, size: int | None, read: "Future[bytes | memoryview]") -> bytes | memoryview:
        data = read.result()
        if size is not None and len(data) != size:
            raise MalformedMessage(f"{cid} has {len(data)} bytes, the file says {size}")
        return data
