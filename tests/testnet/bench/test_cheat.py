"""The benchmark of cheats: what it counts, and that its bars can be missed."""

import pytest

from protocol.jobs import Mode
from testnet.bench.cheat.measure import Outcomes, compute_interval, judge, judge_draws
from testnet.bench.cheat.run import ROLES, Batched, run
from testnet.bench.cheat.strategies import STRATEGIES, Strategy
from testnet.genesis import PRICE_GRAINS
from testnet.sim import simulate

LYING = next(strategy for strategy in STRATEGIES if strategy.name == "alter")


def try_out(strategy: Strategy) -> None:
    for mode in strategy.modes:
        found = run(strategy, mode, seed=3, jobs=24)
        assert found.jobs == 24
        assert not found.honest_slashed
        assert not found.unsettled
        assert found.lost_max <= PRICE_GRAINS
        if mode is Mode.INDIVIDUAL:
            assert not found.wrong_released
            assert not found.lies_paid
            assert bool(found.lies) == strategy.lies
        if strategy.lies:
            # A result that cannot be the model's is not even looked at where it is attested first: it earns nothing.
            assert found.convictions or (strategy.name, mode) == ("truncate", Mode.INDIVIDUAL)
            assert found.gain < 0


@pytest.mark.parametrize("name", ["alter", "withhold", "abstain", "deny"])
def test_a_cheat_does_what_it_is_called_and_honest_nodes_are_not_slashed(name: str) -> None:
    try_out(next(strategy for strategy in STRATEGIES if strategy.name == name))


@pytest.mark.full
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_every_cheat_does_what_it_is_called(strategy: Strategy) -> None:
    try_out(strategy)


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(Mode.INDIVIDUAL, marks=pytest.mark.xfail(strict=True, reason="attestations of all drawn suffice")),
        Mode.BATCH,
    ],
)
def test_verifiers_in_league_cannot_have_an_honest_worker_slashed(mode: Mode) -> None:
    """Even if all that can be drawn are of one mind."""
    framing = {"class": "testnet.cheats:Framing"}
    network = simulate(2, ROLES | {"verifier": 2}, options={"verifier": framing, "inference": {"batch_ms": 1_000}})
    bonds = network.bonds
    for row in range(12):
        network.request("digits", row, mode=mode, timeout_ms=4_000)
    network.run_for(60_000)
    assert network.bonds == bonds


def test_a_ledger_that_slashes_nothing_makes_lies_pay_and_the_table_says_so() -> None:
    sums = Outcomes(
        jobs=10, lies=10, lies_paid=3, wrong_released=1, gain=5, honest_slashed=1, lost_max=2 * PRICE_GRAINS
    )
    words = " | ".join(judge(LYING, Mode.INDIVIDUAL, sums, honest_gain=4))
    for part in ("1 honest nodes were slashed", "lost 2 jobs", "3 lies paid", "more than honesty"):
        assert part in words
    few = [Batched(leaves=100, drawn=10, lies=5, lies_drawn=0)]
    assert list(judge(LYING, Mode.BATCH, Outcomes(gain=9, batches=few), honest_gain=4)) == []
    drawn = [Batched(leaves=100, drawn=10, lies=50, lies_drawn=5)] * 10
    (missed,) = judge(LYING, Mode.BATCH, Outcomes(gain=0, batches=drawn), honest_gain=4)
    assert "no less than it began with" in missed


def test_what_is_counted_in_one_network_counts_in_all() -> None:
    one = Outcomes(*range(1, 10), lost_max=5, batches=[Batched(4, 3, 2, 1)])
    sums = Outcomes()
    for _ in range(2):
        sums.add(one)
    assert sums == Outcomes(*range(2, 20, 2), lost_max=5, batches=one.batches * 2)
    assert "something was still open in 18 networks" in judge(LYING, Mode.INDIVIDUAL, sums, honest_gain=99)


def test_lies_are_drawn_as_often_as_arithmetic_says() -> None:
    assert judge_draws([]) == (0, 0, 0, 0)
    fair = [Batched(leaves=100, drawn=10, lies=20, lies_drawn=2)] * 10
    lies, low, high, drawn = judge_draws(fair)
    assert (lies, drawn) == (200, 20)
    assert low <= 20 <= high
    none = [Batched(leaves=100, drawn=10, lies=20, lies_drawn=0)] * 10
    assert any(
        "were drawn, arithmetic says" in word for word in judge(LYING, Mode.BATCH, Outcomes(batches=none, gain=-1), 0)
    )


@pytest.mark.parametrize(("trials", "share"), [(10, 0.5), (400, 0.1), (5_000, 0.1), (5_000, 0.0), (300, 1.0)])
def test_the_interval_holds_ninety_nine_of_a_hundred(trials: int, share: float) -> None:
    import random

    rng = random.Random(1)
    low, high = compute_interval(trials, share)
    rounds = 400
    inside = sum(low <= sum(rng.random() < share for _ in range(trials)) <= high for _ in range(rounds))
    assert inside >= 0.97 * rounds
    assert high - low <= trials * 0.2 + 10


def test_the_same_seed_gives_the_same_outcomes() -> None:
    first, second = (run(LYING, Mode.BATCH, seed=5, jobs=12) for _ in range(2))
    assert first == second
