"""Validators with their ledger in virtual time: cheats of every kind, more of them than a third, and no relay."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.consensus.messages import Vote
from protocol.consensus.simplex import Simplex
from protocol.consensus.tally import Tally
from protocol.errors import LocalError
from protocol.ledger.block import get_validators
from protocol.messages import Said
from testnet.cli import main
from testnet.cli.output import ExitCode
from testnet.consensus.liars import KINDS
from testnet.consensus.network import Agreement
from testnet.consensus.sweep import Failed, Sweep, sweep
from testnet.consensus.token import Run, format_token, parse_token
from testnet.consensus.weather import Weather, draw_weather, list_milder
from testnet.faults import Crash, FaultPlan, LinkFault, Partition

ROOT = Path(__file__).parents[2]
BAD = FaultPlan(
    loss_bp=1_000,
    jitter_ms=30,
    partitions=(
        Partition(800, 3_000, (("validator-0", "validator-1"),)),
        Partition(4_000, 5_500, (("validator-0", "validator-3"),)),
    ),
)


def agree(seed: int, *liars: str, **fields) -> Agreement:
    """Four validators, these kinds of cheats among them, through some seconds of bad weather."""
    cheats = tuple((f"validator-{(seed + 2 * number) % 4}", kind) for number, kind in enumerate(liars))
    run = Agreement(seed, Weather(calm_ms=6_000, faults=BAD, liars=cheats, **fields))
    run.run()
    return run


class Overheard(Agreement):
    """Puts together what all honest validators have heard: evidence that no single one need have."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self.tallies: dict[int, Tally] = {}
        self.guilty: set[bytes] = set()
        super().__init__(seed, weather)

    def _on_said(self, index: int, words: tuple[int, Said]) -> None:
        votes = list(words[1].votes)
        for item in words[1].certificates:
            votes += [Vote(item.ballot, vote.vote, vote.signature) for vote in item.votes]
        for vote in votes if self.seats[index].liar is None else ():
            weights = {validator.vote: validator.weight for validator in get_validators(self.tip)}
            tally = self.tallies.setdefault(vote.ballot.height, Tally(weights))
            count = tally.counts.get(vote.ballot)
            if vote.signature == vote.voter * 2 and (count is None or vote.voter not in count.votes):
                found: list[Any] = []
                tally.add(vote, count, found)
                self.guilty |= {accused.first.voter for accused in found}
        super()._on_said(index, words)


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_four_may_cheat_in_any_way_and_only_it_is_ever_found_guilty(kind: str):
    runs = [agree(seed, kind) for seed in range(8)]
    assert [run.found.violations for run in runs] == [[]] * len(runs)
    if kind != "forging":  # whose proposals are refused before anybody needs to hold them against it
        assert any(run.found.accused for run in runs) == (kind in ("equivocating", "nullifying"))
    if kind not in ("silent", "favouring"):
        assert any(run.found.has_lying_proposer for run in runs)


@pytest.mark.parametrize("kind", ["silent", "nullifying", "stale", "favouring", "withholding"])
def test_two_of_four_that_do_not_equivocate_can_hold_the_ledger_up_and_not_split_it(kind: str):
    runs = [agree(seed, kind, kind) for seed in range(6)]
    assert not any(run.find_forks() for run in runs)
    assert kind != "silent" or not any(run.is_done for run in runs)


def test_above_a_third_who_split_the_ledger_are_all_named():
    cheats = (("validator-0", "equivocating"), ("validator-1", "equivocating"))
    faults = FaultPlan(links=(LinkFault(0, 3_000, ("validator-2",), ("validator-3",), True, silence="blackhole"),))
    runs = [Overheard(seed, Weather(calm_ms=3_000, faults=faults, liars=cheats)) for seed in range(6)]
    for run in runs:
        run.run()
    forked = [run for run in runs if run.find_forks()]
    assert forked
    for run in forked:
        assert run.guilty == {seat.disk.start.vote for seat in run.seats if seat.liar is not None}


def test_without_relay_and_entry_proofs_a_leader_that_favours_one_stops_the_ledger(monkeypatch: pytest.MonkeyPatch):
    assert all(agree(seed, "favouring", crash_bp=300).is_done for seed in range(10))
    monkeypatch.setattr(Simplex, "_relay", lambda simplex, item: None)
    runs = [agree(seed, "favouring", crash_bp=300) for seed in range(10)]
    assert any(not run.is_done for run in runs)
    assert not any(run.find_forks() for run in runs)


def test_a_certificate_that_only_one_had_when_the_power_went_is_not_forgotten():
    # Found by seed 195: validator-1 had finalised a view, nobody knew any more that it was notarised, and without its
    # vote and that of validator-2, whose log was lost, no other certificate was possible.
    names = [f"validator-{index}" for index in range(4)]
    crashes = tuple(
        Crash(name, 2_805, back_ms) for name, back_ms in zip(names, (4_191, 3_395, 3_805, 4_518), strict=True)
    )
    cut = Partition(618, 3_259, (("validator-1", "validator-2", "validator-3"),))
    faults = FaultPlan(latency_ms=5, jitter_ms=20, partitions=(cut,), crashes=crashes)
    for seed in (195, *range(10)):
        weather = Weather(calm_ms=3_511, faults=faults, slow=(("validator-1", 293),), forgetful=("validator-2",))
        assert Agreement(seed, weather).run().violations == []


def test_a_nullification_that_everybody_has_forgotten_is_made_again():
    # Found by seed 4146: all came into view 3 by certificates, the power went, and nobody could show any more that
    # view 2 was void, nor would any two have voted for it again; without that no leader could propose.
    ups = zip((f"validator-{index}" for index in range(4)), (6_049, 6_456, 7_571, 6_752), strict=True)
    crashes = tuple(Crash(name, 5_719, back_ms) for name, back_ms in ups)
    faults = FaultPlan(latency_ms=5, jitter_ms=80, loss_bp=3_000, crashes=crashes)
    for seed in (4146, *range(10)):
        weather = Weather(calm_ms=7_435, crash_bp=1_500, faults=faults, forgetful=("validator-3",))
        assert Agreement(seed, weather).run().violations == []


def test_who_decides_without_the_block_does_not_leave_the_others_behind():
    # Found by seed 2052: validator-1 had decided and could get the block from nobody, since its vote had been lost on
    # its way to those who would have decided by it.
    faults = FaultPlan(latency_ms=20, jitter_ms=2, loss_bp=3_000)
    for seed in (2052, *range(10)):
        weather = Weather(calm_ms=7_199, faults=faults, liars=(("validator-3", "equivocating"),))
        assert Agreement(seed, weather).run().violations == []


def test_who_is_a_view_ahead_does_not_nullify_one_view_after_another():
    # Found by seed 42819: validator-6 and the liars nullified views 3 to 14 before the four others were in them, who
    # finalised each and then waited in it, their timers stretched by a long height that validator-6 had not been in.
    cheats = (("validator-2", "nullifying"), ("validator-4", "withholding"))
    faults = FaultPlan(latency_ms=1, jitter_ms=2, loss_bp=3_000)
    for seed in (42819, *range(10)):
        weather = Weather(validators=7, calm_ms=6_926, faults=faults, liars=cheats)
        assert Agreement(seed, weather).run().violations == []


def test_with_real_keys_whoever_equivocates_is_slashed_on_the_ledger():
    runs = [agree(seed, "equivocating", has_real_keys=True) for seed in range(3)]
    assert [run.found.violations for run in runs] == [[]] * len(runs)
    assert any(run.found.slashed for run in runs)


def test_in_good_weather_every_height_is_decided_in_its_first_view():
    run = Agreement(1, Weather(faults=FaultPlan(), calm_ms=3_000))
    assert run.run().violations == []
    assert not run.found.has_view_change
    assert run.found.transactions >= 3


def test_a_run_that_fails_is_explained_with_less_weather_and_a_token_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    seed, cheats = 5, (("validator-1", "silent"), ("validator-2", "silent"))
    weather = Weather(calm_ms=2_000, faults=BAD, crash_bp=100, liars=cheats)
    monkeypatch.setattr("testnet.consensus.sweep.draw_weather", lambda seed: weather)
    with pytest.raises(Failed) as caught:
        sweep([seed])
    failed = caught.value
    assert (failed.seed, failed.weather) == (seed, weather)
    assert failed.milder == Weather(calm_ms=2_000, faults=FaultPlan(jitter_ms=0), liars=cheats)
    assert failed.last_events

    assert main(["sim", "--replay", failed.token, "--json"]) == ExitCode.INVARIANT_VIOLATED
    assert '"is_same": true' in capsys.readouterr().out
    assert main(["sim", "--seeds", f"{seed}..{seed + 1}"]) == ExitCode.INVARIANT_VIOLATED
    said = capsys.readouterr()
    assert failed.token in said.err
    assert failed.milder.to_text() in said.out


def test_a_failed_run_gets_through_a_context():
    @contextmanager
    def through() -> Iterator[None]:
        yield

    failed = Failed(1, "a stall", Weather(), Weather(), (), "")
    with pytest.raises(Failed) as caught, through():
        raise failed
    assert caught.value is failed


def test_the_same_seed_gives_the_same_run_whatever_the_hash_seed():
    code = (
        "from testnet.consensus.network import Agreement\nfrom testnet.consensus.weather import draw_weather\n"
        "for seed in range(100, 108):\n"
        "    run = Agreement(seed, draw_weather(seed)); run.run(); print(run.found.events, run.trace)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout
        for hash_seed in ("0", "4711")
    ]
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == 8


def test_weathers_survive_being_written_down_and_get_milder():
    for seed in range(40):
        weather = draw_weather(seed)
        assert Weather.from_text(weather.to_text()) == weather
        run = Run(seed, weather, 5, 6)
        assert replace(parse_token(format_token(run)), version="") == run
        assert weather not in list_milder(weather)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"liars":[["validator-9","silent"]]}', '{"liars":[["validator-1","kind"]]}', '{"colour":1}']
)
def test_what_is_no_weather_says_so(text: str):
    with pytest.raises(LocalError):
        Weather.from_text(text)


def test_seeds_are_tried_by_a_command(capsys: pytest.CaptureFixture[str]):
    assert main(["sim", "--seeds", "1..4", "--json"]) == ExitCode.OK
    assert '"seeds": 3' in capsys.readouterr().out
    for wrong in (["--seeds", "3..3"], ["--seeds", "x"], [], ["--seeds", "0..1", "--replay", "rms1-"]):
        assert main(["sim", *wrong]) == ExitCode.USAGE
    assert main(["sim", "--replay", "rmc1-x"]) == ExitCode.USAGE


def test_a_sweep_that_shows_too_little_says_what_is_missing():
    sums = Sweep(1_000, heights_min=4, with_partition=299, with_lying_proposer=200, with_view_change_after_heal=100)
    assert [line.split(":")[0] for line in sums.find_missing()] == [
        "4 heights in one seed, not 5",
        "with partition",
        "with crash and restart",
    ]
