"""Feeds and scheduled work of real processes: reported in time, proven, fired, done, and shown by the commands."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from protocol.ledger.apply import decode_transactions
from protocol.ledger.block import Block
from protocol.ledger.state import State
from protocol.ledger.transactions import ReportOracle
from testnet.cli.output import ExitCode
from testnet.cli.schedule import FEED, HEARTBEAT_MS, WORKFLOW
from testnet.recompute import recompute_directory
from tests.testnet.networks import Up, run_cli, start_network, wait_until

ROUNDS = 40
DONE = 3


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    roles = "validator=1,oracle=4,inference=2,verifier=2,storage=1,client=1"
    words = ("--seed", "29", "--roles", roles, "--workflow", "volatility")
    with start_network(tmp_path_factory.mktemp("feeds") / "net", *words) as up:
        up.wait_for_go()
        yield up


def list_reports(directory: Path) -> dict[tuple[int, int], int]:
    """Positions of the feed by the time of the block that has their report; none twice."""
    found: dict[tuple[int, int], int] = {}

    def take(before: State, block: Block, after: State) -> None:
        for transaction in decode_transactions(block):
            if isinstance(transaction.content, ReportOracle) and transaction.content.observations[0].feed == FEED:
                first = transaction.content.observations[0]
                assert (first.round, first.sequence) not in found
                found[first.round, first.sequence] = block.header.time_ms

    assert recompute_directory(directory, take).holds
    return found


@pytest.mark.full
def test_reports_of_real_processes_come_within_a_heartbeat_and_are_proven(standing: Up, tmp_path: Path) -> None:
    where = ("--dir", str(standing.directory))

    def is_reported() -> bool:
        code, told = run_cli("oracle", "feeds", *where)
        return code == ExitCode.OK and any(
            row["feed"] == FEED and row["reports"] > ROUNDS and row["observing"] == 4 for row in told["feeds"]
        )

    wait_until(is_reported, f"{ROUNDS} reports", 90)
    reports = list_reports(standing.directory)
    rounds = sorted(position[0] for position in reports)
    latencies = sorted(reports[number, 0] - number * HEARTBEAT_MS for number in rounds)
    late = sum(latency > HEARTBEAT_MS for latency in latencies)
    assert late <= len(latencies) // 100, latencies
    assert len(rounds) >= 0.95 * (rounds[-1] - rounds[0] + 1)

    proof, genesis = tmp_path / "live.proof", str(standing.directory / "testnet.json")
    question = ("oracle", "candles", FEED, "--duration", "2s", "--count", "5")
    code, told = run_cli(*question, *where, "--out", str(proof))
    assert code == ExitCode.OK
    assert len(told["candles"]) == 5
    assert all(candle["volume"] >= 3 for candle in told["candles"])
    code, shown = run_cli(*question, "--proof", str(proof), "--genesis", genesis)
    assert (code, shown["candles"]) == (ExitCode.OK, told["candles"])
    code, told = run_cli("verify", str(proof), "--genesis", genesis)
    assert (code, told["verified"]) == (ExitCode.OK, 1)


@pytest.mark.full
def test_scheduled_work_of_real_processes_is_fired_done_and_has_a_history(standing: Up) -> None:
    where = ("--dir", str(standing.directory))

    def is_done() -> bool:
        code, told = run_cli("workflow", "ls", *where)
        return code == ExitCode.OK and any(row["done"] >= DONE for row in told["workflows"])

    wait_until(is_done, f"{DONE} results", 90)
    code, told = run_cli("workflow", "runs", WORKFLOW, *where)
    assert code == ExitCode.OK
    ticks = told["ticks"]
    assert ticks[0]["outcome"] in ("stale", "no history")  # before there are nine seconds of it
    assert sum(tick["outcome"] == "done" and tick["value"] > 0 for tick in ticks) >= DONE
    assert all(tick["first"] == before["last"] + 1 for before, tick in pairwise(ticks))
    code, told = run_cli("oracle", "candles", WORKFLOW, "--duration", "2s", "--count", "20", *where)
    assert code == ExitCode.OK
    assert len(told["candles"]) >= DONE - 1


@pytest.mark.full
def test_feeds_and_workflows_are_put_on_the_ledger_and_ended_by_command(standing: Up) -> None:
    node = standing.network.get_node("client-0")
    assert node is not None
    payer = ("--from", str(standing.directory / node.directory))

    code, told = run_cli(
        "oracle", "register", "rain", "--source", "replay", "--path", "mm", "--heartbeat", "1m", *payer
    )
    assert (code, told["state"]) == (ExitCode.OK, "final"), told
    code, told = run_cli("oracle", "register", "rain", "--source", "replay", *payer)
    assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "InvalidFeed")
    code, told = run_cli("oracle", "register", "snow", "--source", "replay", "--decimals", "-1", *payer)
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "bad_value")
    code, told = run_cli("oracle", "retire", "rain", *payer)
    assert (code, told["state"]) == (ExitCode.OK, "final"), told

    what = ("--model", "volatility", "--input", f"{FEED}:close:1s:9", "--every", "3s", "--for", "1m", "--budget", "2")
    code, told = run_cli("workflow", "add", "second", *what, *payer)
    assert (code, told["state"]) == (ExitCode.OK, "final"), told
    few = ("--model", "volatility", "--input", f"{FEED}:close:1s:4", "--every", "3s")
    code, told = run_cli("workflow", "add", "third", *few, *payer)
    assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "InvalidWorkflow")
    code, told = run_cli("workflow", "end", "second", *payer)
    assert (code, told["state"]) == (ExitCode.OK, "final"), told
    code, told = run_cli("workflow", "ls", "--dir", str(standing.directory))
    assert {row["workflow"]: row["is_on"] for row in told["workflows"]} == {WORKFLOW: True, "second": False}
