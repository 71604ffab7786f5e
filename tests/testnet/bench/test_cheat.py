"""The benchmark of cheats: what it counts, and that its bars can be missed."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.jobs import Mode
from testnet.bench.cheat.measure import compute_interval, judge, judge_draws, make_rows, plan
from testnet.bench.cheat.outcomes import Batched, Outcomes, compute_outcomes
from testnet.bench.cheat.real import run_piece
from testnet.bench.cheat.run import BATCH_MS, ROLES, found_for, list_options, observe, run
from testnet.bench.cheat.strategies import BOTH, STRATEGIES, Strategy, find_strategies
from testnet.bench.cheat.sweep import NotKept, Piece, Result, read_kept, sweep
from testnet.genesis import PRICE_GRAINS
from testnet.sim import simulate

LYING = next(strategy for strategy in STRATEGIES if strategy.name == "alter")


def try_out(strategy: Strategy) -> None:
    for mode in strategy.modes:
        found, _ = run(strategy, mode, seed=3, jobs=24)
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
            is_looked_at = (strategy.name, mode) != ("truncate", Mode.INDIVIDUAL)
            # Of a float model attested first, a lie that a verifier has not found is not paid, and that is all.
            is_convicted = strategy.is_provable or mode is Mode.BATCH
            assert bool(found.convictions) == (is_convicted and is_looked_at)
            assert found.gain < 0 or not is_convicted
            assert found.lies_paid < found.lies


@pytest.mark.parametrize("name", ["alter", "abstain", "copy_attestation", "deny"])
def test_a_cheat_does_what_it_is_called_and_honest_nodes_are_not_slashed(name: str) -> None:
    try_out(next(strategy for strategy in STRATEGIES if strategy.name == name))


@pytest.mark.full
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_every_cheat_does_what_it_is_called(strategy: Strategy) -> None:
    try_out(strategy)


@pytest.mark.parametrize(
    ("model", "mode"), [("digits", Mode.INDIVIDUAL), ("digits", Mode.BATCH), ("digits-fp32", Mode.BATCH)]
)
def test_verifiers_in_league_cannot_have_an_honest_worker_slashed(model: str, mode: Mode) -> None:
    """Even if all that can be drawn are of one mind."""
    framing = {"class": "testnet.cheats:Framing"}
    network = simulate(2, ROLES | {"verifier": 2}, options={"verifier": framing, "inference": {"batch_ms": 1_000}})
    bonds = network.bonds
    for row in range(12):
        network.request(model, row, mode=mode, timeout_ms=4_000)
    network.run_for(60_000)
    assert network.bonds == bonds
    if mode is Mode.BATCH:
        assert sum(work.paid for work in network.ledger.work.values()) > 0


def test_what_was_paid_on_a_channel_that_is_gone_by_now_counts() -> None:
    """Found by a sweep, seed 10: six jobs that a client had paid for before it closed looked like a loss."""
    (deny,) = find_strategies(frozenset({"deny"}))
    foundation = found_for(deny, 10)
    options = {"inference": {"batch_ms": BATCH_MS}, **list_options(deny, foundation, lie_bp=0)}
    network = simulate(10, ROLES, options=options)
    observed = observe(network, foundation, deny, Mode.BATCH, jobs=12)
    held = len(network.ledger.channels)
    params = foundation.genesis.params
    network.run_for(params.channel_close_delay_ms + 2 * params.grace_ms)
    assert len(network.ledger.channels) < held

    kept = network.nodes["validator-0"].disk.blocks
    outcomes, _ = compute_outcomes(replace(observed, blocks=[kept[at].block for at in sorted(kept)]), deny)

    assert outcomes.answered
    assert outcomes.lost_max <= PRICE_GRAINS


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


def do_little(piece: Piece) -> tuple[Outcomes, dict[str, int]]:
    told = Outcomes(jobs=piece.jobs, answered=piece.seed, lies=1, gain=-5, batches=[Batched(4, 3, 2, 1)])
    return told, {"inference-0": 7 * piece.seed}


def test_a_sweep_goes_on_where_it_was_stopped_and_comes_to_the_same(tmp_path: Path) -> None:
    pieces = plan(find_strategies(frozenset({"alter"})), 120 * 30, first_seed=4)
    whole = list(sweep(pieces, do_little, 1))
    kept = tmp_path / "kept.jsonl"

    begun = sweep(pieces, do_little, 1, kept)
    for _ in range(5):
        next(begun)
    begun.close()
    kept.write_text(kept.read_text() + '{"piece": {"strat')  # killed in mid-write
    assert set(read_kept(kept)) == set(pieces[:5])
    by_processes = list(sweep(pieces, do_little, 2, kept))

    assert len(by_processes) == len(pieces) == len(set(pieces))
    assert make_rows(STRATEGIES, by_processes) == make_rows(STRATEGIES, whole)
    assert read_kept(kept) == {result.piece: result for result in whole}


def test_a_file_of_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("buy bread\n")
    with pytest.raises(NotKept, match="line 1"):
        list(sweep([], do_little, 1, other))


def test_lies_in_batches_are_told_twice_as_often_and_each_beside_an_honest_twin() -> None:
    chosen = find_strategies(frozenset({"alter", "fp16", "late"}))
    pieces = plan(chosen, 120 * 140, first_seed=1)
    count = Counter((piece.mode, piece.strategy) for piece in pieces)
    assert count["batch", "alter"] == count["batch", "fp16"] == 2 * count["individual", "alter"] > 10
    assert count["batch", "honest"] == count["batch", "alter"]
    assert count["batch", "honest_fp32"] == count["batch", "fp16"]
    assert len(pieces) == 140

    results = [Result(piece, *do_little(piece)) for piece in pieces]
    rows = make_rows(chosen, results)
    assert [row.strategy for row in rows] == ["alter", "fp16", "late"] * 2
    for row in rows:
        seeds = [piece.seed for piece in pieces if (piece.mode, piece.strategy) == (row.mode, row.strategy)]
        assert row.honest_gain == 7 * sum(seeds)
        assert row.cost == row.honest_gain + 5 * len(seeds)
        assert row.lie_cost == row.cost / PRICE_GRAINS / len(seeds)


@pytest.mark.full
@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize("strategy", ["alter", "fp16"])
def test_cheats_in_real_processes_come_to_what_simulated_ones_do(strategy: str, mode: Mode) -> None:
    """A liar that lies in every job: caught in every batch, or never paid."""
    (chosen,) = find_strategies(frozenset({strategy}))
    piece = Piece(strategy, str(mode), seed=1, jobs=12)
    (row,) = make_rows((chosen,), [Result(piece, *run_piece(piece))], has_twins=False)
    found = row.outcomes
    assert not row.missed
    assert found.jobs == found.answered == 12
    assert found.lies
    assert bool(found.convictions) == (chosen.is_provable or mode is Mode.BATCH)
    assert found.wrong_released == (found.lies if mode is Mode.BATCH else 0)
    assert found.lies_paid < found.lies
    assert row.cost > 0
