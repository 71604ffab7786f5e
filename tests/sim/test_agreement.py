"""Validators in virtual time, by the hundred seeds: no fork, no stall, nobody honest accused."""

import pytest

from protocol.consensus.core import Core
from testnet.cli import main
from testnet.cli.output import ExitCode
from testnet.consensus_liars import KINDS
from testnet.consensus_sim import Agreement, Weather
from testnet.consensus_sweep import draw_weather, find_fault, sweep


def test_whatever_goes_wrong_honest_validators_never_disagree_and_all_decide_once_it_is_over():
    found = sweep(range(300))
    assert found.heights >= 5 * found.seeds
    assert found.with_partition >= 0.3 * found.seeds
    assert found.with_crash >= 0.3 * found.seeds
    assert found.with_lying_proposer >= 0.2 * found.seeds
    assert found.with_view_change_after_heal >= 0.1 * found.seeds
    assert found.with_guilt_shown >= 0.1 * found.seeds


def agree(seed: int, *liars: str) -> Agreement:
    """Four validators, these kinds of cheats among them, through a quarter of a minute of bad weather."""
    run = Agreement(seed, 4, 5, Weather(loss=0.1, liars=liars, calm_ms=15_000))
    run.run(60_000)
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_four_may_cheat_in_any_way_and_only_it_is_ever_found_guilty(kind: str):
    runs = [agree(seed, kind) for seed in range(12)]
    assert [find_fault(run) for run in runs] == [""] * len(runs)
    guilty = {key for run in runs for key in run.find_guilty()}
    assert bool(guilty) == (kind in ("equivocating", "nullifying", "forging"))
    if kind not in ("silent", "favouring"):
        assert any(run.has_lying_proposer for run in runs)


@pytest.mark.parametrize("kind", ["silent", "nullifying", "stale", "favouring", "withholding"])
def test_two_of_four_that_do_not_equivocate_can_hold_the_ledger_up_and_not_split_it(kind: str):
    runs = [agree(seed, kind, kind) for seed in range(12)]
    assert not any(run.find_forks() for run in runs)
    assert kind != "silent" or not any(run.is_done for run in runs)


def test_above_a_third_who_split_the_ledger_are_all_named():
    forked = [run for seed in range(60) if (run := agree(seed, "equivocating", "equivocating")).find_forks()]
    assert forked
    for run in forked:
        assert run.find_guilty() == {seat.key for seat in run.seats if seat.liar is not None}


def test_without_relay_and_entry_proofs_a_leader_that_favours_one_stops_the_ledger(monkeypatch: pytest.MonkeyPatch):
    assert all(agree(seed, "favouring").is_done for seed in range(12))
    monkeypatch.setattr(Core, "_relay", lambda core, item: None)
    runs = [agree(seed, "favouring") for seed in range(12)]
    assert any(not run.is_done for run in runs)
    assert not any(run.find_forks() for run in runs)


@pytest.mark.full
def test_the_same_holds_for_ten_thousand_seeds():
    assert sweep(range(300, 10_000)).seeds == 9_700


def test_in_good_weather_a_height_takes_three_messages_on_the_way():
    run = Agreement(1, weather=Weather(loss=0, duplicate=0, partitions=False))
    run.run()
    assert run.is_done
    assert {item.ballot.view for seat in run.seats for item in seat.decided} == {1}


def test_the_same_seed_gives_the_same_run():
    def trace(seed: int) -> list:
        count, weather = draw_weather(seed)
        run = Agreement(seed, count, 5, weather)
        run.run()
        return [run.now_ms, run.events, [seat.decided for seat in run.seats]]

    assert trace(11) == trace(11)


def test_seeds_are_tried_by_a_command(capsys: pytest.CaptureFixture[str]):
    assert main(["sim", "--seeds", "0..3", "--json"]) == ExitCode.OK
    assert '"seeds": 3' in capsys.readouterr().out
    for wrong in (["--seeds", "3..3"], ["--seeds", "x"], [], ["--seeds", "0..1", "--replay", "rms1-"]):
        assert main(["sim", *wrong]) == ExitCode.USAGE
