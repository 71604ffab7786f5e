"""Consensus and ledger together by the thousand seeds: no fork, no stall, no grain lost, nobody honest accused.

A thousand in `make test`, ten in `make test-full`, two hundred in `make nightly`: ROLEMESH_SEEDS=A:B for a range of
them, so that a night that was broken off goes on where it stopped.
"""

import os

import pytest

from testnet.consensus.sweep import Sweep, sweep

QUICK, FULL, NIGHT = 1_000, 10_000, 200_000
PART, FULL_PART, NIGHT_PART = 20, 200, 1_000


@pytest.fixture(scope="module")
def sums() -> Sweep:
    """What the thousand seeds have in them."""
    return Sweep()


@pytest.mark.parametrize("first", range(0, QUICK, PART))
def test_honest_validators_never_disagree_and_all_decide_once_the_weather_has_calmed(first: int, sums: Sweep):
    sums.merge(sweep(range(first, first + PART)).to_dict())


def test_a_thousand_seeds_have_enough_in_them(sums: Sweep):
    if sums.seeds != QUICK:
        pytest.skip(f"only {sums.seeds} of {QUICK} seeds ran before this")
    assert sums.find_missing() == [], sums
    assert sums.with_guilt_shown >= 0.05 * QUICK
    rare = ("power_loss", "torn_log", "lost_log", "skewed_clock", "bad_link", "slashing")
    assert all(getattr(sums, f"with_{name}") for name in rare), sums


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(QUICK, FULL, FULL_PART))
def test_the_same_holds_for_ten_thousand_seeds(first: int):
    assert sweep(range(first, first + FULL_PART)).find_missing() == []


def get_range() -> range:
    first, _, last = os.environ.get("ROLEMESH_SEEDS", f"{FULL}:{NIGHT}").partition(":")
    return range(int(first), int(last), NIGHT_PART)


@pytest.mark.nightly
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("first", get_range())
def test_a_night_has_two_hundred_thousand_seeds(first: int):
    assert sweep(range(first, min(first + NIGHT_PART, get_range().stop))).find_missing() == []
