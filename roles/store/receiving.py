"""What comes from peers into a store: checked block by block before it is written, kept by a put until it is pinned.

A `Reception` is one file or folder on its way. `StoreDesk` carries out what a node's core wants of its store. Both are
called from threads, several at once.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from protocol.cid import DAG_PB, Cid
from protocol.content import compute_digest
from protocol.errors import MalformedMessage, MissingBlob
from protocol.held import Held, describe_block
from roles.blobs import DiskFull, StoreFull
from roles.block_server import read_blocks
from roles.store.collecting import drop_put, free_blocks
from roles.store.errors import IndexDamaged, NotKept, PutExpired
from roles.store.files import get_shard
from roles.store.index import Entry, Pin
from roles.store.proving import Prover
from roles.store.store import NAME_MAX, Store, get_now_ms, measure
from roles.store_effects import (
    DropGathered,
    Keep,
    Kept,
    LookedUp,
    LookUp,
    PinGathered,
    Pinned,
    Prove,
    Proven,
    ReadBlocks,
    StoreEffect,
    StoreEvent,
    Unpin,
)

HOPELESS = (StoreFull, DiskFull, MalformedMessage)  # it would fail again: what came makes room at once
EXPECTED = (*HOPELESS, PutExpired, IndexDamaged, MissingBlob, sqlite3.Error, OSError)


class Reception:
    """One file or folder on its way into a store. Raises what EXPECTED lists."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shards: set[str] = set()
        self._lock = threading.Lock()
        with store.lock:
            self._put = store.index.begin_put(get_now_ms())

    def look_up(self, cids: Sequence[Cid]) -> tuple[list[Held], list[Cid]]:
        """Those that are here, read and checked, and those that are not."""
        with self._store.lock:
            known = self._store.index.touch(self._put, [cid.digest for cid in cids], get_now_ms())
        held, missing = [], []
        for cid in cids:
            found = self._read(cid) if cid.digest in known else None
            if found is None:
                missing.append(cid)
            else:
                held.append(found)
        return held, missing

    def keep(self, blocks: Sequence[tuple[Cid, memoryview]]) -> tuple[list[Held], list[Cid]]:
        """Have blocks on disk; those that were, and those whose bytes are not what their names say."""
        bad = [cid for cid, data in blocks if compute_digest(data) != cid.digest]
        good = [(cid, data) for cid, data in blocks if cid not in bad]
        held = [describe_block(cid, data) for cid, data in good]
        self._reserve(held, [len(data) for _, data in good])
        for cid, data in good:
            self._store.files.write(self._put, cid.digest, data)
        with self._lock:
            self._shards |= {get_shard(cid.digest) for cid, _ in good}
        return held, bad

    def pin(self, cid: Cid, name: str, expires_ms: int) -> None:
        """All of it is here: durably so when this returns."""
        root = measure(self._store, cid)
        self._store.files.sync(self._shards)
        now_ms = get_now_ms()
        known = next((pin for pin in self._store.get_pins() if pin.cid == cid and pin.name), None)
        if known is not None:
            # Somebody keeps it already, under a name of theirs: then it is kept for whoever wants it longer.
            name, expires_ms = known.name, max(known.expires_ms, expires_ms)
        pin = Pin(cid, name[:NAME_MAX], root.content_bytes, root.dag_bytes, now_ms, expires_ms)
        with self._store.lock:
            self._store.index.end_put(self._put, pin, now_ms)

    def drop(self) -> None:
        """Give it up, with all that only it has brought."""
        drop_put(self._store, self._put)

    def _read(self, cid: Cid) -> Held | None:
        try:
            data = self._store.read(cid)
        except MissingBlob:
            return None
        found = describe_block(cid, data)
        with self._lock:
            # Its first put may have ended before its name was durable.
            self._shards.add(get_shard(cid.digest))
        if cid.codec == DAG_PB:
            self._reserve([found], [len(data)])
        return found

    def _reserve(self, held: Sequence[Held], sizes: Sequence[int]) -> None:
        """Have blocks in the index, with what they link, before their files are written."""
        largest = max((each.dag_bytes for each in held), default=0)
        if largest > self._store.bytes_max:
            # Known before anything below it is asked for.
            raise StoreFull(largest, self._store.get_used_bytes(), self._store.bytes_max)
        entries = [
            Entry(each.cid, size, tuple(link.cid.digest for link in each.links))
            for each, size in zip(held, sizes, strict=True)
        ]
        self._store.reserve(self._put, entries)


class StoreDesk:
    """Does what a node's core wants of its store. `read` finds a block that peers may have, or raises MissingBlob."""

    def __init__(self, open_store: Callable[[], Store], read: Callable[[bytes], bytes]) -> None:
        self._open_store = open_store
        self._read = read
        self._prover: Prover | None = None
        self._store: Store | None = None  # until the first file comes: a node that keeps none needs none
        self._receptions: dict[str, Reception] = {}
        self._hopeless: set[str] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def do(self, effect: StoreEffect) -> StoreEvent | None:
        """What came of it; None of what is dropped. Raises OSError when blocks for a peer cannot be read."""
        match effect:
            case ReadBlocks(token, digests, bytes_max):
                return read_blocks(token, digests, bytes_max, self._read)
            case LookUp(token, cids):
                try:
                    held, missing = self._get_reception(token).look_up(cids)
                except EXPECTED as error:
                    return LookedUp(token, (), (), self._explain(token, error))
                return LookedUp(token, tuple(held), tuple(missing))
            case Keep(token, number, blocks):
                try:
                    held, bad = self._get_reception(token).keep(blocks)
                except EXPECTED as error:
                    return Kept(token, number, (), (), self._explain(token, error))
                return Kept(token, number, tuple(held), tuple(bad))
            case PinGathered(token, cid, name, expires_ms):
                try:
                    self._get_reception(token).pin(cid, name, expires_ms)
                except EXPECTED as error:
                    return Pinned(token, self._explain(token, error))
                del self._receptions[token]
                return Pinned(token)
            case DropGathered(token, is_hopeless):
                self._drop(token, is_hopeless)
                return None
            case Prove(token):
                try:
                    return self._get_prover().prove(effect)
                except EXPECTED as error:
                    return Proven(token, None, (), f"{type(error).__name__}: {error}")
            case Unpin(cid, name):
                self._unpin(cid, name)
                return None

    def _get_store(self) -> Store:
        with self._lock:
            if self._store is None:
                self._store = self._open_store()
            return self._store

    def _get_prover(self) -> Prover:
        store = self._get_store()
        with self._lock:
            if self._prover is None:
                self._prover = Prover(store.read)
            return self._prover

    def _get_reception(self, token: str) -> Reception:
        store = self._get_store()
        with self._lock:
            if token not in self._receptions:
                self._receptions[token] = Reception(store)
            return self._receptions[token]

    def _unpin(self, cid: Cid, name: str) -> None:
        """What people have pinned under names of their own stays theirs to unpin. What is kept no longer makes room."""
        # What the disk does not let us unpin now is kept for longer, which `store ls` shows.
        with suppress(*EXPECTED, NotKept):
            store = self._get_store()
            if any(pin.cid == cid and pin.name == name for pin in store.get_pins()):
                store.unpin(cid)
                free_blocks(store)

    def _explain(self, token: str, error: Exception) -> str:
        """What went wrong, for people; and whether what came is of use to another try."""
        if isinstance(error, HOPELESS):
            self._hopeless.add(token)
        return f"{type(error).__name__}: {error}"

    def _drop(self, token: str, is_hopeless: bool) -> None:
        """Blocks that came stay for as long as a put may pause, so that the next try goes on from them."""
        reception = self._receptions.pop(token, None)
        is_useless = is_hopeless or token in self._hopeless
        self._hopeless.discard(token)
        if reception is not None and is_useless:
            # Where that cannot be done, a collection does it once the put's grace has passed.
            with suppress(*EXPECTED):
                reception.drop()
