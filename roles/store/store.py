"""The store of one node: opens its folder, and reads, pins and unpins what is in it.

`importing` brings files in, `exporting` out, `collecting` frees what nothing keeps, `checking` looks for damage.
Synchronous: called from threads. Any number of processes may have one store open.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType

from protocol.cid import DAG_PB, RAW, Cid
from protocol.dag_pb import decode_node
from protocol.errors import MalformedMessage, MissingBlob
from protocol.unixfs import Root
from protocol.unixfs_nodes import DEPTH_MAX, File, list_entries, read_unixfs
from roles.blobs import DiskFull, read_blob
from roles.config import NodeConfig
from roles.store.blocks import Blocks
from roles.store.bucket import BucketBlocks, parse_bucket
from roles.store.files import BlockFiles, list_shards
from roles.store.index import FOR_EVER, INDEX_NAME, Entry, Index, Pin

STORE_NAME = "store"  # in the data directory of a node
FREE_BYTES_MIN = 1024**3  # left to the rest of the node, whose ledger must not run out of disk
NAME_MAX = 256


class Store:
    """Blocks, and why they are kept. `bytes_max` is the quota; a put that leaves less than `free_bytes_min` fails."""

    def __init__(
        self,
        folder: Path,
        bytes_max: int = NodeConfig.store_bytes_max,
        free_bytes_min: int = FREE_BYTES_MIN,
        blocks: Blocks | None = None,
    ) -> None:
        """`blocks` are where the bytes are, files in `folder` unless given. Raises IndexDamaged, OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self.files = BlockFiles(folder) if blocks is None else blocks
        is_lost = not (folder / INDEX_NAME).exists() and not self.files.is_empty()
        self.index = Index(folder)
        self.lock = threading.Lock()  # the index serves one thread at a time
        self.bytes_max = bytes_max
        self.free_bytes_min = free_bytes_min
        if is_lost:
            rebuild(self)

    def close(self) -> None:
        self.index.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, cid: Cid) -> bytes:
        """A block, its bytes checked. MissingBlob when it is not here or damaged: then it is moved aside."""
        return bytes(self.read_into(cid, bytearray()))

    def read_into(self, cid: Cid, room: bytearray) -> bytes | memoryview:
        """As `read`; where the block fits into `room` what is returned may be a view of that."""
        try:
            return self.files.read_into(cid.digest, room)
        except MissingBlob:
            if self.files.has_file(cid.digest):
                # On a full disk it stays where it is, and is found damaged by every read.
                with suppress(DiskFull):
                    self.set_aside(cid.digest)
            raise

    def reserve(self, put: int, entries: Sequence[Entry]) -> None:
        """Take a put's blocks into the index, before their files are written. StoreFull, DiskFull, PutExpired."""
        free = self.files.count_free_bytes()
        if free - sum(entry.size for entry in entries) < self.free_bytes_min:
            raise DiskFull(f"{free} bytes are free and {self.free_bytes_min} must stay free for the node")
        with self.lock:
            self.index.reserve(put, entries, self.bytes_max, get_now_ms())

    def set_aside(self, digest: bytes) -> None:
        """Move a damaged block's file away, unless a put has just mended it."""
        with self.lock, self.index.turn():
            try:
                self.files.read(digest)
            except MissingBlob:
                self.files.move_aside(digest)
                # A put that is at work on it counts on its row, and will write its file.
                if not self.index.is_being_put(digest, get_now_ms()):
                    self.index.forget_blocks([digest])

    def pin(self, cid: Cid, name: str = "", expires_ms: int = FOR_EVER) -> Pin:
        """Keep what is here, all of it. Raises Damaged, MissingBlob, MalformedMessage."""
        root = measure(self, cid)
        pin = Pin(cid, name[:NAME_MAX], root.content_bytes, root.dag_bytes, get_now_ms(), expires_ms)
        with self.lock:
            self.index.pin(pin, self.files.has_file)
        return pin

    def unpin(self, cid: Cid) -> None:
        """Keep it no longer: the next collection takes what nothing else keeps. Raises NotKept."""
        with self.lock:
            self.index.unpin(cid)

    def get_used_bytes(self) -> int:
        with self.lock:
            return self.index.get_used_bytes()

    def get_pins(self) -> list[Pin]:
        with self.lock:
            return [pin for pin in self.index.get_pins() if pin.expires_ms > get_now_ms()]


def open_store(directory: Path, config: NodeConfig) -> Store:
    """The store of a node's data directory, as it is configured. Raises IndexDamaged, OSError, NoBucketLibrary."""
    blocks = BucketBlocks(parse_bucket(config.store_bucket)) if config.store_bucket else None
    return Store(directory / STORE_NAME, config.store_bytes_max, blocks=blocks)


def open_blocks(directory: Path, config: NodeConfig) -> Callable[[bytes], bytes]:
    """Reads blocks of that store, whether or not there is one. Raises NoBucketLibrary, OSError."""
    if config.store_bucket:
        return BucketBlocks(parse_bucket(config.store_bucket)).read
    return partial(read_blob, directory / STORE_NAME)


def get_now_ms() -> int:
    return time.time_ns() // 1_000_000


def measure(store: Store, cid: Cid, depth: int = 0) -> Root:
    """How large a file or folder is, by its nodes alone. Raises MissingBlob, MalformedMessage."""
    data = store.read(cid)
    if cid.codec == RAW:
        return Root(cid, len(data), len(data))
    if depth >= DEPTH_MAX:
        raise MalformedMessage(f"more than {DEPTH_MAX} nodes below each other")
    node = read_unixfs(data)
    dag_bytes = len(data) + sum(link.dag_bytes for link in decode_node(data).links)
    if isinstance(node, File):
        return Root(cid, node.content_bytes, dag_bytes)
    content_bytes = sum(
        entry.dag_bytes if entry.cid.codec == RAW else measure(store, entry.cid, depth + 1).content_bytes
        for entry in list_entries(node, store.read)
    )
    return Root(cid, content_bytes, dag_bytes)


def rebuild(store: Store) -> None:
    """Make the index anew from the blocks: pins cannot be known, so everything that nothing links is pinned."""
    linked: set[bytes] = set()
    roots: list[Cid] = []
    put = store.index.begin_put(get_now_ms())
    for shard in list_shards():
        for digest in store.files.list_shard(shard):
            try:
                data = store.files.read(digest)
            except MissingBlob:
                store.files.move_aside(digest)
                continue
            codec, children = _guess_node(data)
            linked.update(children)
            store.index.reserve(put, [Entry(Cid(codec, digest), len(data), children)], 2**62, get_now_ms())
            roots.append(Cid(codec, digest))
    now_ms = get_now_ms()
    for cid in roots:
        if cid.digest not in linked:
            size = len(store.files.read(cid.digest))
            store.index.add_pin(Pin(cid, "found while the index was lost", size, size, now_ms, FOR_EVER))
    store.index.end_put(put, None, now_ms)


def _guess_node(data: bytes) -> tuple[int, tuple[bytes, ...]]:
    """Whether these bytes can be a node, and what it links. Bytes of a file that look like one keep more, not less."""
    try:
        read_unixfs(data)
        return DAG_PB, tuple(link.cid.digest for link in decode_node(data).links)
    except MalformedMessage:
        return RAW, ()
