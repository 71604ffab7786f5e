"""One process per data directory: two nodes on one set of keys and one ledger would ruin both.

The lock is the kernel's (flock) and ends with the process that holds it, however that ends: nothing is ever stale.
"""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from roles.config import ConfigError

LOCK_NAME = "lock"
WAIT_S_MAX = 0.5  # someone may just be asking whether a node runs, which takes the lock for an instant
RETRY_S = 0.02


class DirectoryLock:
    """Holds the lock of a data directory while it is open."""

    def __init__(self, directory: Path) -> None:
        """Take the lock. Raises ConfigError when another process holds it, or the directory is not there."""
        try:
            self._handle = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            hint = "make a data directory with `rolemesh node init --network FILE`"
            raise ConfigError(f"{directory} cannot be used: {error.strerror}", hint) from error
        try:
            self._take(directory)
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(self._handle)
            raise

    def close(self) -> None:
        """Let others in. The file stays: removing it would let two processes lock two files of one name."""
        os.close(self._handle)

    def __enter__(self) -> "DirectoryLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, directory: Path) -> None:
        deadline = time.monotonic() + WAIT_S_MAX
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(RETRY_S)
                    continue
                holder = os.pread(self._handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise ConfigError(
                    f"{directory} is in use by another node (pid {holder})",
                    "stop that node first, or give this one a data directory of its own",
                ) from None


def is_locked(directory: Path) -> bool:
    """Whether a node runs on this data directory now."""
    try:
        handle = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
