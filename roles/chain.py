"""A node's database: decided blocks with their certificates, the newest state, receipts, and whatever its roles keep.

SQLite in WAL mode: what `write` has returned from survives a kill, and a power cut too unless it was told not to wait.
A block, its certificate and the entries of the state that it changed are kept in one transaction, so a restart begins
at the tip without replaying, and a block costs what it changes, not what the ledger holds.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from protocol.codec import decode, encode
from protocol.errors import LocalError, MalformedMessage
from protocol.ledger.block import Block, Certificate, compute_block_id
from protocol.ledger.restart_terms import decode_restarts, encode_restarts
from protocol.ledger.rows import encode_frame, list_state_rows, restore_state
from protocol.ledger.state import Row, RowChange, State, compute_state_root
from protocol.messages import CertifiedBlock
from roles.config import EXIT_CONFIG, UserError
from roles.core_effects import Commit, Put, Restored
from roles.journal import BUCKET, KEY_BYTES_MAX, get_settled, list_puts, overlay, read_pages

DATABASE_NAME = "node.db"  # in a node's directory
SCHEMA_VERSION = 5
RECEIPT_BUCKET = "receipt"  # has a table of its own: there are more of them than anybody wants to hold in memory
APPLICATION_ID = 0x524D4C31  # "RML1": says to `file` and to us what this database is
BUSY_TIMEOUT_S = 5.0
PRUNE_STEP = 256
CACHE_KIB = 8 * 1024
WAL_BYTES = 4 * 1024 * 1024  # as much as SQLite would let gather
# The checks keep types what they are declared to be, and `quick_check` looks after them.
_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL CHECK (typeof(value) = 'blob')) WITHOUT ROWID",
    "CREATE TABLE blocks (height INTEGER PRIMARY KEY, block BLOB NOT NULL CHECK (typeof(block) = 'blob'),"
    " certificate BLOB NOT NULL CHECK (typeof(certificate) = 'blob'),"
    " restarts BLOB NOT NULL CHECK (typeof(restarts) = 'blob'))",
    "CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), height INTEGER NOT NULL,"
    " frame BLOB NOT NULL CHECK (typeof(frame) = 'blob'))",
    "CREATE TABLE entries (name TEXT NOT NULL CHECK (typeof(name) = 'text'), key BLOB NOT NULL"
    " CHECK (typeof(key) = 'blob'), record BLOB NOT NULL CHECK (typeof(record) = 'blob'), PRIMARY KEY (name, key))"
    " WITHOUT ROWID",
    "CREATE TABLE kv (bucket TEXT NOT NULL CHECK (typeof(bucket) = 'text'), key BLOB NOT NULL"
    " CHECK (typeof(key) = 'blob'), value BLOB NOT NULL CHECK (typeof(value) = 'blob'), PRIMARY KEY (bucket, key))"
    " WITHOUT ROWID",
    # In the order in which they came: such rows are written one behind the other.
    "CREATE TABLE receipts (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE CHECK (typeof(key) = 'blob'),"
    " data BLOB NOT NULL CHECK (typeof(data) = 'blob'))",
)


class DatabaseDamaged(UserError):
    """The database does not hold what this program has written. It is never mended in silence."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} is damaged: {reason}",
            "put back an untouched copy; or move it away, and `rolemesh ledger restore` puts a snapshot there, or the "
            "node fetches the ledger anew from its peers; vouchers it has signed, work not settled and its receipts "
            "are forgotten",
            EXIT_CONFIG,
        )


class ForeignDatabase(UserError):
    """The database is of another program or chain."""

    def __init__(self, path: Path, reason: str, hint: str = "") -> None:
        hint = hint or "give this network's node a data directory of its own"
        super().__init__(f"{path} cannot be used: {reason}", hint, EXIT_CONFIG)


class ForeignSchema(ForeignDatabase):
    """The database was laid out by another version of this program. It is never converted in silence."""

    def __init__(self, path: Path, version: int) -> None:
        hint = (
            "use the rolemesh that made it; or move it away, and `rolemesh ledger restore` puts a snapshot there, or "
            "the node fetches the ledger anew from its peers"
        )
        super().__init__(path, f"its schema is version {version}, this program's {SCHEMA_VERSION}", hint)
        self.version = version


@dataclass(frozen=True)
class StoredState:
    """The state a node has kept, as bytes: `restore` makes it one."""

    frame: bytes
    rows: tuple[Row, ...]

    def restore(self) -> State:
        """MalformedMessage when it is none."""
        return restore_state(self.frame, self.rows)


@dataclass(frozen=True)
class StoredBlock:
    """A row of `blocks`, as bytes: whoever reads it decides whether it is what it should be."""

    height: int
    block: bytes
    certificate: bytes
    restarts: bytes


class Chain:
    """The database of one node. One thread writes at a time; another may read blocks meanwhile.

    With `chain`, a database that holds blocks of another chain is refused. With `keep_blocks`, older blocks than the
    newest so many are forgotten, a few at a time. The constructor raises DatabaseDamaged, ForeignDatabase or
    sqlite3.Error.
    """

    def __init__(self, path: Path, chain: bytes | None = None, keep_blocks: int = 0) -> None:
        self._path = path
        self._chain = chain
        self._keep_blocks = keep_blocks
        self._lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._fold_lock = threading.Lock()
        self._is_synced = True
        with _damage(path):
            self._writer = _connect(path)
            try:
                self._prepare()
                self._reader = _connect(path)
                self._folder = _connect(path)
            except BaseException:
                self._writer.close()
                raise

    def start(self) -> Restored:
        """Count this start, durably, and give back what the last process left. Raises DatabaseDamaged."""
        with self._lock, _damage(self._path):
            problem = self._writer.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise DatabaseDamaged(self._path, str(problem))
            state = self._restore_state()
            boot = int(self._get_meta("boot") or b"0") + 1
            with _transaction(self._writer):
                self._put_meta("boot", b"%d" % boot)
            kv: dict[str, dict[bytes, bytes]] = {}
            for bucket, key, value in self._writer.execute("SELECT bucket, key, value FROM kv"):
                kv.setdefault(bucket, {})[key] = value
        return Restored(boot, state, kv, self.read_block)

    def write(self, effects: Sequence[Commit | Put], is_synced: bool = True) -> None:
        """Keep all of it in one transaction, or nothing; if `is_synced` it is on disk then. Raises sqlite3.Error.

        Blocks must come in order of height, each after the last one kept: LocalError otherwise.
        """
        self._write(effects, is_synced)
        if is_synced:
            self._fold()

    def _fold(self) -> None:
        """Bring what has gathered in the log of writes into the database; writers are not held up by it.

        SQLite would do it within a write, which then takes as long as the disk does.
        """
        if self._size_wal() < WAL_BYTES or not self._fold_lock.acquire(blocking=False):
            return
        try:
            self._folder.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        finally:
            self._fold_lock.release()

    def _size_wal(self) -> int:
        with suppress(FileNotFoundError):
            return (self._path.parent / f"{self._path.name}-wal").stat().st_size
        return 0

    def _write(self, effects: Sequence[Commit | Put], is_synced: bool) -> None:
        commits = [effect for effect in effects if isinstance(effect, Commit)]
        with self._lock:
            if is_synced is not self._is_synced:
                self._writer.execute(f"PRAGMA synchronous = {'FULL' if is_synced else 'NORMAL'}")
                self._is_synced = is_synced
            self._write_all(effects, commits)

    def _write_all(self, effects: Sequence[Commit | Put], commits: Sequence[Commit]) -> None:
        with _transaction(self._writer):
            for effect in effects:
                if isinstance(effect, Put):
                    self._put(effect)
            for commit in commits:
                self._append(commit)
            if commits:
                state = commits[-1].state
                row = (1, state.height, encode_frame(state))
                self._writer.execute("INSERT OR REPLACE INTO state (id, height, frame) VALUES (?, ?, ?)", row)
                self._prune(state.height)

    def read_block(self, height: int) -> CertifiedBlock | None:
        """A decided block with its certificate; None when this node does not hold it. Raises DatabaseDamaged."""
        with self._read_lock, _damage(self._path):
            query = "SELECT block, certificate, restarts FROM blocks WHERE height = ?"
            row = self._reader.execute(query, (height,)).fetchone()
            if row is None:
                return None
            return CertifiedBlock(decode(Block, row[0]), decode(Certificate, row[1]), decode_restarts(row[2]))

    def find_receipt(self, key: bytes) -> bytes | None:
        """A receipt file that was kept, by its request's id. Raises DatabaseDamaged."""
        with self._read_lock, _damage(self._path):
            row = self._reader.execute("SELECT data FROM receipts WHERE key = ?", (key,)).fetchone()
            return None if row is None else bytes(row[0])

    def close(self) -> None:
        with self._lock, self._read_lock, self._fold_lock:
            self._reader.close()
            self._folder.close()
            self._writer.close()

    def _prepare(self) -> None:
        application = self._writer.execute("PRAGMA application_id").fetchone()[0]
        version = self._writer.execute("PRAGMA user_version").fetchone()[0]
        is_empty = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if application != APPLICATION_ID and not is_empty:
            raise ForeignDatabase(self._path, "it is not a node's database")
        if is_empty:
            with _transaction(self._writer):
                _lay_out(self._writer)
        elif version != SCHEMA_VERSION:
            raise ForeignSchema(self._path, version)
        held = self._get_meta("chain")
        if held is not None and self._chain is not None and held != self._chain:
            raise ForeignDatabase(self._path, f"it holds chain {held.hex()}, this node's is {self._chain.hex()}")

    def _restore_state(self) -> State | None:
        """The state at the tip, if it is the one the newest block leads to."""
        height, count = self._writer.execute("SELECT coalesce(max(height), 0), count(*) FROM blocks").fetchone()
        row = self._writer.execute("SELECT height, frame FROM state").fetchone()
        if row is None and not height:
            return None
        pruned = int(self._get_meta("pruned") or b"0")
        if row is None or row[0] != height or count != height - pruned:
            told = "none" if row is None else row[0]
            what = f"{count} blocks up to height {height}, {pruned} of them pruned, but the state is of {told}"
            raise DatabaseDamaged(self._path, what)
        state, tip = StoredState(row[1], _read_rows(self._writer)).restore(), self.read_block(height)
        if tip is None or compute_block_id(tip.block.header) != state.block_id:
            raise DatabaseDamaged(self._path, f"the state does not follow block {height}")
        if compute_state_root(state) != tip.block.header.state_root:
            raise DatabaseDamaged(self._path, f"the state's root is not the one block {height} names")
        return state

    def _append(self, commit: Commit) -> None:
        header = commit.block.header
        last = self._writer.execute("SELECT coalesce(max(height), 0) FROM blocks").fetchone()[0]
        if header.height != last + 1 or commit.state.height != header.height:
            raise LocalError(f"block {header.height} with a state of {commit.state.height} cannot follow block {last}")
        if last == 0:
            self._put_meta("chain", header.chain)
        row = (header.height, encode(commit.block), encode(commit.certificate), encode_restarts(commit.restarts))
        self._writer.execute("INSERT INTO blocks (height, block, certificate, restarts) VALUES (?, ?, ?, ?)", row)
        # What genesis put into the state comes with the first block.
        self._write_entries(list_state_rows(commit.state) if last == 0 else commit.state.changes)

    def _prune(self, height: int) -> None:
        """Forget old blocks once enough of them have gathered; a bounded number, so that no block waits for long."""
        pruned = int(self._get_meta("pruned") or b"0")
        if self._keep_blocks and height - pruned >= self._keep_blocks + PRUNE_STEP:
            last = min(height - self._keep_blocks, pruned + 4 * PRUNE_STEP)
            self._writer.execute("DELETE FROM blocks WHERE height <= ?", (last,))
            self._put_meta("pruned", b"%d" % last)

    def _write_entries(self, changes: Iterable[RowChange]) -> None:
        kept: list[RowChange] = []
        gone: list[tuple[str, bytes]] = []
        for name, key, record in changes:
            if record is None:
                gone.append((name, key))
            else:
                kept.append((name, key, record))
        self._writer.executemany("DELETE FROM entries WHERE name = ? AND key = ?", gone)
        self._writer.executemany("INSERT OR REPLACE INTO entries (name, key, record) VALUES (?, ?, ?)", kept)

    def _put(self, put: Put) -> None:
        if put.bucket == RECEIPT_BUCKET:
            self._put_receipt(put)
        elif put.value is None:
            self._writer.execute("DELETE FROM kv WHERE bucket = ? AND key = ?", (put.bucket, put.key))
        else:
            row = (put.bucket, put.key, put.value)
            self._writer.execute("INSERT OR REPLACE INTO kv (bucket, key, value) VALUES (?, ?, ?)", row)

    def _put_receipt(self, put: Put) -> None:
        if put.value is None:
            self._writer.execute("DELETE FROM receipts WHERE key = ?", (put.key,))
        else:
            self._writer.execute("INSERT OR REPLACE INTO receipts (key, data) VALUES (?, ?)", (put.key, put.value))

    def _get_meta(self, name: str) -> bytes | None:
        row = self._writer.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def _put_meta(self, name: str, value: bytes) -> None:
        self._writer.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))


def copy_ledger(source: Path, target: Path, boot: int) -> tuple[bytes, int, int]:
    """Write what a database says of the ledger into a new one, as of one moment: its chain, first and last height.

    Only the ledger: what roles keep is its node's own. The new one counts starts from `boot`. The node of `source` may
    be running. Raises DatabaseDamaged, ForeignDatabase, sqlite3.Error, or FileExistsError.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already")
    with open_stored(source):  # it is one of ours, and whole
        pass
    with _damage(source), closing(sqlite3.connect(f"{target.absolute().as_uri()}", uri=True)) as connection:
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("ATTACH ? AS source", (f"{source.absolute().as_uri()}?mode=ro",))
        with _transaction(connection):
            _lay_out(connection)
            for table in ("blocks", "state", "entries"):
                connection.execute(f"INSERT INTO main.{table} SELECT * FROM source.{table}")
            connection.execute("INSERT INTO main.meta SELECT * FROM source.meta WHERE name IN ('chain', 'pruned')")
            connection.execute("INSERT INTO main.meta (name, value) VALUES ('boot', ?)", (b"%d" % boot,))
        first, last = connection.execute(
            "SELECT coalesce(min(height), 0), coalesce(max(height), 0) FROM blocks"
        ).fetchone()
        row = connection.execute("SELECT value FROM main.meta WHERE name = 'chain'").fetchone()
    return (bytes(row[0]) if row is not None else b""), first, last


@contextmanager
def open_stored(path: Path, above: int = 0) -> Iterator[tuple[Iterator[StoredBlock], StoredState | None]]:
    """The blocks of heights `above`, in order, and the state of a database, as of one moment and unchanged by reading.

    The node may be running. Raises DatabaseDamaged, ForeignDatabase or sqlite3.OperationalError.
    """
    with _read_only(path) as connection:
        row = connection.execute("SELECT frame, height FROM state").fetchone()
        last = connection.execute("SELECT coalesce(max(height), 0) FROM blocks").fetchone()[0]
        if row is not None and row[1] != last:
            raise DatabaseDamaged(path, f"blocks up to height {last}, but the state is of {row[1]}")
        query = "SELECT height, block, certificate, restarts FROM blocks WHERE height > ? ORDER BY height"
        rows = connection.execute(query, (above,))
        yield (
            (StoredBlock(*row) for row in rows),
            None if row is None else StoredState(row[0], _read_rows(connection)),
        )


def read_kept(path: Path, bucket: str, begins: str = "") -> dict[bytes, bytes]:
    """What a role keeps under a bucket (`client/requests`) of a database, whose node may be running; unchanged by it.

    With what is still in its journal; only under keys that begin so, in hex. Raises DatabaseDamaged, ForeignDatabase or
    sqlite3.OperationalError.
    """
    with _read_only(path):  # it is one of ours
        pass
    # The journal first: what leaves it in between is in the database by then.
    pages = read_pages(path.parent, 0)
    least = bytes.fromhex(begins + "0" * (len(begins) % 2))
    most = bytes.fromhex(begins + "f" * (len(begins) % 2)) + b"\xff" * KEY_BYTES_MAX
    query = "SELECT key, data FROM receipts WHERE key BETWEEN ?2 AND ?3 ORDER BY id"
    if bucket != RECEIPT_BUCKET:
        query = "SELECT key, value FROM kv WHERE bucket = ?1 AND key BETWEEN ?2 AND ?3"
    with _read_only(path) as connection:
        kept = dict(connection.execute(query, (bucket, least, most)))
        own = dict(connection.execute("SELECT key, value FROM kv WHERE bucket = ?", (BUCKET,)))
    settled = get_settled({BUCKET: own})
    puts = (put for put in list_puts([page for page in pages if page.number > settled]) if put.bucket == bucket)
    return overlay({bucket: kept}, (put for put in puts if least <= put.key <= most))[bucket]


def read_height(path: Path) -> int:
    """The height a node has stored the ledger at, 0 before its first block; it may be running.

    Raises DatabaseDamaged, ForeignDatabase or sqlite3.OperationalError.
    """
    with _read_only(path) as connection:
        height: int = connection.execute("SELECT coalesce(max(height), 0) FROM state").fetchone()[0]
        return height


@contextmanager
def _read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A database of ours as of one moment. Raises DatabaseDamaged, ForeignDatabase or sqlite3.OperationalError."""
    with _damage(path):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise ForeignDatabase(path, "it is not a node's database")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != SCHEMA_VERSION:
                raise ForeignSchema(path, version)
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()


def _lay_out(connection: sqlite3.Connection) -> None:
    """The tables of a new database."""
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _read_rows(connection: sqlite3.Connection) -> tuple[Row, ...]:
    return tuple(connection.execute("SELECT name, key, record FROM entries ORDER BY name, key"))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # `_fold` does it
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Bytes that are not a database, or not what we put there, are damage; a full or busy disk is not."""
    try:
        yield
    except sqlite3.OperationalError:
        raise
    except (sqlite3.DatabaseError, MalformedMessage) as error:
        raise DatabaseDamaged(path, str(error)) from error
