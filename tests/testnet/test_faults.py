"""Faults on real processes: traffic goes on and is settled, ledgers hold, every start and end is in the logs."""

import json
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from roles.eventlog import read_events
from testnet.cli import main
from testnet.cli.output import ExitCode
from testnet.faults import Crash, FaultPlan, LinkFault, Partition, Pause
from testnet.launch import is_alive
from tests.testnet.networks import CLI, Up, run_cli, start_network, wait_until

ROWS = 24
ROLES = "validator=1,inference=3,verifier=2,storage=1,client=1"
TIMEOUT_S = 60.0
PLAN = FaultPlan(
    partitions=(Partition(0, 0, (("inference-0",),)),),  # until it is healed
    links=(
        LinkFault(0, 6_000, delay_ms=10, jitter_ms=10),
        LinkFault(500, 2_000, ("inference-2",), ("validator-0",), both_ways=True, silence="blackhole"),
        LinkFault(600_000, 601_000, delay_ms=1),  # so that the run is not over before the test is
    ),
    crashes=(Crash("inference-1", 1_000, 2_500),),
)


@dataclass
class Faults:
    """`testnet fault …` on one network, in this process: an interpreter for each would take longer than the test."""

    up: Up
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        code = main(["testnet", "fault", *arguments, "--dir", str(self.up.directory), "--json"])
        return code, json.loads(self.capsys.readouterr().out)

    def do(self, *arguments: str) -> dict[str, Any]:
        """A command that does what it is asked."""
        code, said = self.run(*arguments)
        assert code == ExitCode.OK, said
        return said

    def refuse(self, *arguments: str) -> tuple[int, str]:
        code, said = self.run(*arguments)
        return code, said["error"]["code"]


def read_faults(directory: Path) -> tuple[list[str], list[str]]:
    """Ids of the faults whose start and whose end are in an event log."""
    events = [event for event in read_events(directory) if event["name"].startswith("fault.")]
    started, ended = ([e["fault"] for e in events if e["name"] == f"fault.{what}"] for what in ("started", "ended"))
    return started, ended


def count_attested(up: Up) -> int:
    return len(up.follow().read().released_ms)


def assert_all_told(up: Up, ids: Iterable[str]) -> None:
    started, ended = read_faults(up.directory)
    assert sorted(started) == sorted(ended) == sorted(ids)


def test_a_network_with_faults_of_every_kind_goes_on_and_tells_of_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, plan = tmp_path / "net", tmp_path / "faults.json"
    plan.write_text(PLAN.to_text())
    load = ("--roles", ROLES, "--load", "digits", "--rows", str(ROWS), "--seed", "41")
    with start_network(directory, *load, "--faults", str(plan)) as up:
        up.wait_for_go()
        faults = Faults(up, capsys)
        wait_until(lambda: count_attested(up) >= ROWS // 2, "traffic goes on around the partition", TIMEOUT_S)
        assert faults.do("heal", "partition-0") == {"healed": ["partition-0"]}
        wait_until(lambda: count_attested(up) >= ROWS, "traffic goes on", TIMEOUT_S)

        cut = faults.do("partition", "inference-0,client-0", "/", "rest")["faults"][0]
        assert (cut["fault"], cut["state"]) == ("f1.partition-0", "on")
        assert faults.refuse("kill", "inference-7") == (ExitCode.USAGE, "unknown_node")
        assert faults.refuse("heal", "f9") == (ExitCode.USAGE, "unknown_fault")
        assert faults.do("heal", "f1") == {"healed": ["f1.partition-0"]}

        assert faults.do("pause", "verifier-0", "--for", "500ms")["faults"][0]["state"] == "over"
        killed = up.get_status("inference-2")["pid"]
        faults.do("kill", "inference-2")
        wait_until(lambda: not is_alive(killed), "inference-2 dead", TIMEOUT_S)
        assert faults.refuse("pause", "inference-2") == (ExitCode.UNREACHABLE, "node_down")
        assert faults.do("heal", "f3")["healed"] == ["f3.crash-0"]
        serves = lambda: up.get_status("inference-2").get("state") == "serving" and is_back()  # noqa: E731
        is_back = lambda: up.get_status("inference-2")["pid"] != killed  # noqa: E731
        wait_until(serves, "inference-2 serves again", TIMEOUT_S)

        with subprocess.Popen(
            [*CLI, "testnet", "fault", "stall", "--from", "client-0", "--for", "5m", "--dir", str(directory), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as stall:
            is_on = lambda: "f4.link-0" in read_faults(directory)[0]  # noqa: E731
            wait_until(is_on, "the stall is on", TIMEOUT_S)
            stall.send_signal(signal.SIGINT)
            assert stall.wait(TIMEOUT_S) == ExitCode.INTERRUPTED
        wait_until(lambda: "link-0" in read_faults(directory)[1], "the first link is as it was", TIMEOUT_S)
        assert faults.do("heal") == {"healed": ["link-2"]}
        stdout, stderr = up.process.communicate(timeout=TIMEOUT_S)

    assert up.process.returncode == ExitCode.OK, (stdout, stderr)
    report = json.loads(stdout)
    assert report["requests"]["settled"] == report["requests"]["attested"] >= ROWS
    ids = ["partition-0", "link-0", "link-1", "crash-0", "f1.partition-0", "f2.pause-0", "f3.crash-0", "f4.link-0"]
    assert_all_told(up, ids)
    assert {found["fault"]: found["ended_ms"] is not None for found in report["faults"]} == dict.fromkeys(ids, True)
    assert next(found for found in report["faults"] if found["fault"] == "partition-0")["answered"] >= ROWS // 2
    on_links = {"partition-0", "link-0", "f1.partition-0", "f4.link-0"}
    started, ended = read_faults(directory / "nodes" / "client-0")
    assert set(started) == set(ended) == on_links
    assert run_cli("testnet", "check", str(directory))[0] == ExitCode.OK


def test_a_plan_that_cannot_be_is_refused_before_anything_starts(tmp_path: Path) -> None:
    plan = tmp_path / "faults.json"
    for text, code in (
        ('{"pauses": [["inference-9", 0, 5]]}', "unknown_node"),
        ('{"pauses": [["inference-0", 5, 5]]}', "bad_plan"),
        ("pauses", "bad_plan"),
    ):
        plan.write_text(text)
        exit_code, said = run_cli("testnet", "up", "--dir", str(tmp_path / "net"), "--faults", str(plan))
        assert (exit_code, said["error"]["code"]) == (ExitCode.USAGE, code)
        assert said["error"]["hint"]
    assert not (tmp_path / "net").exists()


def test_faults_need_a_network_that_runs(tmp_path: Path) -> None:
    code, said = run_cli("testnet", "fault", "ls", "--dir", str(tmp_path))

    assert (code, said["error"]["code"]) == (ExitCode.UNREACHABLE, "no_network")


@pytest.mark.full
@pytest.mark.timeout(300)
def test_a_network_lives_through_churn_pauses_and_partitions_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, plan = tmp_path / "net", tmp_path / "faults.json"
    storm = FaultPlan(
        partitions=(
            Partition(2_000, 8_000, (("inference-0", "verifier-0"),), one_way=True),
            Partition(10_000, 14_000, (("client-0",),), refuse=True),
        ),
        links=(LinkFault(0, 30_000, delay_ms=15, jitter_ms=15, loss_bp=100),),
        pauses=(Pause("validator-0", 5_000, 9_000), Pause("storage-0", 12_000, 18_000)),
    )
    plan.write_text(storm.to_text())
    load = ("--roles", ROLES, "--load", "digits", "--rows", "400", "--seed", "43", "--faults", str(plan))
    with start_network(directory, *load) as up:
        up.wait_for_go()
        faults = Faults(up, capsys)
        faults.do("churn", "--rate", "20", "--down", "2s", "--for", "25s")
        stdout, stderr = up.process.communicate(timeout=240)

    assert up.process.returncode == ExitCode.OK, (stdout, stderr)
    started, ended = read_faults(directory)
    assert sorted(started) == sorted(ended)
    assert len(started) > len(storm.list_faults())
    assert run_cli("testnet", "check", str(directory))[0] == ExitCode.OK
