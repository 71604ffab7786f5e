"""The index of a store: which blocks there are, what links them, what is pinned until when. One SQLite database.

A row for a block is written before its file, so that a file without a row is nobody's. A block is kept while a pin
reaches it over links, or while the put that last touched it is alive. Processes take turns: what decides about
removal happens inside one write transaction, as does every touch of a block that is there already.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from protocol.cid import RAW, Cid
from roles.blobs import DiskFull, StoreFull
from roles.store.errors import Damaged, IndexDamaged, NotKept, PutExpired
from roles.store_effects import FOR_EVER as FOR_EVER

INDEX_NAME = "index.db"
FORMAT = 1
BUSY_S = 60.0  # how long a turn is waited for
PUT_ALIVE_MS = 3_600_000  # since a put last moved
_TABLES = """
CREATE TABLE blocks (digest BLOB PRIMARY KEY, codec INTEGER NOT NULL, size INTEGER NOT NULL, put INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE links (parent BLOB, child BLOB, PRIMARY KEY (parent, child)) WITHOUT ROWID;
CREATE TABLE pins (digest BLOB PRIMARY KEY, codec INTEGER NOT NULL, name TEXT NOT NULL, content_bytes INTEGER NOT NULL,
    dag_bytes INTEGER NOT NULL, created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE puts (id INTEGER PRIMARY KEY AUTOINCREMENT, alive_until_ms INTEGER NOT NULL);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('used_bytes', 0), ('pins_changed', 0);
"""
# Links outlive a block that was found damaged: what hangs below it is still kept.
_REACHED = """
WITH RECURSIVE reached (digest) AS (
    SELECT digest FROM pins UNION SELECT child FROM links JOIN reached ON parent = reached.digest
) SELECT digest FROM reached
"""


class Entry(NamedTuple):
    """A block to be stored, with the digests that it links."""

    cid: Cid
    size: int
    children: tuple[bytes, ...] = ()


class Pin(NamedTuple):
    """Something that is kept: by its root, until `expires_ms`, FOR_EVER for no end."""

    cid: Cid
    name: str
    content_bytes: int
    dag_bytes: int
    created_ms: int
    expires_ms: int


class Index:
    """The database of one store. One thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / INDEX_NAME
        self._connection = sqlite3.connect(
            self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            self._open()
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> None:
        with self._explained():
            self._run("PRAGMA journal_mode = WAL")
        with self.turn():
            (version,) = self._run("PRAGMA user_version").fetchone()
            if version == FORMAT:
                return
            if version:
                raise IndexDamaged(self.path, f"format {version}, this rolemesh reads {FORMAT}")
            for statement in _TABLES.split(";"):
                self._run(statement)
            self._run(f"PRAGMA user_version = {FORMAT}")

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def turn(self, is_durable: bool = False) -> Iterator[None]:
        """One write transaction. If `is_durable`, all that was written up to its end is on disk when it ends.

        Raises IndexDamaged, DiskFull, sqlite3.OperationalError.
        """
        with self._explained():
            self._run(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
            self._run("BEGIN IMMEDIATE")
            try:
                yield
                self._run("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._run("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise DiskFull(f"the index of the store cannot grow: {error}") from error
            raise
        except sqlite3.DatabaseError as error:
            raise IndexDamaged(self.path, str(error)) from error

    # Puts

    def begin_put(self, now_ms: int) -> int:
        with self.turn():
            return int(self._run("INSERT INTO puts VALUES (NULL, ?)", now_ms + PUT_ALIVE_MS).lastrowid or 0)

    def reserve(self, put: int, entries: Sequence[Entry], bytes_max: int, now_ms: int) -> None:
        """Take blocks into the index for a put that is going on, before their files are written.

        Raises StoreFull, with nothing taken, and PutExpired.
        """
        with self.turn():
            self._keep_alive(put, now_ms)
            new = 0
            for cid, size, children in entries:
                touched = self._run("UPDATE blocks SET put = ? WHERE digest = ?", put, cid.digest).rowcount
                if not touched:
                    self._run("INSERT INTO blocks VALUES (?, ?, ?, ?)", cid.digest, cid.codec, size, put)
                    new += size
                if children:
                    rows = [(cid.digest, child) for child in children]
                    self._connection.executemany("INSERT OR IGNORE INTO links VALUES (?, ?)", rows)
            used = self.get_used_bytes()
            if new and used + new > bytes_max:
                raise StoreFull(new, used, bytes_max)
            self._add("used_bytes", new)

    def touch(self, put: int, digests: Sequence[bytes], now_ms: int) -> set[bytes]:
        """Count on blocks that are in the index already; which of these are. Raises PutExpired."""
        touch = "UPDATE blocks SET put = ? WHERE digest = ?"
        with self.turn():
            self._keep_alive(put, now_ms)
            return {digest for digest in digests if self._run(touch, put, digest).rowcount}

    def end_put(self, put: int, pin: Pin | None, now_ms: int) -> None:
        """Durably: the put is over, and what it brought is pinned, or left to the grace of unpinned blocks."""
        with self.turn(is_durable=True):
            self._keep_alive(put, now_ms)
            if pin is not None:
                self._pin(pin)
                self._run("DELETE FROM puts WHERE id = ?", put)

    def drop_put(self, put: int) -> None:
        """The put has failed: what only it has touched may be collected now."""
        with self.turn():
            self._run("DELETE FROM puts WHERE id = ?", put)

    def _keep_alive(self, put: int, now_ms: int) -> None:
        statement = "UPDATE puts SET alive_until_ms = ? WHERE id = ? AND alive_until_ms > ?"
        if not self._run(statement, now_ms + PUT_ALIVE_MS, put, now_ms).rowcount:
            raise PutExpired(PUT_ALIVE_MS // 1000)

    # Pins

    def pin(self, pin: Pin, has_file: Callable[[bytes], bool]) -> None:
        """Durably keep what is here already. Raises Damaged when not all of it is."""
        with self.turn(is_durable=True):
            missing = [digest for digest in self.get_reached(pin.cid) if not self._is_here(digest, has_file)]
            if missing:
                raise Damaged(len(missing), Cid(self.get_codec(missing[0]) or RAW, missing[0]))
            self._pin(pin)

    def _is_here(self, digest: bytes, has_file: Callable[[bytes], bool]) -> bool:
        return self.get_codec(digest) is not None and has_file(digest)

    def add_pin(self, pin: Pin) -> None:
        """Keep what may not be whole: for an index that is made anew."""
        with self.turn():
            self._pin(pin)

    def _pin(self, pin: Pin) -> None:
        values = (pin.cid.digest, pin.cid.codec, pin.name, pin.content_bytes, pin.dag_bytes, pin.created_ms)
        self._run("INSERT OR REPLACE INTO pins VALUES (?, ?, ?, ?, ?, ?, ?)", *values, pin.expires_ms)
        self._add("pins_changed", 1)

    def unpin(self, cid: Cid) -> None:
        """Raises NotKept."""
        with self.turn(is_durable=True):
            if not self._run("DELETE FROM pins WHERE digest = ? AND codec = ?", cid.digest, cid.codec).rowcount:
                raise NotKept(cid)
            self._add("pins_changed", 1)

    def get_pins(self) -> list[Pin]:
        """Also those that have expired and were not collected yet. By time."""
        rows = self._run("SELECT * FROM pins ORDER BY created_ms, digest")
        return [Pin(Cid(codec, digest), *rest) for digest, codec, *rest in rows]

    # Blocks

    def get_used_bytes(self) -> int:
        return self._get("used_bytes")

    def count_blocks(self) -> int:
        return int(self._run("SELECT count(*) FROM blocks").fetchone()[0])

    def get_reached(self, root: Cid | None) -> list[bytes]:
        """Digests of all blocks that a root needs, or all pins together, nodes before the blocks they link."""
        if root is None:
            rows = self._run(_REACHED)
        else:
            statement = (
                "WITH RECURSIVE reached (digest) AS (VALUES (?) UNION "
                "SELECT child FROM links JOIN reached ON parent = reached.digest) "
                "SELECT digest FROM reached"
            )
            rows = self._run(statement, root.digest)
        return [digest for (digest,) in rows]

    def get_codec(self, digest: bytes) -> int | None:
        row = self._run("SELECT codec FROM blocks WHERE digest = ?", digest).fetchone()
        return None if row is None else int(row[0])

    def forget_blocks(self, digests: Iterable[bytes]) -> int:
        """Inside a turn: blocks whose files are gone; their bytes. Links stay."""
        freed = 0
        for digest in digests:
            row = self._run("DELETE FROM blocks WHERE digest = ? RETURNING size", digest).fetchone()
            freed += row[0] if row is not None else 0
        self._add("used_bytes", -freed)
        return freed

    # Collection

    def mark(self, now_ms: int) -> int:
        """Inside a turn: note what pins reach now. The number of the pins' last change."""
        self._run("CREATE TEMP TABLE IF NOT EXISTS kept (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._run("DELETE FROM kept")
        self._run("DELETE FROM pins WHERE expires_ms <= ?", now_ms)
        self._run("DELETE FROM puts WHERE alive_until_ms <= ?", now_ms)
        self._run("INSERT INTO kept " + _REACHED)
        # Left by blocks that were found damaged while something still needed them, which nothing does any more.
        self._run(
            "DELETE FROM links WHERE parent NOT IN (SELECT digest FROM kept) "
            "AND parent NOT IN (SELECT digest FROM blocks)"
        )
        return self._get("pins_changed")

    def get_pins_changed(self) -> int:
        return self._get("pins_changed")

    def get_unkept(self, count_max: int, only_put: int | None) -> list[tuple[bytes, int]]:
        """Inside a turn, after `mark`: blocks that neither a pin nor a put that is alive keeps, with their sizes.

        With `only_put` those that this put touched last.
        """
        rows = self._run(
            "SELECT digest, size FROM blocks WHERE put NOT IN (SELECT id FROM puts) "
            "AND digest NOT IN (SELECT digest FROM kept) AND (? IS NULL OR put = ?) LIMIT ?",
            only_put,
            only_put,
            count_max,
        )
        return rows.fetchall()

    def drop_links(self, parents: Iterable[bytes]) -> None:
        """Inside a turn: what these blocks link no longer matters."""
        self._connection.executemany("DELETE FROM links WHERE parent = ?", [(parent,) for parent in parents])

    def get_unknown(self, digests: Sequence[bytes]) -> list[bytes]:
        """Those that have no row."""
        known = "SELECT 1 FROM blocks WHERE digest = ?"
        return [digest for digest in digests if self._run(known, digest).fetchone() is None]

    def is_being_put(self, digest: bytes, now_ms: int) -> bool:
        """Whether a put that is alive was the last to touch this block."""
        statement = "SELECT 1 FROM blocks JOIN puts ON puts.id = put WHERE digest = ? AND alive_until_ms > ?"
        return self._run(statement, digest, now_ms).fetchone() is not None

    def has_put(self, put: int) -> bool:
        """Inside a turn, after `mark`: whether the put is alive."""
        return self._run("SELECT 1 FROM puts WHERE id = ?", put).fetchone() is not None

    # Small things

    def _get(self, counter: str) -> int:
        return int(self._run("SELECT value FROM counters WHERE name = ?", counter).fetchone()[0])

    def _add(self, counter: str, number: int) -> None:
        self._run("UPDATE counters SET value = value + ? WHERE name = ?", number, counter)

    def _run(self, statement: str, *values: object) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)
