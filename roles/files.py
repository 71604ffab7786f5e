"""Files that are never seen half-written."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: str | bytes, is_durable: bool = True) -> None:
    """Replace a file as a whole: a reader sees the old one or the new one, after a crash too when `is_durable`."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sync_directory(folder: Path) -> None:
    """Make the names in a folder durable: a synced file can still lose its name to a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
