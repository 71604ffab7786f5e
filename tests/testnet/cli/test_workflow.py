"""`rolemesh workflow`: what is asked for is read as people write it, and ticks are told with what became of them."""

from pathlib import Path

import pytest

from testnet.cli.output import CommandError, ExitCode
from testnet.cli.workflow import parse_input
from tests.support.feeds import TERMS
from tests.support.stored_node import write_stored_node
from tests.support.workflows import (
    EVERY_MS,
    NAME,
    contest,
    find_worker,
    found,
    keep_fresh,
    list_runs,
    settle,
    start,
)
from tests.testnet.networks import run_cli

NODE = "oracle-0"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network's directory with a workflow that was fired, done, failed and missed, all its nodes stopped."""
    ledger = found()
    tick = start(ledger)
    [(job, _)] = list_runs(ledger)
    ledger.do(ledger.account(find_worker(ledger, job)), settle(ledger, job, value=42), after_ms=1)
    keep_fresh(ledger, (tick + 1) * EVERY_MS + 1_500)
    ledger.block(after_ms=5 * EVERY_MS)
    return write_stored_node(tmp_path_factory.mktemp("network"), ledger, NODE)


def test_workflows_are_listed_with_their_tallies(home: Path) -> None:
    code, told = run_cli("workflow", "ls", "--dir", str(home))
    assert code == ExitCode.OK
    [row] = told["workflows"]
    assert (row["workflow"], row["model"], row["is_on"]) == (NAME, "sum@1", True)
    assert (row["fired"], row["done"]) == (2, 1)
    assert row["missed"] >= 4


def test_ticks_are_told_with_what_became_of_them(home: Path) -> None:
    code, told = run_cli("workflow", "runs", NAME, "--dir", str(home))
    assert code == ExitCode.OK
    outcomes = [tick["outcome"] for tick in told["ticks"]]
    assert outcomes == ["done", "failed", "asleep", "stale"]
    assert (told["ticks"][0]["value"], told["ticks"][0]["shown"]) == (42, "42")
    code, told = run_cli("workflow", "runs", "none", "--dir", str(home))
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "unknown_workflow")


def test_results_are_a_feed_with_history(home: Path) -> None:
    code, told = run_cli("oracle", "candles", NAME, "--duration", "2s", "--dir", str(home))
    assert code == ExitCode.OK
    assert [candle["close"] for candle in told["candles"]] == [42]


def test_behind_the_value_of_a_workflows_feed_stand_the_verifiers_that_attested_it(home: Path) -> None:
    code, told = run_cli("oracle", "feeds", "--dir", str(home))
    assert code == ExitCode.OK
    rows = {row["feed"]: row for row in told["feeds"]}
    assert (rows[NAME]["observing"], rows[TERMS.name]["observing"]) == (2, 1)


def test_a_contested_run_is_told_as_such(tmp_path: Path) -> None:
    ledger = found()
    start(ledger)
    [(job, _)] = list_runs(ledger)
    ledger.do(ledger.account(find_worker(ledger, job)), contest(ledger, job), after_ms=1)
    home = write_stored_node(tmp_path, ledger, NODE)

    _, told = run_cli("workflow", "runs", NAME, "--dir", str(home))

    assert [tick["outcome"] for tick in told["ticks"]] == ["contested"]


def test_several_series_make_one_input() -> None:
    query = parse_input("GOOG:close:5s:9+calm:high,low:1m:2")
    assert [(item.candles.feed, item.candles.duration_ms, item.candles.count) for item in query.series] == [
        ("GOOG", 5_000, 9),
        ("calm", 60_000, 2),
    ]
    assert query.series[1].columns == ("high", "low")


@pytest.mark.parametrize("text", ["", "GOOG", "GOOG:close:5s", "GOOG:close:5s:x", "GOOG:close:x:9", "GOOG:close:5s:9+"])
def test_an_input_that_is_none_says_how_to_write_it(text: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_input(text)
    assert caught.value.hint
