"""Break the code on purpose, one promise at a time, and see that a test notices: `make mutations`, and `make nightly`.

    python -m tests.mutations.run                  all of them, some seconds each
    python -m tests.mutations.run bans.py backoff  those with any of these words in their file or promise

Works on a copy: the code at hand is never touched. All tests concerned must pass as they are. Exit code 1 when nobody
notices a mutation, or one no longer applies.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from tests.mutations import (
    activity,
    apps,
    bans,
    consensus,
    doors,
    feeds,
    gossip,
    governance,
    keeper,
    leases,
    ledger,
    mesh,
    pages,
    pull,
    queues,
    reach,
    shell,
    store,
    streams,
    verdicts,
)
from tests.mutations.mutation import DoesNotApply, Mutation, read_source

ROOT = Path(__file__).parents[2]
COPIED = ("protocol", "p2p", "roles", "testnet", "tests", "docs", "pyproject.toml", "README.md")
TEST_S_MAX = 60  # a mutation may well make a test hang
TABLES = (
    doors,
    bans,
    keeper,
    reach,
    streams,
    queues,
    shell,
    verdicts,
    mesh,
    gossip,
    pages,
    pull,
    consensus,
    ledger,
    leases,
    feeds,
    store,
    governance,
    activity,
    apps,
)
MUTATIONS: tuple[Mutation, ...] = tuple(mutation for table in TABLES for mutation in table.MUTATIONS)
FAILED = 1  # pytest's exit code for tests that failed, unlike for those it could not find or import


class Verdict(StrEnum):
    CAUGHT = "caught"
    MISSED = "MISSED"
    BROKEN = "BROKEN"  # the tests cannot even be run


def select(words: Sequence[str]) -> list[Mutation]:
    """Mutations with any of these words in them; without words all."""
    return [each for each in MUTATIONS if not words or any(word in f"{each.file} {each.promise}" for word in words)]


@contextmanager
def copied_tree() -> Iterator[Path]:
    """The code, its tests and what they read, somewhere else."""
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
            else:
                shutil.copy(source, copy / name)
        yield copy


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """pytest's exit code for these tests of the copy, and what it said."""
    words = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", f"--timeout={TEST_S_MAX}", "--hypothesis-seed=0"]
    # Before the packages: an editable installation would lend the tests the code at hand.
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *tests], cwd=copy, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout


def try_one(copy: Path, mutation: Mutation) -> tuple[Verdict, str]:
    """Change the copy, run the tests, change it back; also which test noticed. Raises DoesNotApply."""
    path = copy / mutation.file
    source = read_source(copy, mutation)
    changed = mutation.apply(source)
    compiled = Path(importlib.util.cache_from_source(str(path)))
    try:
        path.write_text(changed)
        compiled.unlink(missing_ok=True)  # it goes by seconds and sizes, and would pass for the changed file's
        code, said = run_tests(copy, mutation.tests)
    finally:
        path.write_text(source)
        compiled.unlink(missing_ok=True)
    noticed = re.search(r"^FAILED (\S+)", said, re.MULTILINE)
    return {0: Verdict.MISSED, FAILED: Verdict.CAUGHT}.get(code, Verdict.BROKEN), noticed[1] if noticed else ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations.run", description="Do the tests notice?")
    parser.add_argument("words", nargs="*", help="only mutations with any of these in file or promise")
    chosen = select(parser.parse_args(arguments).words)
    bad = 0
    with copied_tree() as copy:
        code, said = run_tests(copy, sorted({test for mutation in chosen for test in mutation.tests}))
        if code:
            print(f"{said}\nthe tests do not pass as they are")
            return 1
        for number, mutation in enumerate(chosen, 1):
            start_s = time.monotonic()
            try:
                verdict, by = try_one(copy, mutation)
            except DoesNotApply as error:
                verdict, by = Verdict.BROKEN, str(error)
            bad += verdict is not Verdict.CAUGHT
            took_s = time.monotonic() - start_s
            print(f"{number:3} of {len(chosen)}  {verdict:7} {took_s:4.0f} s  {mutation.promise}  {by}", flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} noticed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
