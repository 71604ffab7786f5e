"""`kill -9` in the middle of puts and collections: nothing that was acknowledged is lost, nothing torn is served."""

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from protocol.cid import read_cid
from roles.store.checking import check
from roles.store.collecting import collect
from roles.store.index import PUT_ALIVE_MS
from tests.roles.store.parts import block_files, open_store

ROOT = Path(__file__).parents[3]

# Puts files of several sizes, unpins some and collects, for ever; says what it has been told is kept.
PUTTER = """
import io, random, sys
from pathlib import Path
from roles.store.collecting import collect
from roles.store.importing import import_stream
from roles.store.store import Store
store, rng = Store(Path(sys.argv[1]), free_bytes_min=0), random.Random(int(sys.argv[2]))
print("ready", flush=True)
while True:
    data = rng.randbytes(rng.choice((0, 5_000, 1_048_577, 3_000_000)))
    cid = import_stream(store, io.BytesIO(data)).root.cid
    if rng.random() < 0.2:
        print("dropping", cid, flush=True)
        store.unpin(cid)
        collect(store)
    else:
        print("stored", cid, flush=True)
"""


def run_putter(folder, seed, lines):
    """What it said until it was killed: after so many lines, and then anywhere within what takes it some 30 ms."""
    command = [sys.executable, "-c", PUTTER, str(folder / "store"), str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = [process.stdout.readline().split() for _ in range(lines + 1)]
            threading.Event().wait(random.Random(seed).uniform(0, 0.03))
        finally:
            process.kill()
        # What it had said before it died counts as acknowledged, too.
        said += [line.split() for line in process.stdout.read().splitlines()]
    return said[1:]


def hold_after_kills(folder, kills, monkeypatch):
    stored, dropped = set(), set()
    for seed in range(kills):
        for line in run_putter(folder, seed, 1 + seed % 7):
            match line:
                case ["stored", cid]:
                    stored.add(cid)
                case ["dropping", cid]:
                    dropped.add(cid)
    with open_store(folder) as store:
        pins = {str(pin.cid) for pin in store.get_pins()}
        assert stored - dropped <= pins
        assert len(stored) >= kills
        assert check(store).damaged == ()
        assert all(store.read(read_cid(cid)) for cid in stored - dropped if cid.startswith("bafybei"))
        monkeypatch.setattr("roles.store.collecting.get_now_ms", lambda: 2 * PUT_ALIVE_MS + time.time_ns() // 10**6)
        collect(store)
        assert check(store).damaged == ()
        # Every file is one that a pin reaches, and the index knows how many bytes they take.
        assert {path.name for path in block_files(folder)} == {digest.hex() for digest in store.index.get_reached(None)}
        assert store.index.get_used_bytes() == sum(path.stat().st_size for path in block_files(folder))
        assert list((folder / "store" / "tmp").iterdir()) == []
        assert list((folder / "store" / "corrupt").iterdir()) == []


def test_nothing_acknowledged_is_lost_over_some_kills(tmp_path, monkeypatch):
    hold_after_kills(tmp_path, 5, monkeypatch)


@pytest.mark.full
def test_nothing_acknowledged_is_lost_over_50_kills(tmp_path, monkeypatch):
    hold_after_kills(tmp_path, 50, monkeypatch)
