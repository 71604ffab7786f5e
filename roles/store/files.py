"""Blocks as files, named by their sha256, never by anything a peer says.

    ab/<64 hex>       one block; its bytes are on disk before it has this name
    tmp/<put>-<n>     a block that is being written
    corrupt/<64 hex>  a block whose bytes no longer fit its name; kept for people, never served

Any number of threads and processes may use one folder. What may be removed, and when, is for the index to say.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from protocol.content import BLOB_BYTES_MAX, compute_digest
from protocol.errors import MissingBlob
from roles.blobs import DiskFull
from roles.files import sync_directory

CORRUPT_FILES_MAX = 64
_NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_NAME = re.compile(r"[0-9a-f]{64}")
_SHARDS = tuple(f"{number:02x}" for number in range(256))


class BlockFiles:
    """The block files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._temporary = folder / "tmp"
        self._corrupt = folder / "corrupt"
        self._numbers = count()
        if not (folder / _SHARDS[-1]).exists():
            for path in (folder, self._temporary, self._corrupt, *(folder / shard for shard in _SHARDS)):
                path.mkdir(parents=True, exist_ok=True)
            sync_directory(folder)

    def write(self, put: int, digest: bytes, data: bytes | memoryview) -> bool:
        """Have the block's bytes on disk under its name; whether they were not there yet. Raises DiskFull.

        The name itself is durable after `sync` of its shard. What stands under the name with other bytes is replaced.
        """
        path = self._path(digest)
        with suppress(FileNotFoundError):
            if path.read_bytes() == data:
                return False
        temporary = self._temporary / f"{put}-{os.getpid()}-{next(self._numbers)}"
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            with os.fdopen(handle, "wb", buffering=0) as file:
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno in _NO_SPACE:
                raise DiskFull(f"{len(data)} bytes were not stored: {error.strerror}") from error
            raise
        return True

    def sync(self, shards: set[str]) -> None:
        """Make the names in these shards durable."""
        for shard in sorted(shards):
            sync_directory(self.folder / shard)

    def read(self, digest: bytes) -> bytes:
        """The block. MissingBlob when it is not here or its bytes do not fit its name."""
        return bytes(self.read_into(digest, bytearray()))

    def read_into(self, digest: bytes, room: bytearray) -> bytes | memoryview:
        """As `read`. A get that has room of its own is spared memory mapped anew for every block, half of its time."""
        try:
            handle = os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise MissingBlob(digest) from error
        try:
            size = min(os.fstat(handle).st_size, BLOB_BYTES_MAX + 1)
            data = memoryview(room)[: os.readv(handle, [room])] if 0 < size <= len(room) else os.read(handle, size)
        finally:
            os.close(handle)
        if compute_digest(data) != digest:
            raise MissingBlob(digest)
        return data

    def has_file(self, digest: bytes) -> bool:
        """Whether something stands under this name."""
        return self._path(digest).exists()

    def remove(self, digest: bytes) -> None:
        self._path(digest).unlink(missing_ok=True)

    def move_aside(self, digest: bytes) -> None:
        """Put what stands under this name where it is kept for people."""
        kept = sorted(self._corrupt.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for old in kept[: max(0, len(kept) + 1 - CORRUPT_FILES_MAX)]:
            old.unlink()
        with suppress(FileNotFoundError):
            os.replace(self._path(digest), self._corrupt / digest.hex())

    def list_shard(self, shard: str) -> list[bytes]:
        """The blocks that have a file in this shard; strange names are let be."""
        with os.scandir(self.folder / shard) as entries:
            return [
                bytes.fromhex(entry.name)
                for entry in entries
                if _NAME.fullmatch(entry.name) and entry.name[:2] == shard and entry.is_file(follow_symlinks=False)
            ]

    def is_empty(self) -> bool:
        """Whether there is no block at all."""
        return not any(next((self.folder / shard).iterdir(), None) for shard in _SHARDS)

    def list_temporary(self) -> Iterator[tuple[int, Path]]:
        """Files of puts that have not ended, or never will, with the number of the put."""
        for path in self._temporary.iterdir():
            put, _, _ = path.name.partition("-")
            if put.isdecimal():
                yield int(put), path

    def count_free_bytes(self) -> int:
        """What the file system has left for us."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self.folder / name[:2] / name


def get_shard(digest: bytes) -> str:
    """The folder that holds the block's file."""
    return digest[:1].hex()


def list_shards() -> tuple[str, ...]:
    return _SHARDS
