"""Write `report.html` of a run: read the event logs of all its nodes in the order of time, and draw what they say."""

import heapq
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from roles.eventlog import FILE_NAME as EVENTS_NAME
from roles.eventlog import read_events
from roles.files import write_atomically
from testnet.fault_kinds import NETWORK_LOG
from testnet.network_file import NetworkFile
from testnet.page import sections
from testnet.page.markup import Markup, element, join
from testnet.page.timeline import Timeline, get_int
from testnet.review import recompute_ledgers

PAGE_NAME = "report.html"
AROUND_MS = 60_000  # before the network was made and after its last log was written: times beyond are nobody's
STYLE = Path(__file__).with_name("style.css")
# Nothing is loaded and nothing runs, whatever a log says.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_page(directory: Path, network: NetworkFile, report: Mapping[str, Any]) -> Path:
    """The page of the run in a network's directory; `report` is its `report.json`, empty if it has none.

    Then its ledger is recomputed. Raises CheckFailed, OSError.
    """
    page = directory / PAGE_NAME
    write_atomically(page, draw_page(network, read_timeline(directory, network), find_bars(directory, report)))
    return page


def find_bars(directory: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """`bars`, `ledger` and `receipts` of a run, from its report or recomputed now."""
    if {"bars", "ledger", "reconciliation"} <= report.keys():
        return {"bars": report["bars"], "ledger": report["ledger"], "receipts": report["reconciliation"]}
    ledger = recompute_ledgers(directory)
    receipts = ledger["receipts"]
    bars = {
        "ledger": ledger["holds"],
        "supply": ledger["supply"] == ledger["supply_genesis"],
        "nothing paid twice": not receipts["findings"],
    }
    return {"bars": bars, "ledger": ledger, "receipts": receipts}


def read_timeline(directory: Path, network: NetworkFile) -> Timeline:
    """All events of a run, folded."""
    logs = {NETWORK_LOG: directory}
    # Clients first: of events of one millisecond, theirs is the sending.
    for node in sorted(network.nodes, key=lambda node: node.role != "client"):
        logs[node.name] = directory / node.directory
    written = [path.stat().st_mtime for folder in logs.values() if (path := folder / EVENTS_NAME).is_file()]
    first, last = network.created_ms - AROUND_MS, int(1_000 * max(written, default=0)) + AROUND_MS
    merged = heapq.merge(*(_read_log(name, folder) for name, folder in logs.items()), key=lambda item: item[0])
    timeline: Timeline | None = None
    roles = {node.name: node.role for node in network.nodes}
    for time_ms, name, event in merged:
        if first <= time_ms <= last:
            timeline = timeline or Timeline(time_ms, roles)
            timeline.take(name, event)
    return timeline or Timeline(network.created_ms, roles)


def draw_page(network: NetworkFile, timeline: Timeline, found: Mapping[str, Any]) -> str:
    """The whole page. `found` holds `bars`, `ledger` and `receipts`."""
    parts = [
        sections.make_head(network, timeline, found),
        sections.make_plots(timeline),
        sections.make_faults(timeline),
        sections.make_latency(timeline),
        sections.make_slowest(timeline),
        sections.make_ledger(found),
        sections.make_topology(network, timeline),
    ]
    head = element(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">'),
        element("title", f"rolemesh run, seed {network.seed}"),
        element("style", Markup(STYLE.read_text(encoding="utf-8"))),
    )
    return "<!doctype html>\n" + element("html", head, element("body", join(*parts)), lang="en") + "\n"


def read_report(path: Path) -> dict[str, Any]:
    """A run's `report.json`; empty when there is none, or it is no object."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _read_log(name: str, folder: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for event in read_events(folder):
        if (time_ms := get_int(event, "time_ms")) is not None:
            yield time_ms, name, event
