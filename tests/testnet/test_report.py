"""What counts and what does not: events to tallies, tallies to bars."""

import json
from pathlib import Path
from typing import Any

import pytest

from testnet.events import EventFollower, Tally
from testnet.report import (
    Report,
    Wanted,
    add_accuracy,
    add_apps,
    add_leases,
    add_ledger,
    add_liars,
    add_oracle,
    add_requests,
)

LEDGER: dict[str, Any] = {
    "holds": True,
    "findings": [],
    "heights": {"validator-0": 3},
    "blocks": 3,
    "transactions_checked": 4,
    "supply": 100,
    "supply_genesis": 100,
    "fees": 10,
    "workers": 8,
    "verifiers": 0,
    "treasury": 1,
    "burn": 1,
    "leaves": {"paid": 1},
    "feeds": {"GOOG": [1, 2]},
    "proven_wrong": [],
    "paid_claims": ["aa"],
}


def make_tally(attested: int, settled: int) -> Tally:
    tally = Tally()
    for index in range(attested):
        tally.take({"name": "request.sent", "request_id": f"{index}", "time_ms": 1_000})
        tally.take({"name": "result.received", "request_id": f"{index}", "time_ms": 1_100})
        tally.take({"name": "request.attested", "request_id": f"{index}", "time_ms": 1_100 + index})
    for index in range(settled):
        tally.take({"name": "leaf.settled", "request_id": f"{index}", "time_ms": 2_000, "zero_reason": 0})
    return tally


def test_of_the_reports_of_a_feed_the_first_and_the_last_are_kept_and_none_that_was_refused() -> None:
    tally = Tally()
    for time_ms, height in ((1_000, 0), (2_000, 3), (2_300, 4), (9_000, 7), (9_500, 0)):
        tally.take({"name": "oracle.reported", "time_ms": time_ms, "height": height})

    assert tally.reported_ms == [2_000, 9_000]


def get_bars(report: Report) -> dict[str, bool]:
    return {bar.name: bar.holds for bar in report.bars}


@pytest.mark.parametrize(
    ("asked", "requests", "holds"),
    [
        ((200, 200, 429), 2, True),
        ((200, 200, 429), 1, False),  # the ledger does not count one
        ((200, 200, 200), 3, False),  # none was refused
        ((200, 401, 429), 2, False),
        ((429,), 0, False),
        ((), 0, False),
    ],
)
def test_an_app_holds_if_a_pass_was_good_for_its_quota_and_the_ledger_has_it(
    asked: tuple[int, ...], requests: int, holds: bool
) -> None:
    counts = {"sold": 1, "income": 1_000, "earned": 880, "requests": requests}
    report, none = Report(), Report()

    add_apps(report, {"apps": {"demo": counts}}, asked)
    add_apps(none, {"apps": {}}, asked)

    assert get_bars(report) == {"app": holds}
    assert get_bars(none) == {"app": False}


@pytest.mark.parametrize(("attested", "settled", "holds"), [(5, 5, True), (5, 4, False), (4, 4, False)])
def test_requests_hold_only_if_all_were_attested_and_settled(attested: int, settled: int, holds: bool) -> None:
    report = Report()

    add_requests(report, make_tally(attested, settled), Wanted(5, 0, 1.0, "settled"), (attested, settled))

    assert get_bars(report) == {"requests": holds}
    assert report.fields["requests"]["latency_p50_ms"] == 100 + (attested - 1) // 2


def test_a_settled_request_counts_once_and_a_zero_leaf_not_at_all() -> None:
    tally = make_tally(2, 1)
    tally.take({"name": "leaf.settled", "request_id": "0", "time_ms": 2_001, "zero_reason": 0})
    tally.take({"name": "leaf.settled", "request_id": "1", "time_ms": 2_001, "zero_reason": 5})

    assert tally.unsettled == 1
    assert tally.zero_leaves == {5: 1}


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, set()),
        ({"holds": False, "findings": ["block 2 is another"]}, {"ledger"}),
        ({"supply": 101}, {"supply"}),
        ({"workers": 9}, {"fees"}),
        ({"feeds": {"GOOG": [7, 7]}}, {"oracle"}),
        ({"feeds": {}}, {"oracle"}),
    ],
)
def test_a_ledger_that_does_not_add_up_breaks_the_bar_it_belongs_to(change: dict[str, Any], broken: set[str]) -> None:
    report = Report()

    add_ledger(report, {**LEDGER, **change})
    add_oracle(report, {**LEDGER, **change})

    assert {name for name, holds in get_bars(report).items() if not holds} == broken


@pytest.mark.parametrize(
    ("proven", "paid", "broken"),
    [
        ([("l1", "liar")], [], set()),
        ([], [], {"lies", "slashed"}),
        ([("l1", "liar")], ["l1"], {"lies"}),
        ([("l1", "liar"), ("h1", "honest")], [], {"slashed"}),
    ],
)
def test_a_lie_must_be_proven_and_unpaid_and_nobody_else_slashed(
    proven: list[tuple[str, str]], paid: list[str], broken: set[str]
) -> None:
    tally = make_tally(1, 1)
    tally.take({"name": "lie.told", "claim_id": "l1", "time_ms": 1})
    wrong = [{"claim_id": claim, "account": account, "slashed": 5, "height": 2} for claim, account in proven]
    report = Report()

    ledger = {**LEDGER, "proven_wrong": wrong, "paid_claims": paid}
    add_liars(report, tally, Wanted(1, 1, 1.0, "settled"), ledger, ["liar"])

    assert {name for name, holds in get_bars(report).items() if not holds} == broken


def test_accuracy_needs_answers_and_the_bar() -> None:
    report = Report()
    for right, labelled in ((95, 100), (94, 100), (0, 0)):
        add_accuracy(report, right, labelled)

    assert [bar.holds for bar in report.bars] == [True, False, False]


def test_a_log_is_read_as_it_grows_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    follower = EventFollower([tmp_path])
    assert follower.read().attempts == 0
    line = json.dumps({"name": "request.sent", "request_id": "a", "time_ms": 1})

    log.write_text(line + "\n" + line[:10])
    assert follower.read().attempts == 1

    log.write_text(line + "\n" + line[:10] + "\n" + line + "\n")
    assert follower.read().attempts == 2


@pytest.mark.parametrize(("holding", "audits", "holds"), [(2, 1, True), (1, 1, False), (2, 0, False)])
def test_leases_are_kept_as_often_as_was_asked_for_and_shown(holding: int, audits: int, holds: bool) -> None:
    report = Report()
    lease = {"cid": "bafk", "size_bytes": 9, "copies": 2, "holding": holding}
    add_leases(report, {"leases": {"aa": lease}, "audits": audits, "audits_paid": 5 * audits})
    assert [(bar.name, bar.holds) for bar in report.bars] == [("leases", holds)]
