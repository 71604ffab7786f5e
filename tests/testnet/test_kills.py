"""`kill -9` of processes in mid-run: the others go on, `node run` brings them back, nothing acknowledged is lost."""

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from testnet.cli.output import ExitCode
from testnet.events import EventFollower
from tests.testnet.networks import Up, kill_hard, run_cli, run_node_process, start_network, wait_until

TIMEOUT_S = 110.0


def is_attested(follower: EventFollower, wanted: int) -> bool:
    return len(follower.read().released_ms) >= wanted


def run_through_kills(directory: Path, rows: int, victims: list[str], seed: int) -> None:
    """Load a network, kill each victim in mid-run and start it again; check that in the end nothing is missing."""
    arguments = ("--load", "digits", "--rows", str(rows), "--seed", str(seed))
    with start_network(directory, *arguments) as up, ExitStack() as restarted:
        up.wait_for_go()
        follower, pids = up.follow(), up.pids
        for number, victim in enumerate(victims, start=1):
            wanted = rows * number // (len(victims) + 2)
            wait_until(partial(is_attested, follower, wanted), f"{wanted} attested", TIMEOUT_S)
            settled_before = set(follower.read().settled_ms)
            height_before = int(up.get_status(victim)["height"])
            kill_hard(pids[victim])
            process = restarted.enter_context(run_node_process(directory / "nodes" / victim))
            pids[victim] = process.pid
            is_back = partial(has_caught_up, up, victim, process.pid, height_before)
            wait_until(is_back, f"{victim} is back", TIMEOUT_S)
            assert settled_before <= set(follower.read().settled_ms)
        stdout, stderr = up.process.communicate(timeout=TIMEOUT_S)

    assert up.process.returncode == ExitCode.OK, (stdout, stderr)
    report = json.loads(stdout)
    assert all(report["bars"].values()), report["bars"]
    assert report["requests"]["settled"] == report["requests"]["attested"] >= rows
    assert run_cli("testnet", "check", str(directory))[0] == ExitCode.OK


def has_caught_up(up: Up, victim: str, pid: int, height: int) -> bool:
    """The new process of a killed node serves, from where the old one was."""
    status = up.get_status(victim)
    return status.get("pid") == pid and status.get("state") == "serving" and int(status["height"]) >= height


@pytest.mark.full  # in `make test`: 25 kills in test_nothing_lost.py, 25 in test_validators.py
def test_a_worker_the_validator_and_the_client_are_killed_in_mid_run_and_nothing_is_lost(tmp_path: Path) -> None:
    run_through_kills(tmp_path / "net", 100, ["inference-1", "validator-0", "client-0"], seed=21)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [31, 32])
def test_twenty_kills_of_every_role(tmp_path: Path, seed: int) -> None:
    names = [*(f"inference-{index}" for index in range(3)), "verifier-0", "verifier-1"]
    names += ["validator-0", "client-0", "oracle-0", "storage-0"]
    run_through_kills(tmp_path / "net", 600, [*names, "validator-0"], seed)
