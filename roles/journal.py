"""What must survive a killed process and may wait for the disk: appended to a file at once, kept in the database soon.

An append takes some twenty microseconds, a transaction of the database ten times that; and of a value that changes
many times in between, the database sees the last. Two files take turns: one takes what comes while the other's is
brought into the database, which notes the number of the last page it has. A page is one append, a frame of `framed`;
one that is not whole was torn by a power cut, and with all behind it was never promised to outlast that.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from protocol.codec import decode, encode
from protocol.errors import MalformedMessage
from protocol.types import AtMost, Name, UpTo
from roles import framed
from roles.config import UserError
from roles.core_effects import Put
from roles.files import sync_directory

NAMES = ("journal-0", "journal-1")  # in a node's directory
BUCKET, SETTLED = "journal", b"settled"  # where the database notes the last page it has
KEY_BYTES_MAX = 1_024
PUTS_MAX, VALUE_BYTES_MAX = 192, 16 * 1024  # of one append: it is done within the loop
_MARK = b"RMJ1"


class JournalDamaged(UserError):
    """A page is whole and yet no page of ours: another program, or another version, wrote it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}", "move it away, and the node starts from what its database has")


@dataclass(frozen=True)
class Entry:
    """A `Put`. Without a value when it forgets."""

    bucket: Name
    key: Annotated[bytes, AtMost(KEY_BYTES_MAX)]
    value: Annotated[bytes, AtMost(VALUE_BYTES_MAX)]
    is_gone: Annotated[int, UpTo(1)]


@dataclass(frozen=True)
class Page:
    """What was appended at once. Numbers go up by one, through both files and all starts."""

    number: Annotated[int, UpTo(2**63 - 1)]
    entries: Annotated[tuple[Entry, ...], AtMost(PUTS_MAX)]


@dataclass(frozen=True)
class Taken:
    """What the database is to keep, the last of each key, with its note of what it then has."""

    puts: tuple[Put, ...]
    note: Put


class Journal:
    """The open journal of one node, of whose pages the database has those up to `settled`. Raises OSError.

    One thread may append while another takes and clears.
    """

    def __init__(self, directory: Path, settled: int) -> None:
        pages = read_pages(directory, settled)
        self._number = max([settled, *(page.number for page in pages)])
        self.left = tuple(list_puts(pages))  # by the last process, which the database has not got
        self._waiting = {(put.bucket, put.key): put for put in self.left}
        self._lock = threading.Lock()
        self.torn_bytes = 0  # by a power cut, and left out
        is_new = not all((directory / name).exists() for name in NAMES)
        self._handles = [self._open(directory / name) for name in NAMES]
        if is_new:
            sync_directory(directory)
        self._is_unsynced = [True, True]  # by handle: a killed process may not have come to it
        self._at = 0

    def append(self, puts: Sequence[Put]) -> None:
        """At most PUTS_MAX of `is_light` values: they outlast the process when this returns. Raises OSError."""
        with self._lock:
            page = Page(self._number + 1, tuple(map(_enter, puts)))
            framed.write_all(self._handles[self._at], framed.pack(_MARK, encode(page)))
            self._is_unsynced[self._at] = True
            self._number = page.number
            self._waiting.update(((put.bucket, put.key), put) for put in puts)

    def sync(self) -> None:
        """All pages so far are on the disk when this returns, here or in the database. Raises OSError."""
        for at, handle in enumerate(self._handles):
            if self._is_unsynced[at]:
                self._is_unsynced[at] = False  # before: what comes meanwhile is for the next time
                os.fdatasync(handle)

    def take(self) -> Taken:
        """What the database has not got yet. It must be there, and on the disk, before `clear`."""
        with self._lock:
            puts, self._waiting = self._waiting, {}
            self._at = 1 - self._at
            self._number += 1  # a note that says what it said before would be no change, and SQLite sync nothing
            return Taken(tuple(puts.values()), Put(BUCKET, SETTLED, b"%d" % self._number))

    def clear(self) -> None:
        """What was taken is in the database, on the disk."""
        with self._lock:
            # The file that is appended to as well, unless something has come since: it may hold what was taken before.
            for at in (1 - self._at, *(() if self._waiting else (self._at,))):
                os.ftruncate(self._handles[at], 0)
                self._is_unsynced[at] = False

    def close(self) -> None:
        for handle in self._handles:
            os.close(handle)

    def _open(self, path: Path) -> int:
        """For appending, without a torn end: what came behind one could not be read."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        data = path.read_bytes()
        _, end = framed.read_all(_MARK, data)
        os.ftruncate(handle, end)
        self.torn_bytes += len(data) - end
        return handle


def is_light(put: Put) -> bool:
    """Whether it is small enough for a journal."""
    return len(put.value or b"") <= VALUE_BYTES_MAX


def read_pages(directory: Path, settled: int) -> list[Page]:
    """What the files hold beyond the pages that the database has, in order; also of a node that is running."""
    pages = [page for name in NAMES for page in _read_file(directory / name)]
    return sorted((page for page in pages if page.number > settled), key=lambda page: page.number)


def get_settled(kv: Mapping[str, Mapping[bytes, bytes]]) -> int:
    """The last page that a database has, by what it keeps."""
    return int(kv.get(BUCKET, {}).get(SETTLED, b"0"))


def overlay(kv: Mapping[str, Mapping[bytes, bytes]], puts: Iterable[Put]) -> dict[str, dict[bytes, bytes]]:
    """What a database keeps, as it will be with these."""
    kept = {bucket: dict(values) for bucket, values in kv.items()}
    for put in puts:
        values = kept.setdefault(put.bucket, {})
        if put.value is None:
            values.pop(put.key, None)
        else:
            values[put.key] = put.value
    return kept


def list_puts(pages: Sequence[Page]) -> Iterator[Put]:
    return (
        Put(entry.bucket, entry.key, None if entry.is_gone else entry.value) for page in pages for entry in page.entries
    )


def _read_file(path: Path) -> list[Page]:
    """Its whole pages. What a power cut has torn was never promised to outlast one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    contents, _ = framed.read_all(_MARK, data)
    try:
        pages = [decode(Page, content) for content in contents]
    except MalformedMessage as error:
        raise JournalDamaged(path, str(error)) from error
    return pages


def _enter(put: Put) -> Entry:
    return Entry(put.bucket, put.key, put.value or b"", int(put.value is None))
