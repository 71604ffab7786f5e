"""Runs as they lie on disk when they are over: a network's file, the event logs of its nodes, a report."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from testnet.network_file import FILE_NAME, NetworkFile, NodeEntry, read_network_file, write_network_file

Story = Sequence[tuple[int, str, str, dict[str, Any]]]  # when, who, what, and more fields
SCRIPT = """<script>document.title=1</script><img src=x onerror="document.title=2">' onload='document.title=3"""
STORY: Story = [
    (1_000, "client-0", "request.sent", {"attempt": 1}),
    (1_010, "inference-0", "request.taken", {"attempt": 1}),
    (4_000, "client-0", "request.hedged", {"attempt": 1}),
    (4_000, "client-0", "request.sent", {"attempt": 2}),
    (4_005, "inference-1", "request.taken", {"attempt": 2}),
    (4_105, "inference-1", "claim.made", {"attempt": 2}),
    (4_120, "client-0", "result.received", {"attempt": 2}),
    (4_125, "verifier-0", "attestation.made", {}),
    (4_200, "client-0", "request.attested", {}),
    (6_200, "inference-1", "leaf.settled", {"zero_reason": 0, "amount": 70}),
]
REPORT: dict[str, Any] = {
    "bars": {"supply": True, "requests": False},
    "said": {"supply": "100 grains now, 100 in genesis"},
    "ledger": {"fees": 1_000_000, "workers": 800_000, "verifiers": 0, "treasury": 1, "burn": 2, "findings": []},
    "reconciliation": {"acknowledged": 3, "paid": 2, "refunded": 1, "unaccounted": 0, "findings": []},
}
LONG_MS = 3_600_000


def write_network(root: Path) -> Path:
    """A network's directory without nodes yet."""
    write_network_file(root / FILE_NAME, NetworkFile("dev-7", "ab", 7, 1, {"models": [{"name": "digits"}]}, (), ()))
    (root / "report.json").write_text(json.dumps(REPORT))
    return root


def add_nodes(home: Path, story: Story, **more: Any) -> None:
    """The nodes of a story beside those there are, with their logs."""
    network = read_network_file(home / FILE_NAME)
    entries = []
    for name in dict.fromkeys(name for _, name, _, _ in story):
        folder = home / "nodes" / name
        folder.mkdir(parents=True)
        entries.append(NodeEntry(name, name.partition("-")[0], f"12D3{name}", "rm1", ("/ip4/1",), f"nodes/{name}"))
        told = [(at, {"name": what, **fields}) for at, who, what, fields in story if who == name]
        write_events(folder, [{"time_ms": at, "request_id": "ab", **fields, **more} for at, fields in told])
    write_network_file(home / FILE_NAME, replace(network, nodes=(*network.nodes, *entries)))


def write_events(folder: Path, events: Iterable[dict[str, Any]]) -> None:
    """The event log of a node, or of the network itself."""
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def write_story(home: Path) -> Path:
    """A run of one request that was hedged, with a fault."""
    add_nodes(write_network(home), [*STORY, *tell_state(["client-0", "inference-0", "inference-1", "verifier-0"], 1)])
    fault = {"time_ms": 2_000, "name": "fault.started", "fault": "crash-0", "kind": "kill", "nodes": ["inference-0"]}
    write_events(home, [fault])
    return home


def write_long_run(home: Path, hours: int = 5, nodes: int = 60) -> Path:
    """A run of hours with many nodes, many faults, logs that lost their beginning, and names that are not short."""
    roles = ("validator", "inference", "verifier", "client")
    names = [f"{role}-{number}" for number in range(nodes // len(roles)) for role in roles]
    length_ms = hours * LONG_MS
    asked: list[tuple[int, str, str, dict[str, Any]]] = []
    for number in range(600):
        at_ms, took_ms = 1_000 + number * length_ms // 600, 20 + number**2 % 7_919
        client, worker = names[3 + 4 * (number % 9)], names[1 + 4 * (number % 7)]
        for step, (share, who, what) in enumerate(
            [(0, client, "request.sent"), (2, worker, "request.taken"), (6, worker, "claim.made"),
             (7, client, "result.received"), (8, names[2], "attestation.made"), (10, client, "request.attested"),
             (14, worker, "leaf.settled")]
        ):  # fmt: skip
            fields = {"request_id": f"{number:064x}", "attempt": 1, "zero_reason": 0, "amount": 1_000_000 * step}
            asked.append((at_ms + took_ms * share // 10, who, what, fields))
    told = [*asked, *tell_state(names, length_ms)]
    kept = [event for event in told if event[1] != names[1] or event[0] > LONG_MS]
    lost = [(LONG_MS, names[1], "log.dropped", {})]
    add_nodes(write_network(home), sorted([*lost, *kept], key=lambda event: event[0]))
    faults = [
        {"time_ms": 1_000 + begin * length_ms // 40, "name": f"fault.{what}", "fault": f"partition-{number}",
         "kind": "partition", "groups": [[names[number], names[number + 1]]]}
        for number in range(40) for begin, what in ((number, "started"), (number + 1, "ended"))
    ]  # fmt: skip
    write_events(home, faults)
    return home


def tell_state(names: Sequence[str], length_ms: int) -> Story:
    """What each node says of itself, at the start and at the end."""
    peers = {"peers": [f"12D3{name}" for name in names[::3]]}
    said = {"height": 4, "rss_bytes": 100 * 2**20}
    return [
        (at_ms, name, what, fields)
        for name in names
        for at_ms in (1_000, 1_000 + length_ms)
        for what, fields in (("node.peers", peers), ("node.status", said))
    ]
