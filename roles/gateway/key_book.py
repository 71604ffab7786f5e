"""Where keys and what they have spent are kept: `gateway.db` in the data directory of the client that pays.

What a request may cost is reserved in here before the request leaves, in one transaction with the check of the limits:
a process that is killed at any moment has spent no more. The gateway and commands use it at the same time.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roles.config import ConfigError
from roles.gateway.faults import Fault
from roles.gateway.keys import KeyState, KeyTerms, NewKey, compute_hold, find_window, verify_terms

BOOK_NAME = "gateway.db"
APPLICATION_ID = 0x524D474B  # "RMGK"
SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 5.0
KEYS_MAX = 1_000
HOLDS_MAX = 1_024  # of requests that have not ended, or whose workers may still claim: fewer than a client remembers
_SCHEMA = (
    "CREATE TABLE keys (id TEXT PRIMARY KEY, label TEXT NOT NULL UNIQUE, digest BLOB NOT NULL,"
    " made_ms INTEGER NOT NULL, revoked_ms INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL,"
    " window_total INTEGER NOT NULL, window_ms INTEGER NOT NULL, fee_max INTEGER NOT NULL,"
    " expires_ms INTEGER NOT NULL, models TEXT NOT NULL, requests INTEGER NOT NULL DEFAULT 0,"
    " spent INTEGER NOT NULL DEFAULT 0, held INTEGER NOT NULL DEFAULT 0) STRICT",
    "CREATE TABLE windows (key TEXT NOT NULL, start_ms INTEGER NOT NULL, spent INTEGER NOT NULL DEFAULT 0,"
    " held INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (key, start_ms)) STRICT",
    "CREATE TABLE holds (id BLOB PRIMARY KEY, key TEXT NOT NULL, start_ms INTEGER NOT NULL, amount INTEGER NOT NULL,"
    " owed INTEGER NOT NULL DEFAULT 0) STRICT",
)
_COLUMNS = "id, label, digest, made_ms, revoked_ms, total, window_total, window_ms, fee_max, expires_ms, models"


class NoSuchKey(ConfigError):
    """There is no key of this label or id."""


@dataclass(frozen=True)
class Hold:
    """What is reserved for one request: `amount` grains. `id` is the request's nonce.

    `owed` is what it was known to cost when it was last looked at.
    """

    id: bytes
    key: str
    amount: int
    owed: int = 0

    @property
    def spend_max(self) -> int:
        """What all vouchers of the request may be worth together; 0, which is no limit, where nothing is reserved."""
        return self.amount if self.id else 0


class KeyBook:
    """The open database. With `is_synced` every change is on disk when it returns, else it survives a kill only.

    Raises ConfigError for a file that is none of ours.
    """

    def __init__(self, directory: Path, is_synced: bool = True) -> None:
        self._path = directory / BOOK_NAME
        self._lock = threading.Lock()
        self._writer = self._connect(is_synced)
        try:
            self._prepare()
            self._reader = self._connect(is_synced)  # is never held up by what is written
        except BaseException:
            self._writer.close()
            raise

    def add(self, key: NewKey, terms: KeyTerms, now_ms: int) -> None:
        """Keep a new key. Raises ValueError for its terms, ConfigError for a label that is taken."""
        verify_terms(terms)
        with self._changing():
            if self._writer.execute("SELECT count(*) FROM keys").fetchone()[0] >= KEYS_MAX:
                raise ConfigError(f"there are {KEYS_MAX} keys", "use the keys there are, or another data directory")
            if self._writer.execute("SELECT 1 FROM keys WHERE label = ?", (terms.label,)).fetchone():
                hint = "choose another label: what a key has spent stays under its own, even when it is revoked"
                raise ConfigError(f"there is a key {terms.label!r}", hint)
            limits = (terms.limit, terms.window_limit, terms.window_ms, terms.fee_max, terms.expires_ms)
            row = (key.id, terms.label, key.digest, now_ms, 0, *limits, json.dumps(terms.models))
            self._writer.execute(f"INSERT INTO keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def revoke(self, wanted: str, now_ms: int) -> KeyState:
        """Take a key back, by label or id; what is under way with it goes on. Raises NoSuchKey."""
        with self._changing():
            row = self._writer.execute("SELECT id FROM keys WHERE label = ?1 OR id = ?1", (wanted,)).fetchone()
            if row is None:
                raise NoSuchKey(f"there is no key {wanted!r}", "`rolemesh gateway key ls` shows those there are")
            self._writer.execute("UPDATE keys SET revoked_ms = ? WHERE id = ? AND revoked_ms = 0", (now_ms, row[0]))
            state = self._read(self._writer, row[0], now_ms)
        assert state is not None
        return state

    def find(self, key_id: str, now_ms: int) -> KeyState | None:
        """A key by its id, with what it has spent up to now."""
        return self._read(self._reader, key_id, now_ms)

    def list_all(self, now_ms: int) -> list[KeyState]:
        """All keys, by label."""
        ids = [row[0] for row in self._reader.execute("SELECT id FROM keys ORDER BY label")]
        found = (self.find(key_id, now_ms) for key_id in ids)
        return [state for state in found if state is not None]

    def reserve(self, key_id: str, hold_id: bytes, wanted: int, now_ms: int) -> tuple[Hold, KeyState]:
        """Reserve what a request may cost, and the key as it was before. Raises Fault 402 or 429 as `compute_hold`."""
        with self._changing():
            state = self._read(self._writer, key_id, now_ms)
            assert state is not None, "a key is never deleted"
            if self._writer.execute("SELECT count(*) FROM holds").fetchone()[0] >= HOLDS_MAX:
                raise Fault(429, "capacity", f"{HOLDS_MAX} requests have not been settled yet")
            amount = compute_hold(state, wanted, now_ms)
            start_ms = state.window_start_ms
            self._writer.execute("INSERT INTO holds VALUES (?, ?, ?, ?, 0)", (hold_id, key_id, start_ms, amount))
            change = "UPDATE keys SET held = held + ?, requests = requests + 1 WHERE id = ?"
            self._writer.execute(change, (amount, key_id))
            self._writer.execute("DELETE FROM windows WHERE key = ? AND start_ms < ? AND held = 0", (key_id, start_ms))
            change = "ON CONFLICT DO UPDATE SET held = held + excluded.held"
            self._writer.execute(f"INSERT INTO windows VALUES (?, ?, 0, ?) {change}", (key_id, start_ms, amount))
        return Hold(hold_id, key_id, amount), state

    def note(self, hold: Hold, owed: int) -> None:
        """What a request costs if its workers say no more."""
        with self._changing():
            self._writer.execute("UPDATE holds SET owed = ? WHERE id = ?", (owed, hold.id))

    def settle(self, hold: Hold, spent: int) -> None:
        """The request is over and has cost so much; the rest is given back. Once: a second time changes nothing."""
        with self._changing():
            row = self._writer.execute("DELETE FROM holds WHERE id = ? RETURNING key, start_ms, amount", (hold.id,))
            found = row.fetchone()
            if found is None:
                return
            key_id, start_ms, amount = found
            change = "SET held = held - ?, spent = spent + ?"
            self._writer.execute(f"UPDATE keys {change} WHERE id = ?", (amount, spent, key_id))
            self._writer.execute(
                f"UPDATE windows {change} WHERE key = ? AND start_ms = ?", (amount, spent, key_id, start_ms)
            )

    def list_holds(self) -> list[Hold]:
        """All that was reserved and not settled."""
        return [Hold(*row) for row in self._reader.execute("SELECT id, key, amount, owed FROM holds")]

    def close(self) -> None:
        with self._lock:
            self._reader.close()
            self._writer.close()

    def _read(self, connection: sqlite3.Connection, key_id: str, now_ms: int) -> KeyState | None:
        query = f"SELECT {_COLUMNS}, requests, spent, held FROM keys WHERE id = ?"
        row = connection.execute(query, (key_id,)).fetchone()
        if row is None:
            return None
        _, label, digest, made_ms, revoked_ms, limit, window_limit, window_ms, fee_max, expires_ms, models = row[:11]
        terms = KeyTerms(label, limit, window_limit, window_ms, fee_max, expires_ms, tuple(json.loads(models)))
        start_ms = find_window(terms, now_ms)
        query = "SELECT spent, held FROM windows WHERE key = ? AND start_ms = ?"
        window = connection.execute(query, (key_id, start_ms)).fetchone() or (0, 0)
        requests, spent, held = row[11:]
        return KeyState(key_id, digest, terms, made_ms, revoked_ms, requests, spent, held, start_ms, *window)

    def _connect(self, is_synced: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_synced else 'NORMAL'}")
        except sqlite3.DatabaseError as error:
            connection.close()
            raise ConfigError(f"{self._path} cannot be used: {error}", "put back an untouched copy") from error
        return connection

    def _prepare(self) -> None:
        with self._changing():
            application = self._get_pragma("application_id")
            version = self._get_pragma("user_version")
            if (application, version) == (APPLICATION_ID, SCHEMA_VERSION):
                return
            if application or self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                hint = "use the rolemesh that made it, or another data directory"
                raise ConfigError(f"{self._path} holds no keys that this program can read", hint)
            self._path.chmod(0o600)
            for statement in _SCHEMA:
                self._writer.execute(statement)
            self._writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _get_pragma(self, name: str) -> Any:
        return self._writer.execute(f"PRAGMA {name}").fetchone()[0]

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One transaction."""
        with self._lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
