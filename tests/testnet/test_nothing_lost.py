"""`kill -9` of workers, verifiers and clients under load: each receipt a client holds is paid once, or given back."""

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.keys import parse_node
from roles.control import ask_node
from roles.eventlog import read_events
from testnet.cli.output import ExitCode
from testnet.faults import Crash, FaultPlan
from testnet.found import SAMPLES
from testnet.launch import is_alive
from testnet.load_plan import RowsDone
from tests.testnet.networks import Up, find_descendants, kill_hard, run_cli, start_network, wait_until

ROLES = {"validator": 1, "inference": 2, "verifier": 2, "storage": 1, "client": 2}
KILLED = ("verifier", "inference", "client")  # in turn
VICTIMS = [f"{role}-{index}" for role in KILLED for index in range(ROLES[role])]
WORKERS = [name for name in VICTIMS if name.startswith("inference")]
CLIENTS = [name for name in VICTIMS if name.startswith("client")]
MODES = ["individual", "batch", "private", "mixed"]
ROWS_PER_KILL = 5
RATE = "6"  # of each client: kills take their time, and the load must outlast them however fast it is answered
DOWN_MS_MAX = 1_000
ROWS_AFTER = 100  # the last kill: so many that each client comes to each worker
CALM_MS = 2_500  # after a node is back, before it is killed again
TIMEOUT_S = 170.0
ENGINE_GONE_S = 3.0


@dataclass
class Killer:
    """Kills one node after another, of each role in turn, by the launcher, which starts it again after a while."""

    up: Up
    rng: random.Random
    killed: int = 0
    free_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(VICTIMS, 0.0))

    def kill(self) -> None:
        role = KILLED[self.killed % len(KILLED)]
        candidates = [name for name in VICTIMS if name.startswith(role)]
        victim = min(candidates, key=lambda name: (self.free_s[name], self.rng.random()))
        wait_until(lambda: time.monotonic() > self.free_s[victim], f"{victim} has been left alone", TIMEOUT_S)
        back_ms = self.rng.randrange(50, DOWN_MS_MAX)
        plan = json.loads(FaultPlan(crashes=(Crash(victim, 0, back_ms),)).to_text())
        ask_node(self.up.directory, {"command": "faults.add", "plan": plan, "by": "test"}, TIMEOUT_S)
        self.free_s[victim] = time.monotonic() + (back_ms + CALM_MS) / 1_000
        self.killed += 1


def run_through_kills(directory: Path, mode: str, kills: int, seed: int) -> dict[str, Any]:
    """A load in which nodes are killed all the time; what was reconciled in the end, in which nothing is missing."""
    rows = ROWS_PER_KILL * kills + ROWS_AFTER
    roles = ",".join(f"{role}={count}" for role, count in ROLES.items())
    load = (
        "--load",
        "digits",
        "--rows",
        str(rows),
        "--mode",
        mode,
        "--rate",
        RATE,
        "--in-flight",
        "4",
        "--timeout",
        "15s",
    )
    with start_network(directory, "--roles", roles, "--seed", str(seed), *load) as up:
        up.wait_for_go()
        done = RowsDone([directory / "nodes" / client for client in CLIENTS])
        killer = Killer(up, random.Random(seed))
        while killer.killed < kills:
            wait_until(lambda: done.count() >= ROWS_PER_KILL * killer.killed, f"{killer.killed} killed", TIMEOUT_S)
            killer.kill()
        assert done.count() < rows, "the last kill is under load too"
        stdout, stderr = up.process.communicate(timeout=TIMEOUT_S)
    report: dict[str, Any] = json.loads(stdout)
    told = [event for event in read_events(directory) if event["name"] in ("fault.started", "fault.ended")]
    assert len(told) == 2 * kills, stderr
    assert list_served(up, told) == {(client, worker) for client in CLIENTS for worker in WORKERS}
    # A request whose workers were killed under it may have run out of time: nothing else may be missing.
    assert all(holds for bar, holds in report["bars"].items() if bar != "requests"), report
    found: dict[str, Any] = report["reconciliation"]
    assert found["acknowledged"] > rows // 2
    assert (found["unaccounted"], found["findings"], found["under_way"]) == (0, [], 0)
    assert found["zero_leaves"].keys() <= {"unattested"}, found
    code, checked = run_cli("testnet", "check", str(directory))
    assert (code, checked["receipts"]["unaccounted"]) == (ExitCode.OK, 0)
    return found


def list_served(up: Up, told: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Which worker has answered which client after both were killed last: what they have between them goes on."""
    names = {parse_node(node.node).hex(): node.name for node in up.network.nodes}
    back_ms = {event["nodes"][0]: event["time_ms"] for event in told if event["name"] == "fault.ended"}
    return {
        (client, names[event["worker"]])
        for client in CLIENTS
        for event in read_events(up.directory / "nodes" / client)
        if event["name"] == "result.received"
        and event["time_ms"] > max(back_ms[client], back_ms[names[event["worker"]]])
    }


def test_twenty_five_kills_of_workers_verifiers_and_clients_and_nothing_is_lost(tmp_path: Path) -> None:
    run_through_kills(tmp_path / "net", "mixed", 25, seed=81)


@pytest.mark.full
@pytest.mark.timeout(300)
# A seed of its own for each: two networks of one seed have the same addresses, and may run side by side.
@pytest.mark.parametrize(("mode", "seed"), list(zip(MODES * 2, range(90, 98), strict=True)))
def test_two_hundred_kills_in_all_modes(tmp_path: Path, mode: str, seed: int) -> None:
    """Twenty-five in each of eight networks."""
    run_through_kills(tmp_path / "net", mode, 25, seed)


@pytest.mark.full
def test_engines_are_started_again_and_none_outlives_its_node(tmp_path: Path) -> None:
    directory = tmp_path / "net"
    roles = "validator=1,inference=1,verifier=2,storage=1,client=1"
    with start_network(directory, "--roles", roles, "--seed", "85", "--load", "digits", "--rows", "80") as up:
        up.wait_for_go()
        follower, pids = up.follow(), up.pids
        for number, victim in enumerate(("inference-0", "verifier-0", "inference-0"), 1):
            wait_until(lambda wanted=20 * number: len(follower.read().released_ms) >= wanted, "answers", TIMEOUT_S)  # type: ignore[misc]
            engines = find_descendants(pids[victim])
            assert engines, f"{victim} computes by itself"
            for pid in engines:
                kill_hard(pid)
        stdout, stderr = up.process.communicate(timeout=TIMEOUT_S)
    assert up.process.returncode == ExitCode.OK, (stdout, stderr)


@pytest.mark.full  # in `make test` workers die with whoever has started them: test_pool.py
def test_no_engine_outlives_a_node_that_is_killed(tmp_path: Path) -> None:
    roles = "validator=1,inference=1,verifier=2,storage=1,client=1"
    with np.load(SAMPLES) as samples:
        np.save(tmp_path / "row.npy", samples["inputs"][:1])
    with start_network(tmp_path / "net", "--roles", roles, "--seed", "86") as up:
        up.wait_for_go()
        asked = ("digits", "--input", str(tmp_path / "row.npy"), "--network", str(up.directory))
        assert run_cli("infer", *asked)[0] == ExitCode.OK, "engines start with the first job"
        for victim in ("inference-0", "verifier-0"):
            pid = up.pids[victim]
            wait_until(lambda pid=pid: bool(find_descendants(pid)), f"{victim} has engines", TIMEOUT_S)  # type: ignore[misc]
            engines = find_descendants(pid)
            kill_hard(pid)  # the node alone, not its process group
            gone = lambda engines=engines: not any(map(is_alive, engines))  # noqa: E731
            wait_until(gone, f"the engines of {victim} are gone", ENGINE_GONE_S)
