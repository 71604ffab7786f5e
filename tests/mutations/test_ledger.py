"""The ledger's mutations: each applies exactly once, names tests that are there, and at night a test notices it.

`pytest tests/mutations/test_ledger.py -m nightly` tries all forty, `-k silence` those with a word in their promise.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutations.ledger import MUTATIONS
from tests.mutations.mutation import Mutation, read_source

ROOT = Path(__file__).parents[2]
COPIED = ("protocol", "p2p", "roles", "testnet", "tests")


def test_every_mutation_of_the_ledger_applies_and_names_tests_that_are_there():
    assert len({mutation.promise for mutation in MUTATIONS}) == len(MUTATIONS) == 40
    for mutation in MUTATIONS:
        ast.parse(mutation.apply(read_source(ROOT, mutation)))
        for test in mutation.tests:
            file, name = test.split("::")
            assert f"def {name}(" in (ROOT / file).read_text(), test


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.promise)
def test_a_test_notices_when_the_ledger_does_not_hold_that(mutation: Mutation, tmp_path: Path):
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / mutation.file).write_text(mutation.apply(read_source(ROOT, mutation)))
    words = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "--hypothesis-seed=0", *mutation.tests]
    # Before the packages: an editable installation would lend the tests the code at hand.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout
    assert re.search(r"^FAILED (\S+)", done.stdout, re.MULTILINE), done.stdout
