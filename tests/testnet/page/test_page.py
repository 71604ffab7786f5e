"""`report.html` of a run: made of whatever its logs hold, and nothing in them becomes part of the page's code."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from roles.eventlog import EventLog
from testnet.cli.output import ExitCode
from testnet.page import verdict
from testnet.page.page import PAGE_NAME, POLICY, write_page
from testnet.page.verdict import Verdict, find_verdict, parse_verdict
from testnet.review import CheckFailed
from tests.support.ledgers import Ledger
from tests.support.runs import REPORT, SCRIPT, STORY, add_nodes, write_events
from tests.support.stored_node import write_stored_node
from tests.testnet.networks import run_cli

NODE = "validator-0"


class Reader(HTMLParser):
    """Collects elements and attributes; insists that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A network's directory: a report, and one node that has stored a ledger and said nothing."""
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    return write_stored_node(tmp_path, Ledger(), NODE)


def read_page(home: Path) -> str:
    page = write_page(home)
    text = page.path.read_text(encoding="utf-8")
    assert page.size_bytes == len(text.encode())
    return text


def test_a_run_that_wrote_nothing_has_a_page_and_its_ledger_is_recomputed(home: Path) -> None:
    (home / "report.json").unlink()

    page = write_page(home)

    assert {bar.name for bar in page.verdict.bars} == {"receipts", "ledger", "supply", "fees"}
    assert not page.verdict.broken
    text = page.path.read_text(encoding="utf-8")
    Reader(text)
    assert "its ledger was recomputed for this page" in text


def test_the_story_of_a_run_is_on_its_page(home: Path) -> None:
    add_nodes(home, STORY)
    events = [{"time_ms": 2_000, "name": "fault.started", "fault": "partition-0", "kind": "partition", "nodes": []}]
    write_events(home, events)

    text = read_page(home)
    Reader(text)
    for shown in ("seed 7", "inference-1", "partition-0", "does not hold: requests", "100 grains now", "1,000,000"):
        assert shown in text
    assert len(re.findall("<svg", text)) >= 7
    assert "band" in text


def test_a_page_runs_nothing_and_loads_nothing_whatever_the_logs_say(home: Path) -> None:
    add_nodes(home, STORY, name=SCRIPT)
    hostile = [(at, f"inference-{SCRIPT[1:7]}", what, fields) for at, _, what, fields in STORY]
    add_nodes(home, hostile, request_id=SCRIPT, code=SCRIPT, peers=[SCRIPT])
    fault = {"time_ms": 1_500, "name": "fault.started", "fault": SCRIPT, "kind": SCRIPT, "nodes": [SCRIPT]}
    write_events(home, [fault])
    bars = {SCRIPT: False, **REPORT["bars"]}
    (home / "report.json").write_text(json.dumps({**REPORT, "bars": bars, "said": {SCRIPT: SCRIPT}}))

    text = read_page(home)
    reader = Reader(text)
    assert not {"script", "img", "iframe", "object", "form", "a"} & reader.names
    assert not {name for name in reader.attributes if name.startswith("on")} | {"src"} & reader.attributes
    assert POLICY in text
    assert "&lt;script&gt;" in text
    assert "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize(
    "torn",
    [b'{"time_ms":1500,"na', b"\x00\xff" * 500, b"[" * 10_000 + b"\n", b'{"name":"request.sent","time_ms":"soon"}\n'],
)
def test_a_log_torn_by_a_kill_or_broken_by_a_disk_still_gives_a_page(home: Path, torn: bytes) -> None:
    add_nodes(home, STORY)
    with (home / "nodes" / "client-0" / "events.jsonl").open("ab") as file:
        file.write(torn)
    (home / "nodes" / "inference-0" / "events.jsonl").write_bytes(torn)

    text = read_page(home)
    Reader(text)
    assert "3.2 s" in text, "how long the request took"


def test_a_client_that_joined_is_counted_as_well(home: Path) -> None:
    add_nodes(home, STORY)
    place = home / "clients" / "app-0"
    place.mkdir(parents=True)
    (place / "node.db").touch()
    write_events(place, [{"time_ms": 2_000, "name": "request.sent", "request_id": "cd", "attempt": 1}])

    text = read_page(home)
    assert "sent 2" in text
    assert "clients/app-0" in text


def test_of_a_log_that_outgrew_its_bound_the_page_says_what_is_missing(home: Path) -> None:
    add_nodes(home, STORY)
    shares: list[float] = []
    log = EventLog(home / "nodes" / "client-0", "client-0", file_bytes_max=180_000)
    for number in range(6_000):
        log.write(20_000 + number, "request.sent", {"request_id": f"{number}", "attempt": 1})
        log.flush()
    log.close()

    page = write_page(home, shares.append)
    text = page.path.read_text(encoding="utf-8")
    found = re.search(r"lost client-0 before ([\d.]+) s", text)
    assert found is not None
    assert 20 < float(found[1]) < 26
    assert "some event logs of this time are lost" in text
    assert shares == sorted(shares)
    assert shares[-1] <= 1


def test_times_far_from_the_run_do_not_stretch_the_axis(home: Path) -> None:
    add_nodes(home, [*STORY, (2**62, "verifier-0", "node.status", {"height": 9})])

    assert "0:05" not in read_page(home).split("length")[1][:60]


NO_REPORTS = ("", "[]", '{"bars":7}', "[" * 100_000, '{"bars":{},"ledger":[],"reconciliation":{}}')


@pytest.mark.parametrize("found", NO_REPORTS)
def test_a_report_that_is_none_is_passed_over(tmp_path: Path, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def say_nothing(directory: Path) -> dict[str, Any]:
        raise CheckFailed(f"asked of {directory}")

    monkeypatch.setattr(verdict, "recompute_ledgers", say_nothing)
    (tmp_path / "report.json").write_text(found)

    assert find_verdict(tmp_path) == Verdict(unchecked=f"asked of {tmp_path}")


def test_a_report_with_other_types_than_it_should_have_is_taken_as_far_as_it_goes() -> None:
    fields = {"bars": {"a": "yes"}, "said": {"a": 7}, "ledger": {"fees": "9"}, "reconciliation": {"findings": [7, "x"]}}
    taken = parse_verdict(fields)

    assert taken is not None
    assert taken.broken == ["a"]
    assert (taken.fees, taken.receipts, taken.findings) == ((), (), ("x",))
    assert parse_verdict({}) is None


def test_the_command_writes_the_page_and_says_what_holds(home: Path) -> None:
    code, told = run_cli("testnet", "report", "--dir", str(home))
    assert (code, told["bars"]) == (ExitCode.INVARIANT_VIOLATED, REPORT["bars"])
    assert told["file"] == str(home / PAGE_NAME)
    assert told["bytes"] == (home / PAGE_NAME).stat().st_size

    (home / "report.json").write_text(json.dumps({**REPORT, "bars": {"supply": True}}))
    code, told = run_cli("testnet", "report", "--dir", str(home))
    assert (code, told["holds"]) == (ExitCode.OK, True)


def test_a_run_killed_before_its_first_block_has_a_page_that_says_it_is_not_checked(home: Path) -> None:
    (home / "report.json").unlink()
    (home / "nodes" / NODE / "node.db").unlink()

    code, told = run_cli("testnet", "report", "--dir", str(home))
    assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "check_failed")
    assert "not checked" in (home / PAGE_NAME).read_text()


def test_a_page_that_cannot_be_written_is_an_error_with_what_to_do(home: Path) -> None:
    (home / PAGE_NAME).mkdir()

    code, told = run_cli("testnet", "report", "--dir", str(home))
    assert (code, told["error"]["code"]) == (ExitCode.CONFIG, "not_written")
