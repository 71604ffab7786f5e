"""What a fuzzer once found stays found: every line of `regressions/TARGET.hex` is replayed, and some damage done anew.

`make nightly` prints the line to add when it finds something: docs are in `tests/fuzz/run.py`.
"""

import random
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS
from tests.support.mutate import mutate

FOUND = Path(__file__).parent / "regressions"
DAMAGED = 300  # inputs for each target; ten million are for the night


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_once_and_honest_input_pass(name):
    path = FOUND / f"{name}.hex"
    lines = path.read_text().split() if path.exists() else []
    for line in lines:
        TARGETS[name].run(bytes.fromhex(line))
    seeds = TARGETS[name].seeds()
    assert seeds
    for seed in [b"", *seeds]:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_ends_in_nothing_but_a_decoders_own_errors(name):
    dice = random.Random(name)
    seeds = tuple(TARGETS[name].seeds())
    for _ in range(DAMAGED):
        data = mutate(dice.choice(seeds), seeds, dice)
        try:
            TARGETS[name].run(data)
        except BaseException as error:
            error.add_note(f"add to tests/fuzz/regressions/{name}.hex: {data.hex()}")
            raise


def test_every_file_of_regressions_belongs_to_a_target():
    assert {path.stem for path in FOUND.glob("*.hex")} <= set(TARGETS)
