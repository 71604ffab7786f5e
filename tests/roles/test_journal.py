"""What was jotted down outlasts a killed process, in order, once; the database sees the last of each value."""

import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.chain import RECEIPT_BUCKET, Chain, read_kept
from roles.core_effects import Put
from roles.durable import DurableWriter, StoreFailed
from roles.journal import NAMES, PUTS_MAX, VALUE_BYTES_MAX, Journal, JournalDamaged, get_settled, is_light, overlay

KEYS = st.sampled_from([b"a", b"b", b"c"])
PUTS = st.builds(Put, st.just("jobs"), KEYS, st.none() | st.binary(max_size=3))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["jot", "write", "unsynced", "secure", "sync", "take", "kill"]),
        st.lists(PUTS, min_size=1, max_size=3),
    ),
    max_size=20,
)


class Store:
    """A node's database and journal, as they are opened together."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.chain = Chain(directory / "node.db")
        restored = self.chain.start()
        self.journal = Journal(directory, get_settled(restored.kv))
        self.kv = overlay(restored.kv, self.journal.left)
        self.writer = DurableWriter(self.chain, self.journal, lambda data, digest: None)

    def close(self) -> None:
        self.journal.close()
        self.chain.close()


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_whatever_is_written_how_and_whenever_the_process_is_killed_the_last_of_each_value_is_kept(steps):
    with TemporaryDirectory() as name:
        directory = Path(name)
        store, wanted = Store(directory), {}
        for step, puts in [*steps, ("kill", [])]:
            match step:
                case "jot":
                    store.writer.jot(puts)
                case "write":
                    store.writer.write(puts)
                case "unsynced":
                    store.writer.write_unsynced(puts)
                case "secure":
                    store.writer.secure()
                case "sync":
                    store.writer.sync()
                case "take":  # killed while the database was at it
                    store.journal.take()
                case _:
                    pass
            if step in ("jot", "write", "unsynced"):
                wanted = overlay({"jobs": wanted}, puts)["jobs"]
            assert read_kept(directory / "node.db", "jobs") == wanted
            if step in ("kill", "take"):
                store.close()
                store = Store(directory)
                assert store.kv.get("jobs", {}) == wanted
        store.close()


class Disk:
    """What of a node's directory a power cut leaves: of each file what was synced, and no more."""

    def __init__(self, directory: Path, shadow: Path) -> None:
        self.directory, self.shadow = directory, shadow
        self.lengths = {name: (directory / name).stat().st_size for name in NAMES}  # what there is is on the disk
        shadow.mkdir()
        self.sync_database()

    def sync_database(self) -> None:
        for name in ("node.db", "node.db-wal"):
            shutil.copy(self.directory / name, self.shadow / name)

    def sync_file(self, handle: int) -> None:
        """In the place of `os.fdatasync`."""
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        self.lengths[path.name] = path.stat().st_size

    def shorten(self) -> None:
        """What was truncated is gone."""
        for name, length in self.lengths.items():
            self.lengths[name] = min(length, (self.directory / name).stat().st_size)

    def cut(self, target: Path) -> Path:
        """A directory with what is left."""
        shutil.copytree(self.shadow, target)
        for name, length in self.lengths.items():
            (target / name).write_bytes((self.directory / name).read_bytes()[:length])
        return target


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["jot", "jot", "write", "unsynced", "secure", "sync", "kill", "cut"]),
            st.lists(PUTS, min_size=1, max_size=3),
        ),
        max_size=20,
    )
)
@settings(max_examples=250, deadline=None)
def test_what_was_promised_to_be_on_the_disk_is_there_after_a_power_cut(steps):
    with TemporaryDirectory() as name:
        directory = Path(name) / "0"
        directory.mkdir()
        store, wanted, promised = Store(directory), {}, {}
        later = defaultdict(set)  # key -> what it has been since
        disk = Disk(directory, Path(name) / "shadow-0")
        for number, (step, puts) in enumerate([*steps, ("cut", [])]):
            was_unsynced = store.writer._is_unsynced
            match step:
                case "jot":
                    store.writer.jot(puts)
                case "unsynced":
                    store.writer.write_unsynced(puts)
                case "write":
                    store.writer.write(puts)
                case "secure":
                    with patch("os.fdatasync", disk.sync_file):
                        store.writer.secure()
                case "sync":
                    store.writer.sync()
                case "kill":
                    store.close()
                    store = Store(directory)
                    disk.sync_database()  # a start is counted on the disk, which then has more than was promised
                    with closing(Store(disk.cut(Path(name) / f"look-{number}"))) as left:
                        found = left.kv.get("jobs", {})
                    assert all(found.get(key) in {promised.get(key), *later[key]} for key in (b"a", b"b", b"c"))
                    promised = found
                case "cut":
                    store.close()
                    directory = disk.cut(Path(name) / f"left-{number}")
                    store = Store(directory)
                    assert store.kv.get("jobs", {}) == promised
                    wanted, disk = dict(promised), Disk(directory, Path(name) / f"shadow-{number + 1}")
            if step in ("jot", "write", "unsynced"):
                wanted = overlay({"jobs": wanted}, puts)["jobs"]
                for put in puts:
                    later[put.key].add(put.value)
            if step in ("write", "sync") or (step == "secure" and was_unsynced):
                disk.sync_database()
            if step in ("write", "sync", "secure", "cut"):
                promised = dict(wanted)
                later.clear()
            disk.shorten()
        store.close()


def test_after_the_disk_has_failed_once_nothing_is_written_any_more(tmp_path):
    with closing(Store(tmp_path)) as store:
        store.writer.jot([Put("jobs", b"a", b"1")])
        with patch("os.fdatasync", side_effect=OSError(5, "Input/output error")), pytest.raises(StoreFailed):
            store.writer.secure()

        for write in (store.writer.secure, store.writer.sync, lambda: store.writer.jot([Put("jobs", b"b", b"2")])):
            with pytest.raises(StoreFailed, match="Input/output"):
                write()


def test_values_that_changed_many_times_are_written_once(tmp_path):
    store = Store(tmp_path)
    for number in range(10):
        store.writer.jot([Put("jobs", b"a", b"%d" % number)])

    taken = store.journal.take()

    assert [(put.key, put.value) for put in taken.puts] == [(b"a", b"9")]
    assert taken.note.value == b"11"
    store.close()


def test_a_page_that_was_torn_is_left_out_and_what_comes_after_it_is_not(tmp_path):
    store = Store(tmp_path)
    store.writer.jot([Put("jobs", b"a", b"1")])
    store.writer.jot([Put("jobs", b"b", b"2")])
    store.close()
    path = tmp_path / NAMES[0]
    os.truncate(path, path.stat().st_size - 1)

    store = Store(tmp_path)
    assert store.kv["jobs"] == {b"a": b"1"}
    store.writer.jot([Put("jobs", b"c", b"3")])
    store.close()

    with closing(Store(tmp_path)) as store:
        assert store.kv["jobs"] == {b"a": b"1", b"c": b"3"}


def test_pages_the_database_has_are_not_brought_back_though_a_power_cut_may_show_them_again(tmp_path):
    store = Store(tmp_path)
    store.writer.jot([Put("jobs", b"a", b"old")])
    before = (tmp_path / NAMES[0]).read_bytes()
    store.writer.sync()
    store.writer.write([Put("jobs", b"a", b"new")])
    store.close()
    (tmp_path / NAMES[0]).write_bytes(before)

    with closing(Store(tmp_path)) as store:
        assert store.kv["jobs"] == {b"a": b"new"}


def test_a_whole_page_that_is_none_of_ours_stops_the_node(tmp_path):
    from roles import framed

    (tmp_path / NAMES[1]).write_bytes(framed.pack(b"RMJ1", b"\xc1"))

    with pytest.raises(JournalDamaged, match="journal-1 is damaged") as caught:
        Store(tmp_path)
    assert "move it away" in caught.value.hint


def test_a_receipt_is_there_at_once_for_whoever_reads_and_with_the_next_sync_for_the_node(tmp_path):
    with closing(Store(tmp_path)) as store:
        store.writer.jot([Put(RECEIPT_BUCKET, b"\xab", b"evidence")])
        assert read_kept(tmp_path / "node.db", RECEIPT_BUCKET) == {b"\xab": b"evidence"}

        store.writer.sync()

        assert store.chain.find_receipt(b"\xab") == b"evidence"
        assert read_kept(tmp_path / "node.db", RECEIPT_BUCKET) == {b"\xab": b"evidence"}
        store.writer.write(
            [Put(RECEIPT_BUCKET, b"\xab", b"evidence with more"), Put(RECEIPT_BUCKET, b"\xcd", b"other")]
        )
        store.writer.write([Put(RECEIPT_BUCKET, b"\xcd", None)])
        assert store.chain.find_receipt(b"\xab") == b"evidence with more"
        assert store.chain.find_receipt(b"\xcd") is None


@pytest.mark.parametrize("bucket", [RECEIPT_BUCKET, "jobs"])
def test_what_begins_so_is_read_alone_from_the_database_and_the_journal(tmp_path, bucket):
    with closing(Store(tmp_path)) as store:
        store.writer.write([Put(bucket, key, b"1") for key in (b"\xab\x11", b"\xab\x22", b"\xcd\xab")])
        store.writer.jot([Put(bucket, b"\xab\x11", b"2"), Put(bucket, b"\xce", b"3")])

        assert read_kept(tmp_path / "node.db", bucket, begins="ab") == {b"\xab\x11": b"2", b"\xab\x22": b"1"}
        assert read_kept(tmp_path / "node.db", bucket, begins="AB2") == {b"\xab\x22": b"1"}
        assert read_kept(tmp_path / "node.db", bucket, begins="c").keys() == {b"\xcd\xab", b"\xce"}
        assert len(read_kept(tmp_path / "node.db", bucket)) == 4


def test_receipts_are_not_read_into_memory_at_a_start(tmp_path):
    store = Store(tmp_path)
    store.writer.write([Put(RECEIPT_BUCKET, b"\xab", b"evidence"), Put("jobs", b"a", b"1")])
    store.close()

    with closing(Store(tmp_path)) as store:
        assert store.kv.keys() == {"jobs", "journal"}
        assert store.chain.find_receipt(b"\xab") == b"evidence"


def test_the_files_do_not_grow_beyond_what_is_not_settled(tmp_path):
    with closing(Store(tmp_path)) as store:
        for _ in range(5):
            store.writer.jot([Put("jobs", b"%d" % number, bytes(VALUE_BYTES_MAX)) for number in range(PUTS_MAX)])
            store.writer.sync()

        assert [(tmp_path / name).stat().st_size for name in NAMES] == [0, 0]


def test_what_is_too_large_is_not_light(tmp_path):
    assert is_light(Put("jobs", b"a", bytes(VALUE_BYTES_MAX)))
    assert is_light(Put("jobs", b"a", None))
    assert not is_light(Put("jobs", b"a", bytes(VALUE_BYTES_MAX + 1)))


def test_a_disk_that_takes_no_page_stops_the_node(tmp_path):
    store = Store(tmp_path)
    store.close()  # any append fails from now on

    with pytest.raises(StoreFailed):
        store.writer.jot([Put("jobs", b"a", b"1")])


_WRITER = """
import sys, threading
from pathlib import Path
from tests.roles.test_journal import Put, Store

store = Store(Path(sys.argv[1]))
done = int(store.kv.get("jobs", {}).get(b"last", b"0"))
def sync_forever():
    while True:
        store.writer.sync()
threading.Thread(target=sync_forever, daemon=True).start()
print("ready", flush=True)
for number in range(done + 1, 1_000_000):
    store.writer.jot([Put("jobs", b"last", b"%d" % number), Put("jobs", b"%d" % (number % 50), b"%d" % number)])
    print(number, flush=True)
"""


def test_nothing_acknowledged_is_lost_when_a_process_is_killed_while_another_thread_syncs(tmp_path):
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        for _ in range(300):
            acknowledged = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
        writer.wait(timeout=10)
        writer.stdout.close()

        with closing(Store(tmp_path)) as store:
            jobs = store.kv["jobs"]
            last = int(jobs[b"last"])
            assert last >= acknowledged
            assert all(int(jobs[b"%d" % (number % 50)]) == number for number in range(last - 49, last + 1))
