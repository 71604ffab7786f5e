"""A feed of real processes: reported in time, by four observers, and its history proven while the network runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.ledger.apply import decode_transactions
from protocol.ledger.block import Block
from protocol.ledger.state import State
from protocol.ledger.transactions import ReportOracle
from testnet.cli.output import ExitCode
from testnet.genesis import FEED_NAME
from testnet.recompute import recompute_directory
from tests.testnet.networks import Up, run_cli, start_network, wait_until

HEARTBEAT_MS = 5_000
ROUNDS = 5


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    roles = "validator=1,oracle=4,client=1"
    with start_network(tmp_path_factory.mktemp("feeds") / "net", "--seed", "29", "--roles", roles) as up:
        up.wait_for_go()
        yield up


def list_reports(directory: Path) -> dict[tuple[int, int], int]:
    """Positions of the feed by the time of the block that has their report."""
    found: dict[tuple[int, int], int] = {}

    def take(before: State, block: Block, after: State) -> None:
        for transaction in decode_transactions(block):
            if isinstance(transaction.content, ReportOracle):
                first = transaction.content.observations[0]
                assert (first.round, first.sequence) not in found
                found[first.round, first.sequence] = block.header.time_ms

    assert recompute_directory(directory, take).holds
    return found


@pytest.mark.full
def test_reports_of_real_processes_come_within_a_heartbeat_and_are_proven(standing: Up, tmp_path: Path) -> None:
    def is_reported() -> bool:
        code, told = run_cli("oracle", "feeds", "--dir", str(standing.directory))
        return code == ExitCode.OK and told["feeds"][0]["reports"] > ROUNDS

    wait_until(is_reported, f"{ROUNDS} reports")
    reports = list_reports(standing.directory)
    rounds = sorted(position[0] for position in reports)
    latencies = sorted(reports[number, 0] - number * HEARTBEAT_MS for number in rounds[1:])  # the first was joined late
    assert rounds == list(range(rounds[0], rounds[-1] + 1))
    assert latencies[-1] <= HEARTBEAT_MS

    proof = tmp_path / "goog.proof"
    where = ("--dir", str(standing.directory), "--out", str(proof))
    code, told = run_cli("oracle", "candles", FEED_NAME, "--duration", "5s", "--count", "3", *where)
    assert code == ExitCode.OK
    assert len(told["candles"]) == 3
    assert all(candle["volume"] >= 3 for candle in told["candles"])
    genesis = str(standing.directory / "testnet.json")
    code, told = run_cli("verify", str(proof), "--genesis", genesis)
    assert (code, told["verified"]) == (ExitCode.OK, 1)
