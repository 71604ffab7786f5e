"""Files that are never seen half-written."""

import ctypes
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ONE_BY_ONE_MAX = 8  # files; more are synced in one call


def write_atomically(path: Path, text: str, is_durable: bool = True) -> None:
    """Replace a file as a whole: a reader sees the old one or the new one, after a crash too when `is_durable`."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sync_files(paths: Sequence[Path]) -> None:
    """Make files of one folder durable, with their names. Those that are gone again are left out."""
    if len(paths) > ONE_BY_ONE_MAX and sys.platform == "linux":
        _sync_filesystem(paths[0].parent)
        return
    for path in paths:
        with suppress(FileNotFoundError), path.open("rb") as file:
            os.fdatasync(file.fileno())
    for folder in {path.parent for path in paths}:
        sync_directory(folder)


def _sync_filesystem(folder: Path) -> None:
    """All of it in one call, however many files there are."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(handle) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(folder))
    finally:
        os.close(handle)


def sync_directory(folder: Path) -> None:
    """Make the names in a folder durable: a synced file can still lose its name to a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
