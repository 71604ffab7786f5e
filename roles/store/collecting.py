"""Free what nothing keeps: blocks that no pin reaches and no living put has touched, and files that nobody knows.

Safe beside puts, pins and reads: files are removed inside the index's turns, a few hundred at a time, and what pins
reach is marked anew whenever a pin has changed in between.
"""

from typing import NamedTuple

from roles.store.files import list_shards
from roles.store.store import Store, get_now_ms

TURN_BLOCKS = 256  # removed while others wait


class Collected(NamedTuple):
    """What was removed. `strays` are files that no put has told the index about."""

    blocks: int
    freed_bytes: int
    strays: int


def collect(store: Store) -> Collected:
    """Remove all that is not kept."""
    return free_blocks(store)._replace(strays=_collect_strays(store))


def free_blocks(store: Store, only_put: int | None = None) -> Collected:
    """Remove blocks that are not kept; with `only_put` just those that this put, now over, touched last."""
    blocks = freed = 0
    changed = -1
    while True:
        with store.lock, store.index.turn():
            now_ms = get_now_ms()
            if changed != store.index.get_pins_changed():
                changed = store.index.mark(now_ms)
            unkept = store.index.get_unkept(TURN_BLOCKS, only_put)
            # The file first: were the row gone alone, a put could find the file there, and then lose it.
            for digest, _ in unkept:
                store.files.remove(digest)
            digests = [digest for digest, _ in unkept]
            freed += store.index.forget_blocks(digests)
            store.index.drop_links(digests)
        blocks += len(unkept)
        if len(unkept) < TURN_BLOCKS:
            break
    return Collected(blocks, freed, 0)


def drop_put(store: Store, put: int) -> None:
    """A put has failed for good: what only it has touched makes room at once."""
    with store.lock:
        store.index.drop_put(put)
    free_blocks(store, only_put=put)


def _collect_strays(store: Store) -> int:
    """Files without a row in the index: a row stands before its file does, so nobody is at work on them."""
    strays = 0
    for shard in list_shards():
        with store.lock, store.index.turn():
            for digest in store.index.get_unknown(store.files.list_shard(shard)):
                store.files.remove(digest)
                strays += 1
    with store.lock, store.index.turn():
        for put, path in store.files.list_temporary():
            if not store.index.has_put(put):
                path.unlink(missing_ok=True)
                strays += 1
    return strays
