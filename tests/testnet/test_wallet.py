"""The wallet on a network of real processes: money moves to the grain, refusals name their numbers, nothing races."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.keys import format_account
from testnet.cli.arguments import parse_amount
from testnet.cli.output import CommandError, ExitCode, format_role
from tests.testnet.networks import Up, run_cli, start_network, wait_until

SENDS = 50
AMOUNT = "0.000000007"
STRANGER = format_account(bytes([9] * 32))
# Runs as a process of its own: many threads, each of them one command.
SENDER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from testnet.cli import main
count, *words = sys.argv[1:]
with ThreadPoolExecutor(int(count)) as threads:
    sys.exit(max(threads.map(lambda _: main(words), range(int(count)))))
"""


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    roles = "validator=1,inference=1,verifier=2,storage=1,client=1"
    with start_network(tmp_path_factory.mktemp("wallet") / "net", "--seed", "23", "--roles", roles) as up:
        up.wait_for_go()
        yield up


def directory_of(up: Up, name: str) -> str:
    node = up.network.get_node(name)
    assert node is not None
    return str(up.directory / node.directory)


def run(up: Up, *words: str) -> tuple[int, dict[str, Any]]:
    """A wallet command of the network's client."""
    return run_cli("ledger", *words, "--from", directory_of(up, "client-0"))


def get_free(up: Up, who: str) -> int:
    code, told = run_cli("ledger", "balance", who, "--dir", str(up.directory))
    assert code == ExitCode.OK
    return int(told["accounts"][0]["free"])


def test_a_transfer_is_final_and_moves_its_amount_to_the_grain(standing: Up) -> None:
    before, had = get_free(standing, "client-0"), get_free(standing, STRANGER)

    code, sent = run(standing, "transfer", STRANGER, "1.000000001")

    assert code == ExitCode.OK, sent
    assert (sent["state"], sent["amount_grains"], sent["to"]) == ("final", 1_000_000_001, STRANGER)
    assert get_free(standing, STRANGER) == had + 1_000_000_001
    assert get_free(standing, "client-0") < before - 1_000_000_001  # and the fee


def test_what_is_not_there_is_refused_with_the_numbers_and_changes_nothing(standing: Up) -> None:
    before = get_free(standing, "client-0")

    code, told = run(standing, "transfer", STRANGER, "9000000")

    assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "InsufficientBalance")
    assert told["error"]["details"]["need"] == 9_000_000 * 10**9
    assert told["error"]["details"]["have"] <= before
    assert get_free(standing, "client-0") == before


def test_fifty_sends_from_two_processes_at_once_all_arrive_and_use_every_nonce_once(standing: Up) -> None:
    had = get_free(standing, STRANGER)
    words = ["ledger", "transfer", STRANGER, AMOUNT, "--from", directory_of(standing, "client-0"), "--json"]
    command = [sys.executable, "-c", SENDER, str(SENDS // 2), *words]

    senders = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [sender.communicate(timeout=90) for sender in senders]

    assert [sender.returncode for sender in senders] == [0, 0], told
    # Threads that print at once may share a line.
    lines = [line for out, _ in told for line in out.replace("}{", "}\n{").splitlines() if line]
    results = [json.loads(line) for line in lines]
    assert [result["state"] for result in results] == ["final"] * SENDS
    assert get_free(standing, STRANGER) == had + SENDS * 7
    code, history = run_cli("ledger", "history", "client-0", "--dir", str(standing.directory), "--limit", "1000")
    assert code == ExitCode.OK
    nonces = [row["nonce"] for row in history["transactions"] if row["is_own"]]
    assert nonces == list(range(len(nonces) - 1, -1, -1))
    sent = [row for row in history["transactions"] if row["amount_grains"] == 7 and row["kind"] == "Transfer"]
    assert len(sent) == SENDS


def test_without_waiting_it_is_on_its_way_and_history_tells_later(standing: Up) -> None:
    code, sent = run(standing, "transfer", "storage-0", "0.000000011", "--no-wait")

    assert code == ExitCode.OK
    assert (sent["state"] == "submitted") == (sent["height"] is None)  # a quick ledger may have it already

    def is_there() -> bool:
        _, told = run_cli("ledger", "history", "storage-0", "--dir", str(standing.directory))
        return any(row["amount_grains"] == 11 and not row["is_own"] for row in told["transactions"])

    wait_until(is_there, "the transfer in the history")


def test_a_node_stakes_and_unstakes_and_no_more_than_it_has(standing: Up) -> None:
    worker = directory_of(standing, "inference-0")

    staked = run_cli("ledger", "stake", "2.5", "--from", worker)
    unstaked = run_cli("ledger", "unstake", "1.5", "--from", worker)
    code, told = run_cli("ledger", "unstake", "1000000", "--from", worker)

    assert (staked[0], staked[1]["state"]) == (ExitCode.OK, "final")
    assert (unstaked[0], unstaked[1]["state"]) == (ExitCode.OK, "final")
    assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "InsufficientBond")
    assert told["error"]["details"]["need"] == 1_000_000 * 10**9


def test_stake_is_delegated_to_a_validator_and_taken_back_and_no_more_than_there_is(standing: Up) -> None:
    delegated = run(standing, "delegate", "validator-0", "30")
    back = run(standing, "undelegate", "validator-0", "10")
    code, told = run(standing, "undelegate", "validator-0", "21")
    nobody, refused = run(standing, "delegate", "storage-0", "5")

    assert (delegated[0], delegated[1]["state"]) == (ExitCode.OK, "final"), delegated
    assert (back[0], back[1]["amount_grains"]) == (ExitCode.OK, 10 * 10**9), back
    assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "InsufficientBond")
    assert told["error"]["details"]["have"] == 20 * 10**9
    assert (nobody, refused["error"]["code"]) == (ExitCode.FAILURE, "InvalidNode")


def test_a_node_that_does_not_run_is_said_to_be_unreachable(standing: Up, tmp_path: Path) -> None:
    data = str(tmp_path / "wallet")
    network = str(standing.directory)
    assert run_cli("node", "init", "--network", network, "--data", data, "--role", "client")[0] == ExitCode.OK

    code, told = run_cli("ledger", "transfer", STRANGER, "1", "--from", data)

    assert (code, told["error"]["code"]) == (ExitCode.UNREACHABLE, "not_running")


@given(st.integers(1, 2**63 - 1))
def test_every_amount_reads_back_as_it_was_shown(grains: int) -> None:
    assert parse_amount(format_role(grains)) == grains


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "+1", "1.", ".5", "1e3", "1,5", "0.0000000001", "9223372036.854775808", "1_000", "NaN", "١", "1 2"],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="not an amount"):
        parse_amount(text)
