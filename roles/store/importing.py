"""Bring files and folders of any size into a store: read, cut, hashed and written block by block, a few at a time.

What is acknowledged is on disk, with its names and its pin. What fails leaves nothing behind that is kept.
"""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from protocol.cid import DAG_PB
from protocol.dag_pb import decode_node
from protocol.errors import MalformedMessage
from protocol.unixfs import CHUNK_BYTES, Block, FileBuilder, Root, link_entries, make_leaf, verify_entry_name
from protocol.unixfs_nodes import DEPTH_MAX
from roles.blobs import DiskFull, StoreFull
from roles.store.collecting import drop_put
from roles.store.errors import NotStorable
from roles.store.files import get_shard
from roles.store.index import FOR_EVER, Entry, Pin
from roles.store.store import NAME_MAX, Store, get_now_ms

BATCH_BLOCKS, BATCH_BYTES = 256, 8 * CHUNK_BYTES  # taken into the index at once
WRITERS = 4  # each waits for the disk most of the time
WRITES_MAX = 24  # blocks read and not yet on disk

CHANGED = "it changed while it was read: put it again when nothing writes to it"

Tell = Callable[[int], None]  # how many bytes of content have been read


class Imported(NamedTuple):
    """What a put has done. `hidden` counts entries left out, `new_bytes` what was not here before."""

    root: Root
    files: int
    hidden: int
    blocks: int
    new_bytes: int


@dataclass
class _Put:
    """A put that goes on."""

    store: Store
    number: int
    pool: ThreadPoolExecutor
    tell: Tell
    with_hidden: bool
    batch: list[tuple[Block, Entry]] = field(default_factory=list)
    batch_bytes: int = 0
    writes: "deque[Future[int]]" = field(default_factory=deque)
    shards: set[str] = field(default_factory=set)
    files: int = 0
    hidden: int = 0
    blocks: int = 0
    new_bytes: int = 0
    content_bytes: int = 0

    def add(self, block: Block) -> None:
        """Take a block; its children must have come before. Waits while too many are being written."""
        children = decode_node(block.data).links if block.cid.codec == DAG_PB else ()
        entry = Entry(block.cid, len(block.data), tuple(link.cid.digest for link in children))
        self.batch.append((block, entry))
        self.batch_bytes += len(block.data)
        if self.batch_bytes >= BATCH_BYTES or len(self.batch) >= BATCH_BLOCKS:
            self.flush()

    def flush(self) -> None:
        """Have the batch in the index, and on its way to the disk."""
        batch, self.batch, self.batch_bytes = self.batch, [], 0
        self.store.reserve(self.number, [entry for _, entry in batch])
        for block, _ in batch:
            while len(self.writes) >= WRITES_MAX:
                self._settle()
            self.blocks += 1
            self.shards.add(get_shard(block.cid.digest))
            self.writes.append(self.pool.submit(self._write, block))

    def finish(self) -> None:
        """All of it is on disk when this returns, under its names."""
        self.flush()
        while self.writes:
            self._settle()
        self.store.files.sync(self.shards)

    def _write(self, block: Block) -> int:
        is_new = self.store.files.write(self.number, block.cid.digest, block.data)
        return len(block.data) if is_new else 0

    def _settle(self) -> None:
        self.new_bytes += self.writes.popleft().result()


def import_path(
    store: Store,
    path: Path,
    *,
    tell: Tell = lambda content_bytes: None,
    with_hidden: bool = False,
    name: str = "",
    expires_ms: int = FOR_EVER,
    is_pinned: bool = True,
) -> Imported:
    """Store a file or folder durably and pin it.

    Raises NotStorable, StoreFull, DiskFull, PutExpired, MalformedMessage, OSError. `name` is what `ls` shows.
    """
    with _open_put(store, tell, with_hidden) as put:
        root = _import_folder(put, path, 0) if _is_folder(path) else _import_file(put, path)
        return _end(put, root, name or path.resolve().name, expires_ms, is_pinned)


def import_stream(
    store: Store,
    stream: BinaryIO,
    *,
    tell: Tell = lambda content_bytes: None,
    name: str = "",
    expires_ms: int = FOR_EVER,
    is_pinned: bool = True,
) -> Imported:
    """Store what a stream gives until it ends, as one file. Raises as `import_path`."""
    with _open_put(store, tell, False) as put:
        put.files += 1
        root = _import_chunks(put, iter(lambda: _read_chunk(stream), b""))
        return _end(put, root, name, expires_ms, is_pinned)


@contextmanager
def _open_put(store: Store, tell: Tell, with_hidden: bool) -> Iterator[_Put]:
    with store.lock:
        number = store.index.begin_put(get_now_ms())
    pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="store-put")
    try:
        yield _Put(store, number, pool, tell, with_hidden)
    except BaseException as error:
        # Nothing writes any more once this returns.
        pool.shutdown(cancel_futures=True)
        if isinstance(error, (StoreFull, DiskFull, NotStorable, MalformedMessage)):
            # It would fail again: what it has brought makes room at once. After anything else a repetition goes on
            # from what is here, until the put's grace has passed.
            drop_put(store, number)
        raise
    pool.shutdown()


def _end(put: _Put, root: Root, name: str, expires_ms: int, is_pinned: bool) -> Imported:
    put.finish()
    now_ms = get_now_ms()
    pin = Pin(root.cid, name[:NAME_MAX], root.content_bytes, root.dag_bytes, now_ms, expires_ms)
    with put.store.lock:
        put.store.index.end_put(put.number, pin if is_pinned else None, now_ms)
    return Imported(root, put.files, put.hidden, put.blocks, put.new_bytes)


def _import_folder(put: _Put, folder: Path, depth: int) -> Root:
    if depth >= DEPTH_MAX:
        raise NotStorable(folder, f"more than {DEPTH_MAX} folders inside each other")
    entries = {}
    with os.scandir(folder) as found:
        names = sorted(entry.name for entry in found)
    for name in names:
        if name.startswith(".") and not put.with_hidden:
            put.hidden += 1
            continue
        path = folder / name
        try:
            verify_entry_name(name)
        except MalformedMessage as error:
            raise NotStorable(path, str(error)) from error
        entries[name] = _import_folder(put, path, depth + 1) if _is_folder(path) else _import_file(put, path)
    root, blocks = link_entries(entries)
    for block in blocks:
        put.add(block)
    return root


def _import_file(put: _Put, path: Path) -> Root:
    # A link put in a file's place since it was looked at is refused, a pipe does not make us wait.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb", buffering=0) as file:
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            raise NotStorable(path, "neither a file nor a folder")
        root = _import_chunks(put, _read_chunks(path, file, before.st_size))
        after = os.fstat(handle)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise NotStorable(path, CHANGED)
    put.files += 1
    return root


def _import_chunks(put: _Put, chunks: Iterator[bytes]) -> Root:
    builder = FileBuilder()
    for chunk in chunks:
        leaf = make_leaf(chunk)
        put.add(leaf)
        for block in builder.add(leaf):
            put.add(block)
        put.content_bytes += len(chunk)
        put.tell(put.content_bytes)
    root, blocks = builder.finish()
    for block in blocks:
        put.add(block)
    return root


def _read_chunks(path: Path, file: BinaryIO, size: int) -> Iterator[bytes]:
    """A file of this size. NotStorable once it has more: a log that is written to would never end."""
    read = 0
    while chunk := _read_chunk(file):
        read += len(chunk)
        if read > size:
            raise NotStorable(path, CHANGED)
        yield chunk


def _read_chunk(file: BinaryIO) -> bytes:
    """The next MiB, less only at the end."""
    data = file.read(CHUNK_BYTES) or b""
    if len(data) in (0, CHUNK_BYTES):
        return data
    parts = [data]
    missing = CHUNK_BYTES - len(data)
    while missing and (part := file.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _is_folder(path: Path) -> bool:
    """Whether a path names a folder. NotStorable for what is neither that nor a file, links included."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise NotStorable(path, "a symbolic link, which is not stored: put what it leads to")
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise NotStorable(path, "neither a file nor a folder")
    return stat.S_ISDIR(mode)
