"""Ten million inputs for the decoders, coverage-guided: `python -m tests.fuzz.run`, part of `make nightly`.

    python -m tests.fuzz.run                       what is left of the ten million
    python -m tests.fuzz.run rpc yamux             of these targets only
    python -m tests.fuzz.run --minutes 30          stop after half an hour; the next start goes on from there
    python -m tests.fuzz.run --share 0.01          a hundredth of it

Each target runs in a process of its own, in chunks; an input may take HANG_S seconds and a process RSS_MB of memory.
The corpus and the counts of finished chunks are in `.fuzz/`, which git ignores: a night that was broken off goes on
where it stopped, and one that was whole begins the next with what it learnt. The decoders of messages get a second
turn with msgpack in Python, whose branches a fuzzer can see.

A find ends the run: it is printed as a line for `tests/fuzz/regressions/TARGET.hex`, which `make test` replays. Write
the line there, see it fail, mend the decoder.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.targets import TARGETS

CACHE = Path(__file__).parents[2] / ".fuzz"
HANG_S = 10
RSS_MB = 1_024
CHUNK_S = 240  # a chunk is not the whole night: what it learnt and counted is safe at its end
STUCK_S = CHUNK_S + 120  # it must have ended by then
PURE = ("values", "envelopes", "files", "restarts")  # read msgpack: half of their inputs without the C extension
RUNS = re.compile(r"^Done (\d+) runs", re.MULTILINE)
LATEST = re.compile(r"^#(\d+)\t", re.MULTILINE)


class Found(Exception):
    """An input that ends in something else than the decoder's own errors, hangs, or eats the memory."""


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Counts:
    """Inputs done of each turn; written after every chunk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.done: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, turn: str, runs: int) -> None:
        self.done[turn] = self.done.get(turn, 0) + runs
        self.write()

    def write(self) -> None:
        self._path.parent.mkdir(exist_ok=True)
        self._path.write_text(json.dumps(self.done, indent=1) + "\n")


def list_turns(names: list[str], share: float) -> dict[str, int]:
    """Inputs wanted by turn: a target, or a target with msgpack in Python."""
    turns = {}
    for name in names:
        wanted = max(1, int(TARGETS[name].inputs * share))
        if name in PURE:
            turns[f"{name}-pure"] = wanted // 2
            wanted -= wanted // 2
        turns[name] = wanted
    return turns


def run_chunk(turn: str, runs: int, seconds: int) -> int:
    """Fuzz one turn for a while; inputs done. Raises Found."""
    name, is_pure = turn.removesuffix("-pure"), turn.endswith("-pure")
    corpus, finds = CACHE / name, CACHE / "finds"
    for folder in (corpus, finds):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.drive",
        name,
        str(corpus),
        f"-runs={runs}",
        f"-max_total_time={seconds}",
    ]
    command += [f"-timeout={HANG_S}", f"-rss_limit_mb={RSS_MB}", f"-max_len={TARGETS[name].bytes_max}"]
    command += [f"-artifact_prefix={finds}/{name}-", "-len_control=0", "-print_final_stats=0"]
    environment = {**os.environ, "MSGPACK_PUREPYTHON": "1"} if is_pure else os.environ
    before = set(finds.iterdir())
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=STUCK_S
        )
    except subprocess.TimeoutExpired as error:
        raise Found(f"{turn}: still running after {STUCK_S} s, which libFuzzer itself did not notice") from error
    if ended.returncode:
        inputs = sorted(set(finds.iterdir()) - before)
        lines = [f"  tests/fuzz/regressions/{name}.hex <- {path.read_bytes().hex()}" for path in inputs]
        raise Found("\n".join([f"{turn}: a find, exit code {ended.returncode}", ended.stderr[-4_000:], *lines]))
    done = [*RUNS.findall(ended.stderr), *LATEST.findall(ended.stderr)]
    return max(map(int, done))


def fuzz(turns: dict[str, int], counts: Counts, until_s: float) -> bool:
    """Work off what is left; whether all of it is done. Raises Found."""
    for turn, wanted in turns.items():
        while (left := wanted - counts.done.get(turn, 0)) > 0:
            seconds = int(min(CHUNK_S, until_s - time.monotonic()))
            if seconds <= 0:
                return False
            began_s = time.monotonic()
            runs = run_chunk(turn, left, seconds)
            counts.add(turn, runs)
            took_s = time.monotonic() - began_s
            say(f"fuzz {turn}: {counts.done[turn]:,} of {wanted:,} inputs, {runs / took_s:,.0f} a second")
    return True


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.run", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    chosen = parser.parse_args(arguments)
    if subprocess.run([sys.executable, "-c", "import atheris"], capture_output=True).returncode:
        say(
            "fuzz: SKIPPED, atheris is not here. It has wheels for x86-64 Linux only; .ci/setup fuzz installs it there."
        )
        return 0
    counts = Counts(CACHE / "counts.json")
    turns = list_turns(chosen.targets or list(TARGETS), chosen.share)
    if all(counts.done.get(turn, 0) >= wanted for turn, wanted in turns.items()):
        counts.done = {turn: done for turn, done in counts.done.items() if turn not in turns}  # a new night
    before = sum(min(counts.done.get(turn, 0), wanted) for turn, wanted in turns.items())
    say(f"fuzz: {sum(turns.values()):,} inputs, {before:,} of them done before")
    try:
        is_whole = fuzz(turns, counts, time.monotonic() + 60 * chosen.minutes)
    except Found as found:
        say(str(found))
        return 1
    say("fuzz: all done, nothing found" if is_whole else "fuzz: time is up, nothing found; start again to go on")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
