"""`rolemesh ledger stats`: of a stopped node, what its blocks hold and what a client beside it has signed."""

from dataclasses import replace
from pathlib import Path

import pytest

from protocol.codec import encode
from protocol.keys import PrivateKey, format_account, format_node
from protocol.ledger.transactions import Transfer
from protocol.service import CodeCount, ServiceStatement, WorkerService
from protocol.signing import sign
from roles.chain import Chain
from roles.core_effects import Put
from testnet.cli import main
from testnet.cli.output import ExitCode
from testnet.statements import read_statements
from testnet.stats import find_differences
from tests.support.activity import sum_up
from tests.support.ledgers import Ledger
from tests.support.stored_node import write_stored_node
from tests.testnet.networks import run_cli

NODE = "validator-0"
BUCKET = "client/statements"


def found() -> Ledger:
    """Three receipts of one customer in the first epoch; two epochs later one more, and a transfer."""
    ledger = Ledger()
    channel = ledger.open_channel()
    worker = ledger.account("inference-0")
    ledger.do(worker, ledger.settle(channel, *(ledger.work(channel, seq)[2] for seq in (1, 2, 3))))
    for _ in range(2):
        ledger.block(after_ms=ledger.state.params.epoch_ms)
    ledger.do(worker, ledger.settle(channel, ledger.work(channel, 4)[2]))
    ledger.do(ledger.account("client-0"), Transfer(ledger.spare(1).public, 5))
    ledger.block(after_ms=60_000)
    return ledger


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return found()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, ledger: Ledger) -> Path:
    return write_stored_node(tmp_path_factory.mktemp("network"), ledger, NODE)


def say(ledger: Ledger, key: PrivateKey, epoch: int = 0, **changes: object) -> ServiceStatement:
    worker = WorkerService(ledger.node("inference-0").public, (0, 3, 1), (CodeCount("busy", 2),))
    said = ServiceStatement(
        ledger.state.chain, key.public, epoch, (worker,), (CodeCount("no_answer", 1),), 0, bytes(64)
    )
    return sign(replace(said, **changes), key)


def keep(folder: Path, *said: ServiceStatement) -> Path:
    """A client's data directory with these statements."""
    folder.mkdir()
    chain = Chain(folder / "node.db")
    chain.start()
    chain.write([Put(BUCKET, f"{index}".encode(), encode(item)) for index, item in enumerate(said)])
    chain.close()
    return folder


def test_the_ledgers_part_is_what_its_blocks_hold(home: Path, ledger: Ledger) -> None:
    code, told = run_cli("ledger", "stats", "--dir", str(home))
    assert code == ExitCode.OK
    part = told["from_the_ledger"]
    assert (part["height"], part["findings"]) == (ledger.state.height, [])
    assert part["receipts"]["by_mode"] == {"individual": 4, "job": 0, "batch": 0, "private": 0}
    assert (part["receipts"]["settled"], part["receipts"]["checked_share"]) == (4, 1.0)
    customers = part["customers"]
    assert (customers["accounts"], customers["returned"]) == (1, 1)
    assert [span["returning"] for span in customers["spans"]] == [0, 0, 1]
    assert customers["cohorts"] == [{"first_epoch": 0, "accounts": 1, "active": [1, 0, 1]}]
    [used] = [row for row in part["models"] if row["receipts"]]
    assert (used["name"], used["receipts"]) == ("digits", 4)
    fees = part["fees"]["inference"]
    assert sum(fees.values()) == used["fees_grains"]
    roles = {row["role"]: row for row in part["roles"]}
    assert roles["inference"]["income_grains"] == fees["inference"]
    assert roles["verifier"]["income_grains"] == fees["verifier"]
    assert part["stake"]["bonded_grains"] == sum(node.bond for node in ledger.state.nodes.values())
    assert part["supply"]["now_grains"] == part["supply"]["genesis_grains"]
    assert told["signed_statements"]["statements"] == 0


def test_a_statement_counts_once_for_its_account_if_it_is_signed_for_this_chain(
    home: Path, ledger: Ledger, tmp_path: Path
) -> None:
    one, other = ledger.account("client-0"), ledger.spare(0)
    said = say(ledger, one)
    folders = (
        keep(
            tmp_path / "one", said, say(ledger, one, epoch=1), replace(said, epoch=2), say(ledger, one, chain=bytes(8))
        ),
        keep(tmp_path / "other", say(ledger, other), said),
    )
    code, told = run_cli(
        "ledger", "stats", "--dir", str(home), "--statements", str(folders[0]), "--statements", str(folders[1])
    )
    assert code == ExitCode.OK
    part = told["signed_statements"]
    assert (part["statements"], part["refused"]) == (3, 3)
    assert {row["account"]: (row["answered"], row["refused"], row["failed"]) for row in part["by"]} == {
        format_account(one.public): (8, 4, 2),
        format_account(other.public): (4, 2, 1),
    }
    [about] = part["about"]
    assert (about["node"], about["said_by"]) == (format_node(ledger.node("inference-0").public), 2)
    assert about["account"] == format_account(ledger.account("inference-0").public)
    assert (about["p50_ms"], about["p99_ms"], about["refusals"]) == (2, 3, {"busy": 6})
    assert part["in_all"]["failures"] == {"no_answer": 3}


def test_people_see_both_parts(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "stats", "--dir", str(home)]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "1 active, 1 of them came back in a later epoch" in said
    assert "all sums above are those of the ledger's state" in said
    assert "signed statements: 0 statements of 0 accounts" in said


def test_a_rule_that_pays_and_does_not_say_so_is_found(ledger: Ledger) -> None:
    activity, state = sum_up(ledger.blocks[0][2], ledger.blocks[1:])
    assert find_differences(activity, state) == []
    assert [text.partition(":")[0] for text in find_differences(activity, replace(state, treasury=7))] == [
        "supply",
        "treasury",
    ]
    assert find_differences(activity, replace(state, burned=state.burned + 1, supply=state.supply + 1))


def test_statements_of_a_directory_that_has_none_are_none(tmp_path: Path) -> None:
    assert read_statements([tmp_path], bytes(8)).statements == 0
