"""A role of one's own, outside our packages, runs in the simulator as the documentation has it."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"

# In a process of its own: a user's message kinds must not show up in the tables other tests look at.
WORD_COUNT = """
import json
from testnet.faults import Crash, FaultPlan
from testnet.sim import simulate

plan = FaultPlan(loss_bp=2_000, duplicate_bp=500, jitter_ms=20, crashes=(Crash("wordcount-2", 2_500, 4_000),))
network = simulate(1, roles={"validator": 1, "storage": 1, "word_count:WordCount": 4}, faults=plan)
network.command("wordcount-0", "to be or not to be")
network.run_until(12_000)
states = {name: str(node.core.state) for name, node in network.nodes.items()}
print(json.dumps([network.deliveries, network.get_events("words.agreed"), states, network.find_violations()]))
"""


def run(*words: str) -> str:
    path = os.pathsep.join([str(EXAMPLES), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": path},
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_role_and_messages_of_ones_own_run_in_the_simulator():
    deliveries, agreed, states, violations = json.loads(run("-c", WORD_COUNT))

    assert ["wordcount-0", ["to be or not to be", 6]] in deliveries
    fox = [name for name, (text, words) in deliveries if text.endswith("dog") and words == 9]
    assert {"wordcount-0", "wordcount-1", "wordcount-3"} <= set(fox)
    assert len(agreed) == len(deliveries)
    assert set(states.values()) == {"serving"}
    assert violations == []
