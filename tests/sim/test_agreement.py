"""Validators in virtual time, by the hundred seeds: no fork, no stall, nobody honest accused."""

import pytest

from testnet.cli import main
from testnet.cli.output import ExitCode
from testnet.consensus_sim import Agreement, Weather, draw_weather, sweep


def test_whatever_goes_wrong_validators_never_disagree_and_all_decide_once_it_is_over():
    found = sweep(range(300))
    assert found.heights >= 5 * found.seeds
    assert found.with_partition >= 0.3 * found.seeds
    assert found.with_crash >= 0.3 * found.seeds
    assert found.with_view_change >= 0.1 * found.seeds


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
