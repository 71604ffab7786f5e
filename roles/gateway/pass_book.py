"""What passes to an app were used for here: `app_uses.db` in the data directory of the client that serves it.

A request is counted before it leaves: a process that is killed at any moment has let through no more than a pass
allows. What the machine loses with its power may be used again.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protocol.codec import decode, encode
from protocol.ledger.apps import LATE_MS, ReportedUse, ReportUse
from protocol.proofs.pass_file import Right
from roles.config import ConfigError

BOOK_NAME = "app_uses.db"
APPLICATION_ID = 0x524D4155  # "RMAU"
SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 5.0
USES_MAX = 200_000  # of passes, periods and models at a time
UNSENT_MAX = 1_024  # of them looked at for one report
_SCHEMA = (
    # `held` requests have not ended; of the `done` ones `sent` were reported, or never will be.
    "CREATE TABLE uses (app TEXT NOT NULL, holder BLOB NOT NULL, since_ms INTEGER NOT NULL, period INTEGER NOT NULL,"
    " model BLOB NOT NULL, ends_ms INTEGER NOT NULL, held INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0,"
    " fees INTEGER NOT NULL DEFAULT 0, sent INTEGER NOT NULL DEFAULT 0, fees_sent INTEGER NOT NULL DEFAULT 0,"
    " PRIMARY KEY (app, holder, since_ms, period, model)) STRICT",
    "CREATE TABLE reports (app TEXT PRIMARY KEY, height INTEGER NOT NULL, body BLOB NOT NULL) STRICT",
)
_PERIOD = "app = ? AND holder = ? AND since_ms = ? AND period = ?"
_USE = f"{_PERIOD} AND model = ?"


class BookFull(Exception):
    """There is no room for another pass, period or model."""


@dataclass(frozen=True)
class Sent:
    """A report on its way to the ledger, which had `height` blocks when it left."""

    height: int
    body: ReportUse


class PassBook:
    """The open database, for one app. Whatever was under way when it was last open counts as used.

    Raises ConfigError for a file that is none of ours.
    """

    def __init__(self, directory: Path, app: str) -> None:
        self._path = directory / BOOK_NAME
        self._app = app
        self._lock = threading.Lock()
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError as error:
            hint = "put back an untouched copy; without the file, what was not reported yet can be used again"
            raise ConfigError(f"{self._path} cannot be used: {error}", hint) from error

    def take(self, right: Right, model: bytes, counted: int) -> bool:
        """Count one more request, unless the pass is used up. `counted` is what the ledger has of the period.

        Of those, what was not sent from here was used elsewhere. Raises BookFull.
        """
        with self._changing() as connection:
            query = f"SELECT coalesce(sum(held + done), 0), coalesce(sum(sent), 0) FROM uses WHERE {_PERIOD}"
            used, sent = connection.execute(query, self._key(right)).fetchone()
            if used + max(0, counted - sent) >= right.quota:
                return False
            if connection.execute(f"UPDATE uses SET held = held + 1 WHERE {_USE}", self._key(right, model)).rowcount:
                return True
            if connection.execute("SELECT count(*) FROM uses").fetchone()[0] >= USES_MAX:
                raise BookFull(f"{USES_MAX} uses of passes have not been reported or forgotten yet")
            columns = "(app, holder, since_ms, period, model, ends_ms, held)"
            row = (*self._key(right, model), right.ends_ms)
            connection.execute(f"INSERT INTO uses {columns} VALUES (?, ?, ?, ?, ?, ?, 1)", row)
        return True

    def finish(self, right: Right, model: bytes, fee: int) -> None:
        """A request that was counted has ended, and has cost `fee` grains."""
        change = "held = held - 1, done = done + 1, fees = fees + ?"
        with self._changing() as connection:
            connection.execute(f"UPDATE uses SET {change} WHERE {_USE}", (fee, *self._key(right, model)))

    def give_back(self, right: Right, model: bytes) -> None:
        """A request that was counted has come to nothing."""
        with self._changing() as connection:
            connection.execute(f"UPDATE uses SET held = held - 1 WHERE {_USE}", self._key(right, model))

    def list_unsent(self) -> tuple[ReportedUse, ...]:
        """What is over and was not reported, older periods of a pass first; the first UNSENT_MAX of it."""
        columns = "holder, since_ms, period, model, done - sent, fees - fees_sent"
        order = "ORDER BY holder, since_ms, period, model LIMIT ?"
        query = f"SELECT {columns} FROM uses WHERE app = ? AND done > sent {order}"
        with self._lock:
            return tuple(ReportedUse(*row) for row in self._connection.execute(query, (self._app, UNSENT_MAX)))

    def begin_report(self, sent: Sent) -> None:
        """Note a report that is about to leave; there is one at a time."""
        with self._changing() as connection:
            connection.execute("INSERT INTO reports VALUES (?, ?, ?)", (self._app, sent.height, encode(sent.body)))
            self._move(connection, sent.body.items, 1)

    def get_report(self) -> Sent | None:
        """The report that has left and of which it is not known whether the ledger has it."""
        with self._lock:
            query = "SELECT height, body FROM reports WHERE app = ?"
            row = self._connection.execute(query, (self._app,)).fetchone()
        return None if row is None else Sent(row[0], decode(ReportUse, row[1]))

    def end_report(self, sent: Sent, is_counted: bool) -> None:
        """The ledger has the report; or never will, and what it says is to be reported anew."""
        with self._changing() as connection:
            connection.execute("DELETE FROM reports WHERE app = ?", (self._app,))
            if not is_counted:
                self._move(connection, sent.body.items, -1)

    def give_up(self, items: Sequence[ReportedUse]) -> None:
        """Never report these: the ledger would not count them."""
        with self._changing() as connection:
            self._move(connection, items, 1)

    def forget(self, now_ms: int) -> None:
        """Drop what is over, reported, and too old to be used or reported on."""
        with self._changing() as connection:
            old = "held = 0 AND done = sent AND ends_ms < ?"
            connection.execute(f"DELETE FROM uses WHERE app = ? AND {old}", (self._app, now_ms - LATE_MS))

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _move(self, connection: sqlite3.Connection, items: Sequence[ReportedUse], sign: int) -> None:
        change = f"UPDATE uses SET sent = sent + ?, fees_sent = fees_sent + ? WHERE {_USE}"
        for item in items:
            key = (self._app, item.holder, item.since_ms, item.period, item.model)
            connection.execute(change, (sign * item.requests, sign * item.fees, *key))

    def _key(self, right: Right, *more: bytes) -> tuple[object, ...]:
        return (self._app, right.holder, right.since_ms, right.period, *more)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            self._prepare(connection)
            connection.execute("UPDATE uses SET done = done + held, held = 0 WHERE held > 0")
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        application, version = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if (application, version) == (APPLICATION_ID, SCHEMA_VERSION):
            return
        if application or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            hint = "use the rolemesh that made it, or another data directory"
            raise ConfigError(f"{self._path} holds no uses that this program can read", hint)
        self._path.chmod(0o600)
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
