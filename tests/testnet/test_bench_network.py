"""The load of a whole network: what its series say, how its pieces are kept, and a small one from end to end."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testnet.bench.network import measure as bench
from testnet.bench.network.arithmetic import (
    SAMPLES_MIN,
    STEP_MS,
    WINDOW_MS,
    Growth,
    Knee,
    Step,
    compute_growth,
    compute_recovery_s,
    find_knee,
    find_usable,
)
from testnet.bench.network.check import Checked
from testnet.bench.network.course import Course, choose_minority
from testnet.bench.network.keep import NotKept, read_kept, run_pieces
from testnet.bench.network.measure import Measured, Piece
from testnet.bench.network.network import Life
from testnet.bench.network.pace import ASKED_NAME, Asked, AskedFollower, format_asked, read_pace, write_pace
from testnet.cli.output import ExitCode
from testnet.page.page import PAGE_NAME
from tests.testnet.networks import find_descendants, run_cli, wait_until

CHECKED = Checked(
    blocks=9,
    transactions=9,
    findings=(),
    acknowledged=990,
    paid=985,
    refunded=5,
    unaccounted=0,
    unheard=0,
    under_way=0,
    lies=5,
    lies_proven=2,
    lies_paid=0,
    lies_proven_paid=0,
)
MEASURED = Measured(
    piece=Piece(1, "individual", 0),
    took_s=200.0,
    knee=Knee(60.0, 70.0),
    usable_per_s=40.0,
    light_p50=100.0,
    light_p99=200.0,
    near_p50=200.0,
    near_p99=600.0,
    beyond_begun_per_s=170.0,
    beyond_per_s=63.0,
    refused_p99=50.0,
    asked=1_000,
    answered=990,
    codes={"busy": 10},
    late=1,
    recovered_s=20.0,
    regained_s=0.0,
    growth={"client": Growth(1.0, 2.0, 100.0)},
    dead={},
    is_settled=True,
    checked=CHECKED,
)
SHORT = Course(
    first_s=2.0,
    light_s=4.0,
    step_s=2.0,
    near_s=3.0,
    beyond_s=3.0,
    warm_s=0.5,
    steady_s=3.0,
    partition_s=3.0,
    recover_s=7.0,
    churn_s=4.0,
)
PER_S = 20


# The knee


def test_a_network_that_follows_every_pace_has_its_knee_at_the_last_one():
    assert find_knee([Step(10, 10), Step(20, 19.5)]) == Knee(20, 19.5)


def test_one_step_that_was_not_followed_is_an_accident_where_a_faster_one_was():
    assert find_knee([Step(10, 5), Step(20, 20), Step(40, 25)]) == Knee(25, 25)


def test_a_network_that_never_follows_has_its_knee_where_it_began_to_fall_behind():
    assert find_knee([Step(10, 4), Step(20, 5)]) == Knee(4, 5)


@given(capacity=st.floats(5, 500), first=st.floats(1, 20))
def test_the_knee_of_what_answers_all_it_can_is_what_it_can(capacity: float, first: float):
    paces = [first * 1.5**number for number in range(16)]

    knee = find_knee([Step(pace, min(pace, capacity)) for pace in paces])

    assert 0.95 * min(capacity, paces[-1]) <= knee.per_s <= 1.06 * capacity


def test_a_pace_is_usable_when_it_is_followed_in_time_and_one_nobody_timed_is_not():
    steps = [Step(10, 10, 80), Step(20, 20, 301), Step(40, 40, 300), Step(60, 50, 200), Step(80, 80)]

    assert find_usable(steps, 300) == 40
    assert find_usable(steps, 50) == 0


# Recovery


def answer_evenly(*stretches_ms: tuple[int, int]) -> list[int]:
    return [at_ms for start_ms, end_ms in stretches_ms for at_ms in range(start_ms, end_ms, 1_000 // PER_S)]


def test_who_goes_on_as_before_has_recovered_at_once():
    assert compute_recovery_s(answer_evenly((0, 60_000)), 20_000, 60_000, PER_S) == 0.0


def test_who_does_not_come_back_has_not_recovered():
    assert compute_recovery_s(answer_evenly((0, 20_000)), 20_000, 60_000, PER_S) is None


def test_who_comes_back_and_falls_again_has_recovered_only_after_that():
    answered_ms = answer_evenly((0, 20_000), (25_000, 32_000), (38_000, 60_000))

    assert 17 <= compute_recovery_s(answered_ms, 20_000, 60_000, PER_S) <= 18


def test_a_time_shorter_than_a_window_shows_nothing():
    assert compute_recovery_s(answer_evenly((0, 9_000)), 5_000, 9_000, PER_S) is None


@given(pause_ms=st.integers(1_000, 30_000))
def test_recovery_is_as_long_as_the_pause_but_for_what_a_window_forgives(pause_ms: int):
    answered_ms = answer_evenly((0, 20_000), (20_000 + pause_ms, 70_000))

    found_s = compute_recovery_s(answered_ms, 20_000, 70_000, PER_S)

    assert found_s is not None
    assert pause_ms - 0.1 * WINDOW_MS - STEP_MS <= 1_000 * found_s <= pause_ms + STEP_MS


# Memory


def test_the_slope_of_a_process_leaves_out_its_warm_up():
    sizes = [50_000_000 + 1_000_000 * min(second, 40) + 1_000 * max(0, second - 40) for second in range(100)]

    growth = compute_growth([float(second) for second in range(100)], sizes)

    assert growth is not None
    assert growth.slope == pytest.approx(3.6)
    assert growth.held == pytest.approx(90.059)
    assert compute_growth([0.0] * (SAMPLES_MIN - 1), [1] * (SAMPLES_MIN - 1)) is None


def test_of_a_role_the_process_counts_that_grew_fastest_and_was_there_for_half_of_the_run():
    seconds = [float(second) for second in range(100)]

    def live(count: int, grown: int) -> Life:
        return Life("verifier", seconds[:count], [100_000_000 + grown * second for second in range(count)])

    found = bench.find_growth([live(100, 1_000), live(60, 2_000), live(40, 9_000)])

    assert found["verifier"].slope == pytest.approx(7.2)


# Bars


def test_bars_that_are_met_to_the_last_hold():
    assert MEASURED.list_missed() == []


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"near_p99": 601.0}, "near_p99"),
        ({"beyond_per_s": 62.9}, "beyond"),
        ({"late": 2}, "in_time"),
        ({"checked": replace(CHECKED, unheard=1)}, "in_time"),
        ({"checked": replace(CHECKED, lies_paid=1)}, "wrongly_paid"),
        ({"checked": replace(CHECKED, findings=("voucher 3 is settled twice",))}, "wrongly_paid"),
        ({"recovered_s": None}, "recovery_partition"),
        ({"regained_s": 20.25}, "recovery_workers"),
        ({"is_settled": False}, "settled"),
        ({"dead": {"oracle-0": 1}}, "no_death"),
    ],
)
def test_each_bar_can_be_missed(changes, missed: str):
    assert replace(MEASURED, **changes).list_missed() == [missed]


def test_what_is_not_accounted_for_was_neither_answered_nor_given_back():
    lost = replace(MEASURED, late=0, checked=replace(CHECKED, unaccounted=2))

    assert lost.list_missed() == ["in_time", "unaccounted"]


def test_in_batches_a_lie_is_wrongly_paid_only_if_it_was_proven():
    batch = replace(MEASURED, piece=Piece(1, "batch", 20_000), checked=replace(CHECKED, lies_paid=3))

    assert batch.list_missed() == []
    assert replace(batch, checked=replace(batch.checked, lies_proven_paid=1)).list_missed() == ["wrongly_paid"]


def test_of_many_pieces_counts_are_added_and_every_bar_that_one_misses_is_named():
    results = [MEASURED, replace(MEASURED, asked=3_000, near_p99=900.0, answered=2_000)]

    figures = {figure.name: figure for figure in bench.make_figures(results)}

    assert (figures["refusals"].value, figures["refusals"].peer_value) == (1_010, 4_000)
    assert (figures["near_p99"].value, figures["near_p99"].peer_value) == (750.0, 600.0)
    assert bench.list_missed(results) == {"near_p99": 1}


def test_all_of_the_load_is_a_million_requests_in_networks_of_their_own():
    pieces = bench.plan(7, full=True)

    assert sum(piece.requests for piece in pieces) == 1_000_000
    assert len({piece.seed for piece in pieces}) == len(pieces)


# What is kept


def test_a_load_that_was_broken_off_goes_on_where_it_was(tmp_path: Path):
    pieces, done = [Piece(seed, "batch", MEASURED.asked) for seed in range(3)], []
    path = tmp_path / "load.jsonl"

    def run(piece: Piece) -> Measured:
        done.append(piece.seed)
        return replace(MEASURED, piece=piece)

    first = next(run_pieces(pieces, run, path))
    with path.open("a") as file:
        file.write('{"piece":{"seed":1')  # torn by a kill
    results = list(run_pieces(pieces, run, path))

    assert done == [0, 1, 2]
    assert [result.piece for result in results] == pieces
    assert results[0] == first
    assert list(read_kept(path).values()) == results


def test_networks_are_run_until_they_were_asked_for_as_much_as_all_were_to_be(tmp_path: Path):
    pieces = [Piece(seed, "batch", MEASURED.asked * 2 // 5) for seed in range(5)]

    for path in (None, tmp_path / "load.jsonl", tmp_path / "load.jsonl"):
        results = list(run_pieces(pieces, lambda piece: replace(MEASURED, piece=piece), path))
        assert [result.piece for result in results] == pieces[:2]


@pytest.mark.parametrize("line", ["{}", "[]", "1", "no json", json.dumps({"piece": {"seed": 1}})])
def test_a_file_with_something_else_in_it_is_left_alone(tmp_path: Path, line: str):
    path = tmp_path / "load.jsonl"
    path.write_text(line + "\n")

    with pytest.raises(NotKept, match="line 1"):
        next(run_pieces([Piece(1, "batch", 10)], lambda piece: MEASURED, path))

    assert path.read_text() == line + "\n"


def test_a_file_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path):
    code, said = run_cli("bench", "network", "--keep", str(tmp_path / "none" / "load.jsonl"))

    assert (code, said["error"]["code"]) == (ExitCode.CONFIG, "not_kept")


def test_a_network_is_kept_where_nothing_is_yet_and_never_ten(tmp_path: Path):
    code, said = run_cli("bench", "network", "--dir", str(tmp_path))
    assert (code, said["error"]["code"]) == (ExitCode.CONFIG, "directory_in_use")

    code, said = run_cli("bench", "network", "--full", "--dir", str(tmp_path / "new"))
    assert (code, said["error"]["code"]) == (ExitCode.USAGE, "many_networks")


# What clients write


def test_requests_are_read_as_they_come_and_torn_lines_are_passed_over(tmp_path: Path):
    follower = AskedFollower([tmp_path])
    assert follower.read() == []
    first, second = Asked(5, 7, ""), Asked(6, 9, "busy", "aa")
    log = tmp_path / ASKED_NAME
    log.write_text(format_asked(first) + '{"at_ms": 3')
    assert follower.read() == [first]
    with log.open("a") as file:
        file.write("\n" + format_asked(second))
    assert follower.read() == [first, second]


def test_nobody_asks_before_a_pace_is_set(tmp_path: Path):
    assert read_pace(tmp_path / "pace.json") == 0.0
    write_pace(tmp_path / "pace.json", 12.5)
    assert read_pace(tmp_path / "pace.json") == 12.5


def test_a_partition_cuts_off_one_of_each_role():
    assert choose_minority(["validator-0", "validator-1", "verifier-0"]) == ("validator-1", "verifier-0")


# Real processes


@pytest.mark.full
@pytest.mark.timeout(300)
def test_a_small_load_with_all_faults_pays_nothing_wrongly_and_loses_nothing(tmp_path: Path):
    notes: list[str] = []

    measured = bench.measure(Piece(31, "batch", 0), SHORT, notes.append, tmp_path / "net")

    checked = measured.checked
    assert measured.is_settled, notes
    assert measured.asked > 300
    assert checked.acknowledged == checked.paid + checked.refunded >= measured.answered
    assert (measured.wrongly_paid, checked.unaccounted, checked.under_way, measured.dead) == (0, 0, 0, {})
    assert (tmp_path / "net" / PAGE_NAME).stat().st_size > 10_000
    assert measured.growth.keys() == {"validator", "inference", "verifier", "storage", "oracle", "client"}


@pytest.mark.full
@pytest.mark.timeout(120)
def test_an_interrupt_ends_all_processes_and_says_so():
    command = [sys.executable, "-m", "testnet.cli", "bench", "network", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("light load" in line for line in process.stderr)
        below = find_descendants(process.pid)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)

    assert (process.returncode, stdout) == (ExitCode.INTERRUPTED, "")
    assert "stopped: 0 of 1 networks" in stderr
    assert below
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), "all are gone", 10.0)
