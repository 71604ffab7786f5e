"""Who runs on a data directory, and what its status is worth."""

import os
import signal
import subprocess
import sys

import pytest

from roles.config import EXIT_CONFIG, ConfigError
from roles.lock import DirectoryLock, is_locked
from roles.status import Liveness, get_rss_bytes, read_status, write_status

HOLD = "import sys, pathlib; from roles.lock import DirectoryLock; lock = DirectoryLock(pathlib.Path(sys.argv[1])); "
HOLD += "print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path, holder):
    with pytest.raises(ConfigError, match=f"in use.*{holder.pid}") as caught:
        DirectoryLock(tmp_path)

    assert caught.value.exit_code == EXIT_CONFIG
    assert caught.value.hint


def test_a_killed_holder_blocks_nobody(tmp_path, holder):
    assert is_locked(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()

    assert not is_locked(tmp_path)
    DirectoryLock(tmp_path).close()


def test_a_lock_let_go_can_be_taken_again(tmp_path):
    with DirectoryLock(tmp_path):
        assert is_locked(tmp_path)
    with DirectoryLock(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"

    assert not is_locked(tmp_path)


def test_a_directory_that_is_not_there_is_no_node(tmp_path):
    with pytest.raises(ConfigError, match="cannot be used"):
        DirectoryLock(tmp_path / "missing")

    assert not is_locked(tmp_path / "missing")
    assert read_status(tmp_path / "missing").liveness is Liveness.STOPPED


def test_status_of_a_node_that_runs(tmp_path, holder):
    write_status(tmp_path, {"state": "serving", "height": 3})

    status = read_status(tmp_path)

    assert (status.liveness, status.fields["height"]) == (Liveness.RUNNING, 3)


def test_status_of_a_node_that_was_killed_is_stale(tmp_path):
    write_status(tmp_path, {"state": "serving"})

    assert read_status(tmp_path).liveness is Liveness.STALE


def test_status_of_a_node_that_left_is_stopped(tmp_path):
    write_status(tmp_path, {"state": "stopped"})

    assert read_status(tmp_path).liveness is Liveness.STOPPED


def test_a_damaged_status_is_no_status(tmp_path):
    (tmp_path / "status.json").write_bytes(b'{"state": "ser')

    assert read_status(tmp_path).fields == {}


def test_memory_of_this_process_is_known():
    assert get_rss_bytes() > 1_000_000
