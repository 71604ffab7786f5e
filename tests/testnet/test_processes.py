"""Processes that never outlive whoever started them. Real processes, no network."""

import os
import platform
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testnet.give_way import TURN_MS
from testnet.launch import Launcher, Program, is_alive
from testnet.network_file import NetworkFile

SLEEPER = "tests.testnet.sleeper:main"
TIMEOUT_S = 20.0


def wait_until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        select.select([], [], [], 0.01)


def shows_turns() -> bool:
    """Linux heeds how long turns are to be since 6.12, and shows it where it was built to."""
    numbers = re.findall("[0-9]+", platform.release())
    return Path("/proc/self/sched").exists() and tuple(map(int, numbers[:2])) >= (6, 12)


@pytest.fixture
def network() -> NetworkFile:
    return NetworkFile("dev-1", "00" * 8, 1, 0, {}, (), ())


@pytest.fixture(params=[False, True], ids=["fork", "spawn"])
def launcher(request: pytest.FixtureRequest, tmp_path: Path, network: NetworkFile) -> Iterator[Launcher]:
    (tmp_path / "logs").mkdir()
    with Launcher(tmp_path, network, spawn=request.param, warm=("tests.testnet.sleeper",), grace_s=0.3) as launcher:
        yield launcher


def start(launcher: Launcher, *names: str, how: str = "obey") -> dict[str, int]:
    log = launcher.directory / "logs"
    home = launcher.directory
    launcher.start([Program(name, SLEEPER, (str(home / name), how), log / f"{name}.log") for name in names])

    def is_up() -> bool:
        return all((launcher.directory / name).exists() and name in launcher.pids for name in names)

    assert launcher.wait(is_up, TIMEOUT_S, lambda: None)
    return {name: launcher.pids[name] for name in names}


def test_every_process_leads_its_own_session_and_draws_its_own_numbers(launcher: Launcher) -> None:
    pids = start(launcher, "a", "b")

    reports = {name: (launcher.directory / name).read_text().split() for name in pids}
    assert {name: int(report[0]) for name, report in reports.items()} == pids
    assert all(os.getsid(pid) == pid for pid in pids.values())
    assert reports["a"][1] != reports["b"][1]


def test_a_process_is_as_nice_as_it_is_told_to_be_alone_and_among_sessions(launcher: Launcher) -> None:
    log, home = launcher.directory / "logs" / "all.log", launcher.directory
    launcher.start([Program(str(nice), SLEEPER, (str(home / str(nice)), "obey"), log, nice) for nice in (0, 7)])
    assert launcher.wait(lambda: all((home / str(nice)).exists() for nice in (0, 7)), TIMEOUT_S, lambda: None)
    assert launcher.wait(lambda: len(launcher.pids) == 2, TIMEOUT_S, lambda: None)

    own = os.getpriority(os.PRIO_PROCESS, 0)
    polite, other = launcher.pids["7"], launcher.pids["0"]
    assert os.getpriority(os.PRIO_PROCESS, polite) == min(own + 7, 19)
    assert os.getpriority(os.PRIO_PROCESS, other) == own
    group = Path(f"/proc/{polite}/autogroup")
    assert not os.access(group, os.W_OK) or group.read_text().endswith(f" nice {min(own + 7, 19)}\n")


@pytest.mark.skipif(not shows_turns(), reason="this kernel does not show the length of turns, or not heed it")
def test_who_gives_way_takes_long_turns_and_so_does_what_it_starts(tmp_path: Path) -> None:
    log = tmp_path / "turns"
    script = (
        "import subprocess, sys; from testnet.give_way import give_way; give_way(int(sys.argv[1]));"
        "print(next(line for line in open('/proc/self/sched') if line.startswith('se.slice')).split()[-1], flush=True);"
        "subprocess.run(['grep', 'se.slice', '/proc/self/sched'])"
    )
    turns_ms = {}
    for nice in (0, 3):
        with log.open("w") as output:
            subprocess.run([sys.executable, "-c", script, str(nice)], stdout=output, check=True, timeout=TIMEOUT_S)
        turns_ms[nice] = [int(line.split()[-1]) / 1e6 for line in log.read_text().splitlines()]

    assert turns_ms[3] == [TURN_MS, TURN_MS]
    assert max(turns_ms[0]) < TURN_MS


def test_the_death_of_a_process_is_reported_with_its_signal_and_the_others_live_on(launcher: Launcher) -> None:
    pids = start(launcher, "a", "b")

    launcher.kill("a", signal.SIGKILL)

    assert launcher.wait(lambda: "a" in launcher.exits, TIMEOUT_S, lambda: None)
    assert launcher.exits["a"] == -signal.SIGKILL
    assert is_alive(pids["b"])


def test_ending_the_launcher_ends_every_process_even_one_that_ignores_being_asked(launcher: Launcher) -> None:
    pids = start(launcher, "deaf", how="ignore") | start(launcher, "polite")

    launcher.end()

    assert not [pid for pid in pids.values() if is_alive(pid)]


def test_a_program_that_cannot_run_is_reported_and_says_why_in_its_log(launcher: Launcher) -> None:
    log = launcher.directory / "logs" / "bad.log"
    launcher.start([Program("bad", "no.such.module:main", (), log)])

    assert launcher.wait(lambda: "bad" in launcher.exits, TIMEOUT_S, lambda: None)
    assert launcher.exits["bad"] == 1
    assert "no.such" in log.read_text() or "'no'" in log.read_text()


@pytest.mark.parametrize("mode", ["fork", "spawn"])
def test_nothing_survives_a_launcher_that_is_killed(tmp_path: Path, mode: str) -> None:
    code = "from tests.testnet.sleeper import launch; launch()"
    command = [sys.executable, "-c", code, str(tmp_path), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 3
        assert all(is_alive(pid) for pid in pids)
        process.kill()

    wait_until(lambda: not any(is_alive(pid) for pid in pids))
