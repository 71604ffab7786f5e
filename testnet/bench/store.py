"""A store beside the disk and the hash it stands on: `rolemesh bench store`.

Rounds of each take turns in one folder, and the median of each counts. A round of the store is a process of its own,
which puts a folder durably and gets it back, every block checked; it also says how much memory that took.
"""

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from testnet.bench.figures import Figure, Note, compare

NAMES = ("put", "get", "memory", "transfer")
MIB = 1024 * 1024
MB = 1e6
BYTES, BYTES_FULL = 256 * MIB, 2048 * MIB  # of the folder
ROUNDS = 3
SMALL_FILE_BYTES = 4 * MIB + 5
MEMORY_BAR_MB = 100.0  # above what the process has before it begins
QUOTA = 2**50


class RoundFailed(Exception):
    """A round's process has ended otherwise than it should."""


def measure(note: Note, full: bool, only: frozenset[str], at: Path | None = None) -> Iterator[Figure]:
    """Figures as they come, measured in a folder of their own inside `at`. Raises RoundFailed, OSError."""
    from testnet.bench.transfer import measure as measure_transfer

    size = BYTES_FULL if full else BYTES
    if not only or only - {"transfer"}:
        yield from _measure_store(note, size, only, at)
    if not only or "transfer" in only:
        with TemporaryDirectory(prefix="rolemesh-bench-", dir=at) as name:
            yield from measure_transfer(note, Path(name), size, ROUNDS)


def _measure_store(note: Note, size: int, only: frozenset[str], at: Path | None) -> Iterator[Figure]:
    with TemporaryDirectory(prefix="rolemesh-bench-", dir=at) as name:
        folder = Path(name)
        note(f"making a folder of {size // MIB} MiB")
        make_folder(folder / "in", size)
        rounds: dict[str, list[float]] = {}
        for number in range(ROUNDS):
            note(f"round {number + 1} of {ROUNDS}")
            for what, value in run_round(folder, size).items():
                rounds.setdefault(what, []).append(value)
    found = {what: statistics.median(values) for what, values in rounds.items()}
    if not only or "put" in only:
        yield compare("put", found["put"], "MB/s", "one file, synced", found["disk_write"])
        yield compare("put", found["put"], "MB/s", "sha256", found["hash"])
        yield compare("put_per_cpu_s", found["put_cpu"], "MB/s", "sha256", found["hash_cpu"])
    if not only or "get" in only:
        yield compare("get", found["get"], "MB/s", "copied, unchecked", found["disk_copy"])
        yield compare("get", found["get"], "MB/s", "sha256", found["hash"])
        yield compare("get_per_cpu_s", found["get_cpu"], "MB/s", "sha256", found["hash_cpu"])
    if not only or "memory" in only:
        yield compare("memory", max(rounds["memory"]), "MB", "bar", MEMORY_BAR_MB)


def make_folder(folder: Path, size: int) -> None:
    """Bytes that no block shares: three quarters in one file, the rest in files of some 4 MiB."""
    folder.mkdir()
    base = os.urandom(MIB)
    number = 0
    sizes = [size * 3 // 4]
    while (left := size - sum(sizes)) > 0:
        sizes.append(min(left, SMALL_FILE_BYTES))
    for place, file_bytes in enumerate(sizes):
        with open(folder / f"file-{place:04}", "wb") as file:
            for at in range(0, file_bytes, MIB):
                number += 1
                file.write((number.to_bytes(8) + base[8:])[: file_bytes - at])


def run_round(folder: Path, size: int) -> dict[str, float]:
    """One round of each, in MB/s of time and of processor time."""
    found = {}
    found["hash"], found["hash_cpu"] = take_time(size, lambda: hash_folder(folder / "in"))
    found["disk_write"], _ = take_time(size, lambda: copy_folder(folder / "in", folder / "raw", is_synced=True))
    shutil.rmtree(folder / "raw")
    found |= run_store(folder, size)
    shutil.rmtree(folder / "store")
    shutil.rmtree(folder / "out")
    found["disk_copy"], _ = take_time(size, lambda: copy_folder(folder / "in", folder / "raw", is_synced=False))
    shutil.rmtree(folder / "raw")
    return found


def take_time(size: int, work: Callable[[], object]) -> tuple[float, float]:
    """MB/s of time, and of processor time."""
    begun_s, cpu_s = time.monotonic(), time.process_time()
    work()
    return size / MB / (time.monotonic() - begun_s), size / MB / max(time.process_time() - cpu_s, 1e-6)


def hash_folder(folder: Path) -> None:
    """The sha256 of every MiB, as the store needs it."""
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            while data := file.read(MIB):
                hashlib.sha256(data).digest()


def copy_folder(source: Path, target: Path, is_synced: bool) -> None:
    """What the disk takes when nobody looks at the bytes: a MiB at a time, each file synced once at its end."""
    target.mkdir()
    for path in source.iterdir():
        with path.open("rb", buffering=0) as file, (target / path.name).open("wb", buffering=0) as out:
            while data := file.read(MIB):
                out.write(data)
            if is_synced:
                os.fsync(out.fileno())


def run_store(folder: Path, size: int) -> dict[str, float]:
    """A put and a get in a process of their own."""
    command = [sys.executable, "-m", "testnet.bench.store", str(folder), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RoundFailed(done.stderr.strip() or f"exit code {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def work(folder: Path, size: int) -> dict[str, float]:
    """What that process does."""
    from roles.store.exporting import export
    from roles.store.importing import import_path
    from roles.store.store import Store

    found = {}
    with Store(folder / "store", QUOTA, free_bytes_min=0) as store:
        before = get_peak_bytes()
        roots = []
        found["put"], found["put_cpu"] = take_time(size, lambda: roots.append(import_path(store, folder / "in").root))
        found["get"], found["get_cpu"] = take_time(size, lambda: export(store, roots[0].cid, folder / "out"))
        found["memory"] = (get_peak_bytes() - before) / MB
    return found


def get_peak_bytes() -> int:
    """The most memory this process has ever had; what it had before it became this program does not count."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RoundFailed("/proc/self/status has no VmHWM")


if __name__ == "__main__":
    print(json.dumps(work(Path(sys.argv[1]), int(sys.argv[2]))))
