"""Write `report.html` of a run: read the event logs of all its nodes in the order of time, and draw what they say."""

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roles.eventlog import FILE_NAME as EVENTS_NAME
from roles.eventlog import has_lost, read_events
from roles.files import write_atomically
from testnet.fault_kinds import NETWORK_LOG
from testnet.load_plan import PLAN_NAME
from testnet.network_file import FILE_NAME, NetworkFile, read_network_file
from testnet.page import tables
from testnet.page.charts import make_charts
from testnet.page.fields import get_int, read_object
from testnet.page.markup import Markup, element, join
from testnet.page.timeline import Timeline
from testnet.page.topology import make_topology
from testnet.page.verdict import Verdict, find_verdict
from testnet.page.waterfall import make_slowest
from testnet.papers import find_places

PAGE_NAME = "report.html"
AROUND_MS = 60_000  # before the network was made and after its last log was written: times beyond are nobody's
CLIENTS_SHOWN = 16
TOLD_EVERY = 2_000  # events
PLACES_MAX = 1_024  # with logs of their own
STYLE = Path(__file__).with_name("style.css")
# Nothing is loaded and nothing runs, whatever a log says.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Page:
    """A page that was written, and what it says of the run."""

    path: Path
    size_bytes: int
    verdict: Verdict


def write_page(directory: Path, tell: Callable[[float], None] = lambda share: None) -> Page:
    """`report.html` into a network's directory, from the event logs of its nodes, running or not.

    What is said of its ledger is from `report.json`; without one it is recomputed, in a process of its own. `tell` is
    told now and then which share of the run has been read. Raises NetworkFileError, OSError.
    """
    network = read_network_file(directory / FILE_NAME)
    verdict = find_verdict(directory)
    loads = {name: read_object(directory / folder / PLAN_NAME) for name, folder in _list_clients(network)}
    timeline = read_timeline(directory, network, tell)
    text = draw_page(network, timeline, verdict, {name: load for name, load in loads.items() if load})
    path = directory / PAGE_NAME
    write_atomically(path, text)
    return Page(path, len(text.encode()), verdict)


def read_timeline(
    directory: Path, network: NetworkFile, tell: Callable[[float], None] = lambda share: None
) -> Timeline:
    """All events of a run, folded. `tell` as for `write_page`."""
    logs, roles = _find_logs(directory, network)
    written = [path.stat().st_mtime for folder in logs.values() if (path := folder / EVENTS_NAME).is_file()]
    first, last = network.created_ms - AROUND_MS, int(1_000 * max(written, default=0)) + AROUND_MS
    merged = heapq.merge(*(_read_log(name, folder) for name, folder in logs.items()), key=lambda item: item[0])
    cut = frozenset(name for name, folder in logs.items() if has_lost(folder))
    # What is lost has its room on the axis, empty; else the run begins with the first word of it.
    timeline = Timeline(network.created_ms, roles, cut) if cut else None
    for time_ms, name, event in merged:
        if first <= time_ms <= last:
            timeline = timeline or Timeline(time_ms, roles)
            timeline.take(name, event)
            if not timeline.events % TOLD_EVERY:
                tell((time_ms - first) / (last - first))
    return timeline or Timeline(network.created_ms, roles)


def draw_page(
    network: NetworkFile, timeline: Timeline, verdict: Verdict, loads: Mapping[str, Mapping[str, Any]]
) -> str:
    """The whole page. `loads` are the plans of clients, by name, where they have one."""
    parts = [
        tables.make_head(network, timeline, verdict),
        make_charts(timeline),
        tables.make_pair(tables.make_latency(timeline), tables.make_faults(timeline)),
        make_slowest(timeline),
        tables.make_invariants(verdict),
        make_topology(network, timeline),
        tables.make_manifest(network, loads),
    ]
    head = element(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">'),
        element("title", f"rolemesh run, seed {network.seed}"),
        element("style", Markup(STYLE.read_text(encoding="utf-8"))),
    )
    return "<!doctype html>\n" + element("html", head, element("body", join(*parts)), lang="en") + "\n"


def _find_logs(directory: Path, network: NetworkFile) -> tuple[dict[str, Path], dict[str, str]]:
    """The folders of all logs, and the roles of the nodes that wrote them, both by name."""
    logs, roles = {NETWORK_LOG: directory}, {node.name: node.role for node in network.nodes}
    # Clients first: of events of one millisecond, theirs is the sending.
    for node in sorted(network.nodes, key=lambda node: node.role != "client"):
        logs[node.name] = directory / node.directory
    # Clients that joined, such as a gateway's, are no nodes of the network file.
    for place in find_places(directory)[:PLACES_MAX]:
        if place not in logs.values():
            name = str(place.relative_to(directory))
            logs[name], roles[name] = place, "client"
    return logs, roles


def _list_clients(network: NetworkFile) -> list[tuple[str, str]]:
    return [(node.name, node.directory) for node in network.nodes if node.role == "client"][:CLIENTS_SHOWN]


def _read_log(name: str, folder: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for event in read_events(folder):
        if (time_ms := get_int(event, "time_ms")) is not None:
            yield time_ms, name, event
