"""What must survive the process: a batch of durable effects, kept before anything that builds on it leaves.

Blobs are files and go first, so that nothing in the database names bytes that are not there; blocks, state, receipts
and kept values then go in one transaction, and votes last. Called in threads, one batch at a time. Small values
that may wait for the disk are jotted down in a journal, within the loop, and go with the next batch.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import structlog

from roles.blobs import DiskFull, StoreFull
from roles.config import UserError
from roles.core_effects import Commit, LogVote, Put, PutBlob, Restored
from roles.journal import Journal

Durable = Commit | LogVote | Put | PutBlob

log = structlog.get_logger()


class StoreFailed(UserError):
    """The disk no longer takes what must not be lost: the node stops before it says anything it could not stand by."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"the node's data cannot be written: {error}",
            "free some space or repair the disk, then start the node again: everything it has acknowledged is kept",
        )


class Ledger(Protocol):
    """The database of a node, as the shell needs it."""

    def start(self) -> Restored:
        """Count this start, durably, and give back what the last process left."""

    def write(self, effects: Sequence[Commit | Put], is_synced: bool = True) -> None:
        """Keep all of it in one transaction, on disk when this returns if `is_synced`. Raises sqlite3.Error."""

    def close(self) -> None: ...


class DurableWriter:
    """Carries durable effects out, batch by batch. `put_blob(data, digest)` is the blob store's.

    `log_votes` keeps what a validator has signed; None for a node without a vote key.
    """

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        put_blob: Callable[[bytes, bytes], object],
        log_votes: Callable[[Sequence[bytes]], None] | None = None,
    ) -> None:
        self._log_votes = log_votes
        self._ledger = ledger
        self._journal = journal
        self._put_blob = put_blob
        self._turn = threading.Lock()  # a later value must not be overtaken by an earlier one
        self._is_unsynced = False  # the database has something that is not on the disk
        self._failure: StoreFailed | None = None  # the disk says once what it has lost: nothing is written after it
        self.batches = 0
        self.effects = 0
        self.blobs_refused = 0

    def write(self, effects: Sequence[Durable]) -> None:
        """All of it is on disk when this returns, and so is what was jotted down before. Raises StoreFailed.

        Votes alone wait for nothing else.
        """
        votes = [effect.record for effect in effects if isinstance(effect, LogVote)]
        if len(votes) < len(effects):
            self._write(effects, is_synced=True)
        # After the blocks they build on: the log forgets what is decided, so what is decided must be kept by then.
        if votes and self._log_votes is not None:
            try:
                self._log_votes(votes)
            except OSError as error:
                raise StoreFailed(error) from error
        self.batches += 1
        self.effects += len(effects)

    def write_unsynced(self, effects: Sequence[Commit | Put]) -> None:
        """A killed process has kept all of it when this returns; `sync` brings it to the disk. Raises StoreFailed."""
        self._write(effects, is_synced=False)
        self.effects += len(effects)

    def jot(self, puts: Sequence[Put]) -> None:
        """As `write_unsynced`, of a few small values, in a few microseconds: `Journal.append`. Raises StoreFailed."""
        with self._failing():
            self._journal.append(puts)
        self.effects += len(puts)

    @property
    def is_behind(self) -> bool:
        """Whether the last process has left something in the journal that the database may not have."""
        return bool(self._journal.left)

    def secure(self) -> None:
        """All that was written is on disk when this returns: jotted down, if that will do. Raises StoreFailed."""
        if self._is_unsynced:
            self.sync()
            return
        with self._failing():
            self._journal.sync()

    def sync(self) -> None:
        """All that was written is in the database when this returns, and on disk. Raises StoreFailed."""
        self._write((), is_synced=True)

    def _write(self, effects: Sequence[Durable], is_synced: bool) -> None:
        with self._turn, self._failing():
            taken = self._journal.take()
            self._write_all([*taken.puts, *effects], taken.note, is_synced)
            self._is_unsynced = not is_synced
            if is_synced:  # else a power cut may bring back the database of before, and find it only in the journal
                self._journal.clear()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """What the disk does not take is not taken later either: it may have lost what was written before."""
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except (sqlite3.Error, OSError, DiskFull) as error:
            self._failure = StoreFailed(error)
            raise self._failure from error

    def _write_all(self, effects: Sequence[Durable], note: Put, is_synced: bool) -> None:
        rows: list[Commit | Put] = [note]
        for effect in effects:
            match effect:
                case PutBlob(digest, data):
                    self._keep_blob(digest, data)
                case LogVote():
                    pass  # after all the rest
                case _:
                    rows.append(effect)
        self._ledger.write(rows, is_synced)

    def _keep_blob(self, digest: bytes, data: bytes) -> None:
        try:
            self._put_blob(data, digest)
        except StoreFull as error:
            # The operator's quota, not a fault of the disk: the node goes on with what it has, and says so.
            self.blobs_refused += 1
            log.warning("blob.not_stored", digest=digest.hex(), reason=str(error))
