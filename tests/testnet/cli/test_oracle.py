"""`rolemesh oracle`: feeds as a node has stored them, and history whose proof holds without a ledger."""

from pathlib import Path

import pytest

from testnet.cli.output import ExitCode
from tests.support.feeds import TERMS, begin_round, found_feed, report
from tests.support.stored_node import write_stored_node
from tests.testnet.networks import run_cli

FEED = TERMS.name
NODE = "oracle-0"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network's directory with twenty rounds of a feed, all its nodes stopped."""
    ledger = found_feed(oracles=1)
    for number in range(20):
        if number % 4:
            ledger.do(ledger.spare(), report(ledger, {"oracle-0": 10_000 + 10 * number}))
        begin_round(ledger)
    return write_stored_node(tmp_path_factory.mktemp("network"), ledger, NODE)


def ask(home: Path, *words: str) -> tuple[int, dict]:
    return run_cli("oracle", *words, "--dir", str(home))


def test_feeds_are_listed_with_their_last_values(home: Path) -> None:
    code, told = ask(home, "feeds")
    assert code == ExitCode.OK
    rows = {row["feed"]: row for row in told["feeds"]}
    assert (rows[FEED]["shown"], rows[FEED]["reports"], rows[FEED]["observing"]) == ("101.90", 15, 1)
    assert (rows["GOOG"]["value"], rows["GOOG"]["is_stale"]) == (None, True)


def test_a_feed_is_shown_with_its_terms_and_observers(home: Path) -> None:
    code, told = ask(home, "show", FEED)
    assert code == ExitCode.OK
    assert told["terms"]["heartbeat_ms"] == TERMS.heartbeat_ms
    assert [(item["observed"], item["outliers"], item["missed"]) for item in told["observed_by"]] == [(15, 0, 0)]
    code, told = ask(home, "show", "none")
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "unknown_feed")


def test_candles_are_told_in_either_order(home: Path) -> None:
    code, told = ask(home, "candles", FEED, "--duration", "4s", "--count", "3")
    assert code == ExitCode.OK
    assert len(told["candles"]) == 3
    assert all(row["low"] <= row["open"] <= row["high"] for row in told["candles"])
    _, other = ask(home, "candles", FEED, "--duration", "4s", "--count", "3", "--newest-first")
    assert other["candles"] == list(reversed(told["candles"]))


def test_a_history_that_is_not_kept_says_so(home: Path) -> None:
    code, told = ask(home, "candles", FEED, "--duration", "1500ms")
    assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "no_history")
    code, told = ask(home, "candles", FEED, "--duration", "7s", "--count", "100")
    assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "no_history")


def test_a_proof_is_written_and_checked_without_a_ledger(home: Path, tmp_path: Path) -> None:
    proof, genesis = tmp_path / "btc.proof", home / "testnet.json"
    question = ("candles", FEED, "--duration", "2s", "--count", "6")
    code, told = ask(home, *question, "--out", str(proof))
    assert code == ExitCode.OK
    assert proof.stat().st_size < 16 * 1024

    offline = ("--proof", str(proof), "--genesis", str(genesis))
    code, shown = run_cli("oracle", *question, *offline)

    assert code == ExitCode.OK
    assert (shown["candles"], shown["height"]) == (told["candles"], told["height"])
    code, verified = run_cli("verify", str(proof), "--genesis", str(genesis))
    assert (code, verified["verified"]) == (ExitCode.OK, 1)
    assert {"decided", "feed", "value", "history"} <= set(verified["levels"])


def test_a_proof_that_was_changed_or_is_of_something_else_is_refused(home: Path, tmp_path: Path) -> None:
    proof, genesis = tmp_path / "btc.proof", str(home / "testnet.json")
    question = ("candles", FEED, "--duration", "2s", "--count", "6")
    ask(home, *question, "--out", str(proof))
    code, told = run_cli("oracle", *question, "--proof", str(proof))
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "no_genesis")
    code, told = run_cli("oracle", "candles", "GOOG", "--duration", "5s", "--proof", str(proof), "--genesis", genesis)
    assert (code, told["error"]["code"]) == (ExitCode.VERIFICATION_FAILED, "verification_failed")
    data = bytearray(proof.read_bytes())
    data[len(data) // 2] ^= 1
    proof.write_bytes(data)
    code, told = run_cli("oracle", *question, "--proof", str(proof), "--genesis", genesis)
    assert (code, told["error"]["code"]) == (ExitCode.VERIFICATION_FAILED, "verification_failed")
