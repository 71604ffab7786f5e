"""What is pinned is never collected, whoever puts, pins and collects at once; what is not goes."""

import io
import os
import sqlite3
import threading

import pytest

from protocol.cid import RAW, Cid
from protocol.errors import MissingBlob
from roles.store import index as index_module
from roles.store.checking import check
from roles.store.collecting import collect
from roles.store.errors import Damaged, IndexDamaged, NotKept, PutExpired
from roles.store.exporting import export
from roles.store.importing import import_path, import_stream
from tests.roles.store.parts import block_files, make_tree, open_store, read_tree


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path) as store:
        yield store


@pytest.fixture
def clock(monkeypatch):
    """Time that a test sets, in ms."""

    class Clock:
        now_ms = 1_000_000

    found = Clock()
    for module in ("store", "importing", "collecting"):
        monkeypatch.setattr(f"roles.store.{module}.get_now_ms", lambda: found.now_ms)
    return found


def put(store, data, **how):
    return import_stream(store, io.BytesIO(data), **how).root.cid


def test_what_is_unpinned_goes_and_what_something_else_needs_stays(store, tmp_path):
    contents = make_tree(tmp_path / "in")
    folder = import_path(store, tmp_path / "in").root.cid
    shared = put(store, contents["sub/more"])

    assert collect(store) == (0, 0, 0)
    store.unpin(folder)
    collected = collect(store)

    assert collected.blocks > 5
    assert check(store).damaged == ()
    assert [pin.cid for pin in store.get_pins()] == [shared]
    assert len(block_files(tmp_path)) == 3
    assert store.index.get_used_bytes() == sum(path.stat().st_size for path in block_files(tmp_path))
    with pytest.raises(MissingBlob):
        store.read(folder)
    with pytest.raises(NotKept):
        store.unpin(folder)


def test_a_pin_ends_when_it_was_said_to(store, tmp_path, clock):
    put(store, b"for an hour", expires_ms=clock.now_ms + 3_600_000)

    clock.now_ms += 3_599_999
    assert collect(store).blocks == 0
    assert len(store.get_pins()) == 1
    clock.now_ms += 1
    assert store.get_pins() == []
    assert collect(store).blocks == 1


def test_what_was_put_without_a_pin_has_an_hour_of_grace(store, tmp_path, clock):
    cid = put(store, b"data", is_pinned=False)

    clock.now_ms += index_module.PUT_ALIVE_MS - 1
    assert collect(store).blocks == 0
    store.pin(cid, "in time")
    clock.now_ms += 10**9
    assert collect(store).blocks == 0
    store.unpin(cid)
    assert collect(store).blocks == 1
    with pytest.raises(MissingBlob):
        store.pin(cid)


def test_what_is_not_whole_is_not_pinned(store, tmp_path):
    make_tree(tmp_path / "in")
    root = import_path(store, tmp_path / "in", is_pinned=False).root.cid
    leaf = next(path for path in block_files(tmp_path) if path.stat().st_size == 2**20)
    leaf.unlink()

    with pytest.raises(Damaged, match="1 of its blocks"):
        store.pin(root)


def test_a_put_that_slept_too_long_is_told_rather_than_believed(store, tmp_path, clock):
    def sleep(content_bytes):
        if content_bytes > 10 * 2**20:
            clock.now_ms += index_module.PUT_ALIVE_MS
            collect(store)

    with pytest.raises(PutExpired):
        import_stream(store, io.BytesIO(os.urandom(20 * 2**20)), tell=sleep)

    collect(store)
    assert block_files(tmp_path) == []


def test_files_that_no_index_knows_are_swept_and_those_of_a_living_put_are_not(store, tmp_path, clock):
    stray = tmp_path / "store" / "ab" / ("ab" * 32)
    stray.write_bytes(b"of a put that was collected while its process was stopped")
    (tmp_path / "store" / "ab" / "notes.txt").write_bytes(b"mine")
    living = store.index.begin_put(clock.now_ms)
    (tmp_path / "store" / "tmp" / f"{living}-1-1").write_bytes(b"half")
    (tmp_path / "store" / "tmp" / "999-1-1").write_bytes(b"half")

    collected = collect(store)

    assert collected.strays == 2
    assert not stray.exists()
    assert (tmp_path / "store" / "ab" / "notes.txt").exists()
    assert [path.name for path in (tmp_path / "store" / "tmp").iterdir()] == [f"{living}-1-1"]


def test_collections_beside_puts_of_the_same_blocks_take_nothing_that_is_acknowledged(store, tmp_path):
    # Two handles on one store, as two processes have; the same few files are put, unpinned and collected over and over.
    other = open_store(tmp_path)
    contents = [os.urandom(2**20 + number) for number in range(3)]
    failures = []
    done = threading.Event()

    def put_for_ever():
        try:
            for round_number in range(25):
                data = contents[round_number % 3]
                cid = put(store, data)
                out = tmp_path / f"out-{round_number}"
                export(store, cid, out)
                assert out.read_bytes() == data
                if round_number % 2:
                    store.unpin(cid)
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    def collect_for_ever():
        try:
            while not done.is_set():
                collect(other)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=put_for_ever), threading.Thread(target=collect_for_ever)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert check(store).damaged == ()
    collect(store)
    assert store.index.get_used_bytes() == sum(path.stat().st_size for path in block_files(tmp_path))
    other.close()


def test_what_was_left_to_be_collected_is_safe_once_a_put_that_goes_on_counts_on_it(store, tmp_path):
    data = os.urandom(24 * 2**20)
    store.unpin(put(store, data))

    def collect_late(content_bytes):
        # Most is in the index by now, and was there before: nothing of it is written again.
        if content_bytes == len(data):
            collect(store)

    cid = import_stream(store, io.BytesIO(data), tell=collect_late).root.cid

    assert check(store, cid).damaged == ()
    assert check(store, cid).blocks == 25


def test_a_pin_that_comes_while_a_collection_goes_on_is_seen(store, tmp_path, monkeypatch):
    monkeypatch.setattr("roles.store.collecting.TURN_BLOCKS", 1)
    first, second = put(store, b"first"), put(store, b"second")
    for cid in (first, second):
        store.unpin(cid)
    real = store.files.remove
    removed = []

    def remove_and_pin(digest):
        real(digest)
        removed.append(digest)

    monkeypatch.setattr(store.files, "remove", remove_and_pin)
    turns = 0
    real_turn = store.index.turn

    def turn(is_durable=False):
        # Between the first turn of the collection and its second, somebody else pins what is left.
        nonlocal turns
        turns += 1
        if turns == 2:
            with sqlite3.connect(store.index.path) as connection:
                left = ({first.digest, second.digest} - set(removed)).pop()
                connection.execute("INSERT INTO pins VALUES (?, 85, '', 6, 6, 0, ?)", (left, index_module.FOR_EVER))
                connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'pins_changed'")
        return real_turn(is_durable)

    monkeypatch.setattr(store.index, "turn", turn)

    assert collect(store).blocks == 1
    assert check(store).damaged == ()
    assert check(store).blocks == 1


def test_a_lost_index_is_made_anew_and_keeps_everything(store, tmp_path):
    contents = make_tree(tmp_path / "in")
    root = import_path(store, tmp_path / "in").root.cid
    single = put(store, b"single")
    store.close()
    for path in (tmp_path / "store").glob("index.db*"):
        path.unlink()

    with open_store(tmp_path) as again:
        assert {pin.cid for pin in again.get_pins()} == {root, single}
        assert collect(again)[:2] == (0, 0)
        export(again, root, tmp_path / "out")
        assert read_tree(tmp_path / "out") == contents
        assert again.index.get_used_bytes() == sum(path.stat().st_size for path in block_files(tmp_path))


def test_an_index_that_is_none_is_told(store, tmp_path):
    store.close()
    for path in (tmp_path / "store").glob("index.db*"):
        path.write_bytes(b"not a database, but long enough to be looked at as one" * 100)

    with pytest.raises(IndexDamaged, match="not a database"):
        open_store(tmp_path)


def test_a_damaged_block_that_is_being_put_again_keeps_its_row(store, tmp_path):
    cid = put(store, b"data", is_pinned=False)
    (path,) = block_files(tmp_path)
    path.write_bytes(b"evil")

    with pytest.raises(MissingBlob):
        store.read(cid)

    # Its put counts on the row: without one, the file that is written next would be nobody's.
    assert store.index.get_codec(cid.digest) == RAW
    assert put(store, b"data") == cid
    assert store.read(Cid(RAW, cid.digest)) == b"data"
    assert collect(store) == (0, 0, 0)
