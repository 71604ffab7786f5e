"""What must survive the process: a batch of durable effects, on disk before anything that builds on it leaves.

Blobs and receipts are files and go first, so that nothing in the database names bytes that are not there; blocks,
state and kept values then go in one transaction, and votes last. Called in a thread of its own, one batch at a time.
"""

import os
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from roles.blobs import DiskFull, StoreFull
from roles.config import UserError
from roles.core_effects import Commit, LogVote, Put, PutBlob, Restored
from roles.files import sync_directory

RECEIPT_BUCKET = "receipt"
RECEIPTS_NAME = "receipts"
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

    def write(self, effects: Sequence[Commit | Put]) -> None:
        """Keep all of it in one transaction, on disk when this returns. Raises sqlite3.Error."""

    def close(self) -> None: ...


class DurableWriter:
    """Carries durable effects out, batch by batch. `put_blob(data, digest)` is the blob store's.

    `log_votes` keeps what a validator has signed; None for a node without a vote key.
    """

    def __init__(
        self,
        directory: Path,
        ledger: Ledger,
        put_blob: Callable[[bytes, bytes], object],
        log_votes: Callable[[Sequence[bytes]], None] | None = None,
    ) -> None:
        self._log_votes = log_votes
        self._receipts = directory / RECEIPTS_NAME
        self._ledger = ledger
        self._put_blob = put_blob
        self.batches = 0
        self.effects = 0
        self.blobs_refused = 0

    def write(self, effects: Sequence[Durable]) -> None:
        """All of it is on disk when this returns. Raises StoreFailed."""
        try:
            self._write(effects)
        except (sqlite3.Error, OSError, DiskFull) as error:
            raise StoreFailed(error) from error
        self.batches += 1
        self.effects += len(effects)

    def _write(self, effects: Sequence[Durable]) -> None:
        receipts: list[Put] = []
        rows: list[Commit | Put] = []
        votes: list[bytes] = []
        for effect in effects:
            match effect:
                case PutBlob(digest, data):
                    self._keep_blob(digest, data)
                case LogVote(record):
                    votes.append(record)
                case Put(bucket) if bucket == RECEIPT_BUCKET:
                    receipts.append(effect)
                case _:
                    rows.append(effect)
        if receipts:
            self._write_receipts(receipts)
        if rows:
            self._ledger.write(rows)
        # After the blocks they build on: the log forgets what is decided, so what is decided must be kept by then.
        if votes and self._log_votes is not None:
            self._log_votes(votes)

    def _keep_blob(self, digest: bytes, data: bytes) -> None:
        try:
            self._put_blob(data, digest)
        except StoreFull as error:
            # The operator's quota, not a fault of the disk: the node goes on with what it has, and says so.
            self.blobs_refused += 1
            log.warning("blob.not_stored", digest=digest.hex(), reason=str(error))

    def _write_receipts(self, receipts: Sequence[Put]) -> None:
        self._receipts.mkdir(exist_ok=True)
        for receipt in receipts:
            path = self._receipts / f"{receipt.key.hex()}.receipt"
            if receipt.value is None:
                path.unlink(missing_ok=True)
            else:
                _write_file(path, receipt.value)
        sync_directory(self._receipts)


def _write_file(path: Path, data: bytes) -> None:
    """Replace a file as a whole and sync it; its name is durable once the directory is synced too."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
