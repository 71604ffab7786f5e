"""A disk that is really full: puts are refused, everything else goes on, and nothing is lost."""

import io
import os
import subprocess
from contextlib import suppress

import pytest

from roles.blobs import DiskFull
from roles.store.checking import check
from roles.store.collecting import collect
from roles.store.importing import import_stream
from tests.roles.store.parts import block_files, open_store

DISK_BYTES = 8 * 2**20


@pytest.fixture
def disk(tmp_path):
    """A file system of 8 MiB. Needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def put(store, data):
    return import_stream(store, io.BytesIO(data)).root.cid


def test_a_put_that_does_not_fit_is_refused_and_makes_room_again(disk):
    with open_store(disk) as store:
        kept = [put(store, os.urandom(2**20)) for _ in range(3)]

        for _ in range(3):
            with pytest.raises(DiskFull):
                put(store, os.urandom(6 * 2**20))

        assert len(block_files(disk)) == 3
        assert list((disk / "store" / "tmp").iterdir()) == []
        assert check(store).damaged == ()
        kept.append(put(store, os.urandom(2**20)))
        assert {pin.cid for pin in store.get_pins()} == set(kept)


def test_with_not_one_byte_left_what_is_kept_is_still_served_and_puts_go_on_once_there_is_room(disk):
    with open_store(disk) as store:
        data = os.urandom(2**20)
        kept = put(store, data)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4_096)):
                pass
        assert os.statvfs(disk).f_bavail == 0

        for size in (0, 1, 100_000, 2**20):
            with pytest.raises(DiskFull):
                put(store, os.urandom(size) + b"new")
        assert store.read(kept) == data
        assert check(store).damaged == ()

        filler.unlink()
        # A put's own end may have been refused as well: the collection after its grace takes what it has left.
        put(store, b"new")
        collect(store)
        assert check(store).damaged == ()
        assert len(store.get_pins()) == 2
        assert store.index.get_used_bytes() == sum(path.stat().st_size for path in block_files(disk))
    with open_store(disk) as again:
        assert again.read(kept) == data
