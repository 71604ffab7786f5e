"""Look at every block of what is kept: here, whole, and what its name says."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from protocol.cid import RAW, Cid
from protocol.errors import MissingBlob
from roles.store.store import Store

READERS = 2
BATCH = 64  # blocks asked for at once

Tell = Callable[[int, int], None]  # blocks looked at, of how many


class Checked(NamedTuple):
    """What was found. `damaged` are blocks that are missing or whose bytes do not fit; the latter are moved aside."""

    blocks: int
    bytes: int
    damaged: tuple[Cid, ...]


def check(store: Store, root: Cid | None = None, tell: Tell = lambda done, total: None) -> Checked:
    """Read and hash all blocks of one root, or of all that is pinned."""
    with store.lock:
        digests = store.index.get_reached(root)
        codecs = {}
    size = done = 0
    damaged = []
    with ThreadPoolExecutor(READERS, thread_name_prefix="store-check") as pool:
        for at in range(0, len(digests), BATCH):
            part = digests[at : at + BATCH]
            with store.lock:
                codecs = {digest: store.index.get_codec(digest) for digest in part}
            for digest, found in zip(part, pool.map(lambda digest: _measure_block(store, digest), part), strict=True):
                size += found or 0
                if found is None:
                    damaged.append(Cid(codecs[digest] or RAW, digest))
            done += len(part)
            tell(done, len(digests))
    return Checked(len(digests), size, tuple(damaged))


def _measure_block(store: Store, digest: bytes) -> int | None:
    try:
        return len(store.read(Cid(RAW, digest)))
    except MissingBlob:
        return None
