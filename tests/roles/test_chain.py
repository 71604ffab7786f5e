"""A node's database: what it has taken survives, what is damaged is said to be."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.codec import decode, encode
from protocol.errors import LocalError
from protocol.ledger.records import Account
from protocol.ledger.state import compute_state_root
from protocol.ledger.transactions import Transfer
from protocol.messages import CertifiedBlock
from roles import chain as chain_module
from roles.chain import Chain, DatabaseDamaged, ForeignDatabase, ForeignSchema, copy_ledger, open_stored, read_height
from roles.core_effects import Commit, Put
from tests.support.ledgers import Ledger


def make_commits(count: int, ledger: Ledger | None = None) -> list[Commit]:
    ledger = ledger or Ledger()
    for number in range(count):
        ledger.do(ledger.spare(number % 8), Transfer(bytes([number % 256]) * 32, 1 + number))
    return [Commit(block, certificate, state) for block, certificate, state in ledger.blocks]


def fill(path: Path, count: int = 3) -> list[Commit]:
    commits = make_commits(count)
    chain = Chain(path)
    chain.start()
    chain.write(commits)
    chain.close()
    return commits


def test_a_fresh_database_begins_at_genesis_and_counts_starts(tmp_path: Path) -> None:
    for boot in (1, 2, 3):
        chain = Chain(tmp_path / "node.db")
        restored = chain.start()
        assert (restored.boot, restored.state, restored.kv) == (boot, None, {})
        assert restored.blocks(1) is None
        chain.close()


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    commits = make_commits(5)
    chain = Chain(path)
    chain.start()
    chain.write([commits[0], Put("jobs", b"a", b"1"), Put("jobs", b"b", b"2"), commits[1]])
    chain.write([*commits[2:], Put("jobs", b"a", None), Put("vouchers", b"b", b"3"), Put("jobs", b"b", b"4")])
    chain.close()
    again = Chain(path)
    restored = again.start()
    assert restored.state == commits[-1].state
    assert restored.kv == {"jobs": {b"b": b"4"}, "vouchers": {b"b": b"3"}}
    assert restored.blocks(3) == CertifiedBlock(commits[2].block, commits[2].certificate)
    assert restored.blocks(6) is None
    again.close()


def test_a_batch_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    commits = make_commits(3)
    chain = Chain(tmp_path / "node.db")
    chain.start()
    with pytest.raises(LocalError, match="block 3 with a state of 3 cannot follow block 1"):
        chain.write([Put("jobs", b"a", b"1"), commits[0], commits[2]])
    with pytest.raises(LocalError):
        chain.write([commits[1]])
    chain.close()
    restored = Chain(tmp_path / "node.db").start()
    assert (restored.state, restored.kv) == (None, {})


def test_blocks_can_be_read_while_others_are_written(tmp_path: Path) -> None:
    commits = make_commits(2)
    chain = Chain(tmp_path / "node.db")
    chain.start()
    assert read_height(tmp_path / "node.db") == 0
    for height, commit in enumerate(commits, 1):
        chain.write([commit])
        assert read_height(tmp_path / "node.db") == height
        assert chain.read_block(height) == CertifiedBlock(commit.block, commit.certificate)
    chain.close()


def test_durability_is_not_traded_for_speed(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "node.db")
    assert chain._writer.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert chain._writer.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    chain.close()


def test_what_may_wait_for_the_disk_is_there_at_once_and_what_comes_after_is_synced_as_ever(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "node.db")
    chain.write([Put("jobs", b"one", b"1")], is_synced=False)
    assert chain._writer.execute("PRAGMA synchronous").fetchone()[0] == 1  # NORMAL
    with closing(sqlite3.connect(tmp_path / "node.db")) as another:
        assert another.execute("SELECT value FROM kv").fetchall() == [(b"1",)]
    chain.write([Put("jobs", b"two", b"2")])
    assert chain._writer.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    chain.close()


def test_the_log_of_writes_is_folded_into_the_database_beside_the_writers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("roles.chain.WAL_BYTES", 100_000)
    chain = Chain(tmp_path / "node.db")
    sizes = []
    for number in range(200):
        chain.write([Put("jobs", b"%d" % number, bytes(2_000))])
        sizes.append((tmp_path / "node.db-wal").stat().st_size)
    assert max(sizes) < 300_000
    assert (tmp_path / "node.db").stat().st_size > 300_000
    chain.close()


def test_a_database_of_another_chain_schema_or_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    commits = fill(path)
    Chain(path, commits[0].block.header.chain).close()
    with pytest.raises(ForeignDatabase, match="it holds chain"):
        Chain(path, b"another1")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    for refusing in (lambda: Chain(path), lambda: open_stored(path).__enter__()):
        with pytest.raises(ForeignSchema, match="version 99") as caught:
            refusing()
        assert "ledger restore" in caught.value.hint
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    with pytest.raises(ForeignDatabase, match="not a node's database"):
        Chain(other)


def _run(statement: str, *values: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        connection = sqlite3.connect(path)
        assert connection.execute(statement, values).rowcount
        connection.commit()
        connection.close()

    return damage


def _overwrite(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    path.write_bytes(b"\xff" * 4_096)


def _change_balance(path: Path) -> None:
    """One grain more for somebody."""
    connection = sqlite3.connect(path)
    where = "WHERE name = 'accounts' AND key = ?"
    (record,) = connection.execute(f"SELECT record FROM entries {where}", (bytes([2]) * 32,)).fetchone()
    account = decode(Account, record)
    changed = encode(replace(account, balance=account.balance + 1))
    assert connection.execute(f"UPDATE entries SET record = ? {where}", (changed, bytes([2]) * 32)).rowcount == 1
    connection.commit()
    connection.close()


def _retype(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute("UPDATE state SET frame = 5")
    connection.commit()
    connection.close()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "not a database": _overwrite,
    "the last block is gone": _run("DELETE FROM blocks WHERE height = 3"),
    "a block in between is gone": _run("DELETE FROM blocks WHERE height = 2"),
    "the state is gone": _run("DELETE FROM state"),
    "the state is of another height": _run("UPDATE state SET height = 2"),
    "the state is cut short": _run("UPDATE state SET frame = substr(frame, 1, 100)"),
    "an entry is gone": _run("DELETE FROM entries WHERE name = 'models'"),
    "an entry is of no table": _run("UPDATE entries SET name = 'songs' WHERE name = 'models'"),
    "an entry's key is cut short": _run(
        "UPDATE entries SET key = x'00' WHERE key = (SELECT max(key) FROM entries WHERE name = 'nodes')"
    ),
    "an entry is junk": _run("UPDATE entries SET record = x'c0' WHERE name = 'models'"),
    "a balance is changed": _change_balance,
    "a value has another type": _retype,
    "the last block is junk": _run("UPDATE blocks SET block = x'00' WHERE height = 3"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_said_with_a_way_out_and_nothing_is_mended_in_silence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "node.db"
    fill(path)
    DAMAGES[name](path)
    with pytest.raises(DatabaseDamaged) as caught:
        Chain(path).start()
    assert "is damaged" in caught.value.message
    assert "untouched copy" in caught.value.hint


def test_reading_a_stored_chain_changes_nothing_and_sees_one_moment(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    commits = make_commits(3)
    chain = Chain(path)
    chain.start()
    chain.write(commits[:2])
    with open_stored(path) as (rows, state):
        chain.write(commits[2:])
        assert [row.height for row in rows] == [1, 2]
        assert state is not None
    chain.close()
    with pytest.raises(ForeignDatabase), open_stored(_make_empty(tmp_path)):
        pass


def _make_empty(folder: Path) -> Path:
    path = folder / "empty.db"
    sqlite3.connect(path).close()
    return path


_WRITER = """
import sys
from pathlib import Path
from roles.chain import Chain
from roles.core_effects import Put
from tests.roles.test_chain import make_commits

commits = make_commits(120)
chain = Chain(Path(sys.argv[1]))
restored = chain.start()
done = 0 if restored.state is None else restored.state.height
print("ready", flush=True)
for commit in commits[done:]:
    height = commit.state.height
    chain.write([commit, Put("kept", b"height", b"%d" % height)])
    print(height, flush=True)  # acknowledged: must survive
"""


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    roots = {commit.state.height: compute_state_root(commit.state) for commit in make_commits(120)}
    acknowledged = 0
    for kill in range(1, 4):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        for _ in range(10 * kill):
            acknowledged = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
        writer.wait(timeout=10)
        writer.stdout.close()
        chain = Chain(path)
        restored = chain.start()
        chain.close()
        assert restored.state is not None
        assert restored.state.height >= acknowledged
        assert restored.boot == 2 * kill
        assert compute_state_root(restored.state) == roots[restored.state.height]
        assert restored.kv == {"kept": {b"height": b"%d" % restored.state.height}}


def test_old_blocks_are_pruned_a_few_at_a_time_and_the_rest_is_whole(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(chain_module, "PRUNE_STEP", 2)
    path, commits = tmp_path / "node.db", make_commits(20)
    everything = Chain(path)
    everything.start()
    everything.write(commits[:16])
    everything.close()

    pruning = Chain(path, keep_blocks=5)
    pruning.start()
    kept = []
    for commit in commits[16:]:
        pruning.write([commit])
        height = commit.state.height
        kept.append([number for number in range(1, height + 1) if pruning.read_block(number)])
    pruning.close()

    # Eight at a time until it has caught up, then nothing before another step has gathered.
    assert [numbers[0] for numbers in kept] == [9, 14, 14, 16]
    assert all(numbers == list(range(numbers[0], numbers[-1] + 1)) for numbers in kept)
    assert all(len(numbers) >= 5 for numbers in kept)
    again = Chain(path)
    assert again.start().state == commits[-1].state
    again.close()


def test_a_block_missing_from_a_pruned_chain_is_damage_all_the_same(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(chain_module, "PRUNE_STEP", 1)
    path = tmp_path / "node.db"
    chain = Chain(path, keep_blocks=4)
    chain.start()
    chain.write(make_commits(8))
    chain.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT min(height) FROM blocks").fetchone() == (5,)
        connection.execute("DELETE FROM blocks WHERE height = 5")

    with pytest.raises(DatabaseDamaged, match="3 blocks up to height 8, 4 of them pruned"):
        Chain(path).start()


def test_a_copy_holds_the_ledger_and_nothing_of_its_nodes_own(tmp_path: Path) -> None:
    path, commits = tmp_path / "node.db", make_commits(4)
    running = Chain(path)
    running.start()
    running.write([*commits[:3], Put("vouchers", b"secret key", b"secret value")])

    told = copy_ledger(path, tmp_path / "copy", boot=41)
    running.write([commits[3]])
    running.close()

    assert told == (commits[0].block.header.chain, 1, 3)
    assert b"secret" not in (tmp_path / "copy").read_bytes()
    copy = Chain(tmp_path / "copy", told[0])
    restored = copy.start()
    copy.close()
    assert restored.state == commits[2].state
    assert (restored.boot, restored.kv) == (42, {})
    with pytest.raises(FileExistsError):
        copy_ledger(path, tmp_path / "copy", boot=0)


_FILLER = """
import resource, sqlite3, sys
from pathlib import Path
from roles.chain import Chain
from roles.core_effects import Put
from tests.roles.test_chain import make_commits

path, room = Path(sys.argv[1]), int(sys.argv[2])
commits = make_commits(60)
chain = Chain(path)
restored = chain.start()
done = 0 if restored.state is None else restored.state.height
if room:
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
print("ready", flush=True)
for commit in commits[done:]:
    try:
        chain.write([commit, Put("kept", b"%d" % commit.state.height, bytes(20_000))])
    except sqlite3.Error as error:
        sys.exit(f"full: {error}")
    print(commit.state.height, flush=True)
"""


def test_a_full_disk_loses_nothing_and_the_node_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    roots = {commit.state.height: compute_state_root(commit.state) for commit in make_commits(60)}

    def run(room: int) -> tuple[int, list[str], str]:
        command = [sys.executable, "-c", _FILLER, str(path), str(room)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout.split()[1:], done.stderr

    last = 0
    for room in (400_000, 700_000):
        code, acknowledged, error = run(room)
        assert code == 1, error
        assert "full: " in error
        assert len(acknowledged) > 2
        last = int(acknowledged[-1])
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            kept = connection.execute("SELECT count(*) FROM kv").fetchone()[0]
        chain = Chain(path)
        state = chain.start().state
        chain.close()
        assert state is not None
        assert state.height == kept >= last
        assert compute_state_root(state) == roots[state.height]
    code, acknowledged, error = run(0)

    assert (code, acknowledged[-1]) == (0, "60"), error
