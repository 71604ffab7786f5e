"""Blobs on disk, named by their sha256: written so that a crash loses none, checked whenever they are read.

    blobs/ab/<64 hex>      one block, at most BLOB_BYTES_MAX; the name is computed here, never taken from a peer
    blobs/tmp/…            a put that has not ended; swept at start
    blobs/corrupt/<64 hex> a block whose bytes no longer fit its name; kept for people, never served

Synchronous: a node calls it from threads. Any number of threads may use one store; one process owns a folder.
"""

import errno
import os
import re
import shutil
import tempfile
import threading
from pathlib import Path

from protocol.content import BLOB_BYTES_MAX, compute_digest
from protocol.errors import MalformedMessage, MissingBlob, ProtocolError
from roles.files import sync_directory

BLOBS_BYTES_MAX = 1024 * 1024 * 1024  # default quota of one node
CORRUPT_FILES_MAX = 64
_NAME = re.compile(r"[0-9a-f]{64}")
_NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class StoreFull(ProtocolError):
    """The quota leaves no room for this blob. All in bytes."""

    def __init__(self, need: int, used: int, bytes_max: int) -> None:
        super().__init__(f"needs {need} bytes, {used} of {bytes_max} are used: free some or raise the quota")
        self.need = need
        self.used = used
        self.bytes_max = bytes_max


class DiskFull(ProtocolError):
    """The disk, or a limit of the system, refused the bytes. Nothing was kept; what was stored is still served."""


def add_blob(folder: Path, data: bytes) -> bytes:
    """Put a block into the store of a node that may be running, from another process; its digest.

    The node finds it when it is asked for it. MalformedMessage when it is larger than a block; OSError.
    """
    if len(data) > BLOB_BYTES_MAX:
        raise MalformedMessage(f"a blob has at most {BLOB_BYTES_MAX} bytes, this one {len(data)}")
    digest = compute_digest(data)
    target = folder / digest.hex()[:2] / digest.hex()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not under `tmp`, which a node that starts sweeps.
    handle, name = tempfile.mkstemp(dir=folder, prefix="incoming-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(target.parent)
    return digest


def read_blob(folder: Path, digest: bytes) -> bytes:
    """A block of a node's store, from another process. MissingBlob when it is not there or its bytes do not fit."""
    try:
        data = (folder / digest.hex()[:2] / digest.hex()).read_bytes()
    except OSError as error:
        raise MissingBlob(digest) from error
    if compute_digest(data) != digest:
        raise MissingBlob(digest)
    return data


class BlobStore:
    """The blobs of one node. `bytes_max` is its quota."""

    def __init__(self, folder: Path, bytes_max: int = BLOBS_BYTES_MAX) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._lock = threading.Lock()  # one put or removal at a time, so that sizes and files agree
        self._temporary = folder / "tmp"
        self._corrupt = folder / "corrupt"
        if self._temporary.exists():
            shutil.rmtree(self._temporary)
        for path in (folder, self._temporary, self._corrupt):
            path.mkdir(parents=True, exist_ok=True)
        self._sizes: dict[bytes, int] = dict(self._scan())
        self._used = sum(self._sizes.values())

    @property
    def used_bytes(self) -> int:
        return self._used

    def put(self, data: bytes, digest: bytes | None = None) -> bytes:
        """Store a block durably and return its digest.

        MalformedMessage when it is not the block that `digest` names or is larger than a block; StoreFull; DiskFull.
        """
        if len(data) > BLOB_BYTES_MAX:
            raise MalformedMessage(f"a blob has at most {BLOB_BYTES_MAX} bytes, this one {len(data)}")
        actual = compute_digest(data)
        if digest is not None and actual != digest:
            raise MalformedMessage(f"the bytes are blob {actual.hex()}, not {digest.hex()}")
        with self._lock:
            if actual in self._sizes and self._read(actual) == data:
                # Its first put may have crashed between the rename and the folder's sync.
                sync_directory(self._path(actual).parent)
                return actual
            if self._used + len(data) > self._bytes_max:
                raise StoreFull(len(data), self._used, self._bytes_max)
            try:
                self._write(actual, data)
            except OSError as error:
                if error.errno in _NO_SPACE:
                    raise DiskFull(f"{len(data)} bytes were not stored: {error.strerror}") from error
                raise
            self._sizes[actual] = len(data)
            self._used += len(data)
        return actual

    def get(self, digest: bytes) -> bytes:
        """The block. MissingBlob when it is not here or its bytes no longer fit: those are moved aside."""
        if digest not in self._sizes and not self._find(digest):
            raise MissingBlob(digest)
        data = self._read_file(digest)
        if data is None:
            # Looked at again under the lock: a put may just have replaced the file.
            with self._lock:
                data = self._read(digest)
        if data is None:
            raise MissingBlob(digest)
        return data

    def has(self, digest: bytes) -> bool:
        """Whether a block of this name is stored; only `get` looks at its bytes."""
        return digest in self._sizes

    def sizes(self) -> tuple[tuple[bytes, int], ...]:
        """Digest and size in bytes of every block, ordered by digest."""
        with self._lock:
            return tuple(sorted(self._sizes.items()))

    def remove(self, digest: bytes) -> None:
        """Forget a block. MissingBlob when it is not here."""
        with self._lock:
            if digest not in self._sizes:
                raise MissingBlob(digest)
            self._path(digest).unlink(missing_ok=True)
            self._forget(digest)

    def _find(self, digest: bytes) -> bool:
        """Whether somebody else has put the block there (`add_blob`); it counts from now on."""
        with self._lock:
            try:
                size = self._path(digest).stat().st_size
            except FileNotFoundError:
                return False
            self._used += size - self._sizes.get(digest, 0)
            self._sizes[digest] = size
            return True

    def _scan(self) -> list[tuple[bytes, int]]:
        """What is on disk. The files are the truth; the table in memory is only their list."""
        found = []
        for shard in self._folder.glob("[0-9a-f][0-9a-f]"):
            for entry in os.scandir(shard):
                if (
                    _NAME.fullmatch(entry.name)
                    and entry.name[:2] == shard.name
                    and entry.is_file(follow_symlinks=False)
                ):
                    found.append((bytes.fromhex(entry.name), entry.stat(follow_symlinks=False).st_size))
        return found

    def _write(self, digest: bytes, data: bytes) -> None:
        path = self._path(digest)
        if not path.parent.exists():
            path.parent.mkdir()
            sync_directory(self._folder)
        handle, name = tempfile.mkstemp(dir=self._temporary)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_directory(path.parent)

    def _read(self, digest: bytes) -> bytes | None:
        """With the lock held: the block, or None after moving aside what stands in its place."""
        data = self._read_file(digest)
        if data is None:
            if self._path(digest).exists():
                self._move_aside(digest)
            self._forget(digest)
        return data

    def _read_file(self, digest: bytes) -> bytes | None:
        """The block if its bytes fit its name. Reads no more than a block may have."""
        try:
            with open(self._path(digest), "rb") as file:
                data = file.read(BLOB_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        return data if compute_digest(data) == digest else None

    def _move_aside(self, digest: bytes) -> None:
        kept = sorted(self._corrupt.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for old in kept[: max(0, len(kept) + 1 - CORRUPT_FILES_MAX)]:
            old.unlink()
        os.replace(self._path(digest), self._corrupt / digest.hex())

    def _forget(self, digest: bytes) -> None:
        self._used -= self._sizes.pop(digest, 0)

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._folder / name[:2] / name
