"""The same seed makes the same trace, in another process too, whatever order that process hashes text in."""

import os
import subprocess
import sys
from pathlib import Path

from tests.p2p.gossipsub.trace import compute_trace

ROOT = Path(__file__).parents[3]


def compute_elsewhere(seed: int, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-m", "tests.p2p.gossipsub.trace", str(seed)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_the_same_seed_makes_the_same_trace_in_processes_that_hash_differently():
    traces = {compute_elsewhere(5, hash_seed) for hash_seed in ("0", "1", "4242")}

    assert traces == {compute_trace(5)}
    assert compute_trace(6) not in traces
