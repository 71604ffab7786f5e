"""The blob store against flipped bytes, full disks, several threads and `kill -9`."""

import hashlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from protocol.content import BLOB_BYTES_MAX
from protocol.errors import MalformedMessage, MissingBlob
from roles import blobs
from roles.blobs import BlobStore, DiskFull, StoreFull, add_blob, read_blob

ROOT = Path(__file__).parents[2]


def digest_of(data):
    return hashlib.sha256(data).digest()


def path_of(folder, digest):
    return folder / digest.hex()[:2] / digest.hex()


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_put_can_be_read_also_by_the_next_process(tmp_path):
    store = BlobStore(tmp_path)
    contents = [b"", b"one", bytes(BLOB_BYTES_MAX)]

    digests = [store.put(data) for data in contents]

    assert digests == [digest_of(data) for data in contents]
    for each in (store, BlobStore(tmp_path)):
        assert [each.get(digest) for digest in digests] == contents
        assert all(each.has(digest) for digest in digests)
        assert each.sizes() == tuple(sorted((digest_of(data), len(data)) for data in contents))
        assert each.used_bytes == BLOB_BYTES_MAX + 3
    assert files_in(tmp_path) == sorted(path_of(tmp_path, digest) for digest in digests)


def test_a_blob_that_is_not_here_is_missing(tmp_path):
    store = BlobStore(tmp_path)

    assert not store.has(bytes(32))
    with pytest.raises(MissingBlob):
        store.get(bytes(32))
    with pytest.raises(MissingBlob):
        store.remove(bytes(32))


def test_bytes_that_are_not_the_blob_named_are_not_stored(tmp_path):
    store = BlobStore(tmp_path)

    with pytest.raises(MalformedMessage, match="not"):
        store.put(b"other", digest_of(b"wanted"))
    with pytest.raises(MalformedMessage, match="at most"):
        store.put(bytes(BLOB_BYTES_MAX + 1))

    assert files_in(tmp_path) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty"])
def test_a_damaged_blob_is_never_served_and_a_new_put_heals_it(tmp_path, damage):
    store = BlobStore(tmp_path)
    data = random.Random(3).randbytes(5_000)
    digest = store.put(data)
    path = path_of(tmp_path, digest)
    flipped = data[:2_000] + bytes((data[2_000] ^ 1,)) + data[2_001:]
    path.write_bytes({"flip": flipped, "cut": data[:-1], "grow": data + b"x", "empty": b""}[damage])

    with pytest.raises(MissingBlob):
        store.get(digest)

    assert not store.has(digest)
    assert store.used_bytes == 0
    assert files_in(tmp_path) == [tmp_path / "corrupt" / digest.hex()]
    assert store.put(data) == digest
    assert store.get(digest) == data


def test_putting_a_blob_again_mends_a_damaged_file_nobody_has_read(tmp_path):
    store = BlobStore(tmp_path)
    digest = store.put(b"good")
    path_of(tmp_path, digest).write_bytes(b"evil")

    store.put(b"good")

    assert store.get(digest) == b"good"
    assert store.used_bytes == 4


def test_a_file_that_vanished_is_missing(tmp_path):
    store = BlobStore(tmp_path)
    digest = store.put(b"data")
    path_of(tmp_path, digest).unlink()

    with pytest.raises(MissingBlob):
        store.get(digest)
    assert store.used_bytes == 0


def test_only_so_many_damaged_files_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(blobs, "CORRUPT_FILES_MAX", 2)
    store = BlobStore(tmp_path)
    for number in range(5):
        digest = store.put(bytes((number,)))
        path_of(tmp_path, digest).write_bytes(b"evil")
        with pytest.raises(MissingBlob):
            store.get(digest)

    assert len(files_in(tmp_path / "corrupt")) == 2


def test_the_quota_holds_counts_a_blob_once_and_frees_what_is_removed(tmp_path):
    store = BlobStore(tmp_path, bytes_max=10)
    store.put(b"123456")

    with pytest.raises(StoreFull) as caught:
        store.put(b"abcdef")
    store.put(b"123456")

    assert (caught.value.need, caught.value.used, caught.value.bytes_max) == (6, 6, 10)
    store.remove(digest_of(b"123456"))
    store.put(b"abcdef")
    assert store.get(digest_of(b"abcdef")) == b"abcdef"
    assert BlobStore(tmp_path, bytes_max=10).used_bytes == 6


def test_left_over_temporary_files_are_swept_and_strange_names_are_let_be(tmp_path):
    store = BlobStore(tmp_path)
    kept = store.put(b"data")
    (tmp_path / "tmp" / "torn").write_bytes(b"half")
    (path_of(tmp_path, kept).parent / "notes.txt").write_bytes(b"mine")
    (tmp_path / "ff").mkdir(exist_ok=True)
    (tmp_path / "ff" / ("00" * 32)).write_bytes(b"in the wrong folder")
    (tmp_path / "ff" / ("ff" * 32)).symlink_to("/etc/passwd")

    again = BlobStore(tmp_path)

    assert again.sizes() == ((kept, 4),)
    assert not (tmp_path / "tmp" / "torn").exists()
    assert (path_of(tmp_path, kept).parent / "notes.txt").exists()


def test_threads_that_put_read_and_remove_agree_on_sizes_and_files(tmp_path):
    store = BlobStore(tmp_path)
    contents = [bytes((number,)) * 1_000 for number in range(6)]
    failures = []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(40):
            data = rng.choice(contents)
            try:
                if rng.random() < 0.2:
                    store.remove(digest_of(data))
                else:
                    store.put(data)
                    assert store.get(digest_of(data)) == data
            except MissingBlob:
                continue
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert store.sizes() == BlobStore(tmp_path).sizes()
    assert store.used_bytes == 1_000 * len(store.sizes())
    assert files_in(tmp_path / "corrupt") == []


# Both tests below run this in a process of its own: puts blobs for ever and says which are acknowledged.
PUTTER = """
import random, resource, sys
from pathlib import Path
from roles.blobs import BlobStore, DiskFull
folder, seed, file_bytes_max = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if file_bytes_max:
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
store, rng = BlobStore(folder), random.Random(seed)
while True:
    data = rng.randbytes(rng.choice((100, 5_000, 300_000)))
    try:
        digest = store.put(data)
    except DiskFull as error:
        print("full", len(data), flush=True)
        continue
    assert store.get(digest) == data
    print("stored", digest.hex(), flush=True)
"""


def run_putter(folder, seed, lines, file_bytes_max=0):
    """Kill the process after so many lines of its output, most likely in the middle of a put."""
    command = [sys.executable, "-c", PUTTER, str(folder), str(seed), str(file_bytes_max)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            return [process.stdout.readline().split() for _ in range(lines)]
        finally:
            process.kill()


def test_no_acknowledged_blob_is_lost_and_no_torn_one_served_after_kill_9(tmp_path):
    acknowledged = set()
    for seed in range(8):
        lines = run_putter(tmp_path, seed, lines=3 + seed)
        acknowledged |= {bytes.fromhex(value) for word, value in lines if word == "stored"}

    store = BlobStore(tmp_path)

    assert len(acknowledged) == sum(3 + seed for seed in range(8))
    assert acknowledged <= {digest for digest, _ in store.sizes()}
    for digest, size in store.sizes():
        assert len(store.get(digest)) == size
    assert files_in(tmp_path / "tmp") == files_in(tmp_path / "corrupt") == []


def test_a_limit_on_file_size_refuses_the_put_and_serves_the_rest(tmp_path):
    lines = run_putter(tmp_path, seed=1, lines=30, file_bytes_max=100_000)

    store = BlobStore(tmp_path)

    assert {word for word, _ in lines} == {"stored", "full"}
    assert {value for word, value in lines if word == "full"} == {"300000"}
    stored = {value for word, value in lines if word == "stored"}
    assert stored <= {digest.hex() for digest, _ in store.sizes()}
    assert all(store.get(digest) for digest, _ in store.sizes())


def test_a_disk_without_room_is_told_apart_and_leaves_nothing_behind(tmp_path, monkeypatch):
    store = BlobStore(tmp_path)
    kept = store.put(b"before")

    def fail(fd):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DiskFull, match="No space left"):
            store.put(b"after")

    assert store.get(kept) == b"before"
    assert files_in(tmp_path / "tmp") == []
    assert store.put(b"after")
    assert store.used_bytes == 11


def test_a_blob_another_process_adds_is_found_by_the_node_that_runs(tmp_path):
    store = BlobStore(tmp_path)
    data = b"from elsewhere"
    with pytest.raises(MissingBlob):
        store.get(digest_of(data))

    assert add_blob(tmp_path, data) == digest_of(data)

    assert store.get(digest_of(data)) == data
    assert store.used_bytes == len(data)
    assert read_blob(tmp_path, digest_of(data)) == data
    assert files_in(tmp_path) == [path_of(tmp_path, digest_of(data))]
    with pytest.raises(MalformedMessage, match="at most"):
        add_blob(tmp_path, bytes(BLOB_BYTES_MAX + 1))


def test_a_file_in_a_blobs_place_that_is_another_is_neither_served_nor_read(tmp_path):
    store = BlobStore(tmp_path)
    path_of(tmp_path, digest_of(b"good")).parent.mkdir()
    path_of(tmp_path, digest_of(b"good")).write_bytes(b"evil")

    with pytest.raises(MissingBlob):
        read_blob(tmp_path, digest_of(b"good"))
    with pytest.raises(MissingBlob):
        store.get(digest_of(b"good"))
    assert files_in(tmp_path) == [tmp_path / "corrupt" / digest_of(b"good").hex()]
    assert store.used_bytes == 0
