"""What a node says to whoever watches over it: is it alive, is it ready, and its numbers.

`Vital` is everything that is looked at, taken at one moment; the rest is text made of it. Names of metrics are an API:
a test pins them. None has a peer in its labels.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from protocol.types import NodeState

TURN_S_MAX = 10.0  # a node that is busy with one turn for so long hangs, or its disk does
PEERS_MIN = 1
JSON = "application/json"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Page:
    """An answer. `body` is text."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Vital:
    """One moment of a node.

    `turn_s`: how long the turn under way has taken; `reach`: unknown, reachable, unreachable, or trusted when nobody
    has to dial it back; `restart`: what `roles.recovery` says of one that is loaded; `keys`: what `roles.presence` says
    of other keys that the ledger names; `sandbox`: each measure that could bind worker processes, and whether it does;
    `backends`: servers that run models, by model, as they describe themselves; `topics`: counters by topic, as in
    `status.json`.
    """

    version: str
    chain: str
    state: NodeState
    roles: tuple[str, ...]
    turn_s: float
    has_peers_to_find: bool
    inbound: int
    outbound: int
    banned: int
    height: int
    reach: str
    advice: str
    restart: Mapping[str, object]
    sandbox: Mapping[str, bool]
    backends: Mapping[str, Mapping[str, Any]]
    keys: Mapping[str, str]
    rss_bytes: int
    topics: Mapping[str, Mapping[str, int]]
    queues: Mapping[str, int]
    shed: Mapping[str, int]
    refused: Mapping[str, int]
    penalties: int


@dataclass(frozen=True)
class Check:
    """One thing that must hold for a node to be ready. `detail` says what was found, or what to do."""

    name: str
    holds: bool
    detail: str


def choose_page(target: str, vital: Vital) -> Page:
    """The page for a path: /livez, /readyz (JSON with ?verbose) or /metrics."""
    path, query = urlsplit(target)[2:4]
    match path:
        case "/livez":
            is_alive = vital.turn_s <= TURN_S_MAX
            said = "ok" if is_alive else f"the node has been busy with one turn for {vital.turn_s:.1f} s"
            return Page(200 if is_alive else 503, f"{said}\n")
        case "/readyz":
            return _show_checks(compute_checks(vital), "verbose" in query)
        case "/metrics":
            return Page(200, format_metrics(vital), PROMETHEUS)
    return Page(404, "there is /livez, /readyz, /readyz?verbose and /metrics\n")


def compute_checks(vital: Vital) -> list[Check]:
    """All that makes a node ready for what it is there for."""
    peers = vital.inbound + vital.outbound
    least = PEERS_MIN if vital.has_peers_to_find else 0
    synced = vital.state in (NodeState.OBSERVING, NodeState.SERVING)
    return [
        Check("loop", vital.turn_s <= TURN_S_MAX, f"busy with one turn for {vital.turn_s:.1f} s"),
        Check("peers", peers >= least, f"{peers} connected, {least} needed"),
        Check("ledger", synced, f"{vital.state} at height {vital.height}"),
        Check("reachable", vital.reach in ("reachable", "trusted"), vital.advice or vital.reach),
        Check("restart", vital.restart.get("state") != "waits", str(vital.restart.get("advice", "none is waited for"))),
        Check("keys", vital.keys.get("state") != "replaced", vital.keys.get("advice", "those the ledger names")),
        _check_backends(vital.backends),
        Check("serving", vital.state is NodeState.SERVING, f"{', '.join(vital.roles)}: {vital.state}"),
    ]


def _check_backends(backends: Mapping[str, Mapping[str, Any]]) -> Check:
    failed = [
        f"{model}: {server['state']}: {server['reason']}" for model, server in backends.items() if not _is_up(server)
    ]
    return Check("backends", not failed, "; ".join(failed) or f"{len(backends)} servers")


def _is_up(server: Mapping[str, Any]) -> bool:
    return server["state"] in ("ready", "trying")


def format_metrics(vital: Vital) -> str:
    """Everything countable, in the text format of Prometheus 0.0.4."""
    lines: list[str] = []
    for name, kind, text, samples in _list_metrics(vital):
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{_format_labels(labels)} {value}" for labels, value in samples]
    return "\n".join(lines) + "\n"


Samples = Sequence[tuple[Mapping[str, str], int]]


def _list_metrics(vital: Vital) -> Iterator[tuple[str, str, str, Samples]]:
    """(name, type, help, samples)."""
    about = {"version": vital.version, "chain": vital.chain}
    yield "rolemesh_build_info", "gauge", "What runs here; always 1.", [(about, 1)]
    states = [({"state": str(state)}, int(state is vital.state)) for state in NodeState]
    yield "rolemesh_state", "gauge", "1 for the state the node is in.", states
    yield "rolemesh_roles", "gauge", "1 for each role of the node.", [({"role": role}, 1) for role in vital.roles]
    yield "rolemesh_head_height", "gauge", "Height of the newest decided block known here.", [({}, vital.height)]
    directions = [({"direction": "inbound"}, vital.inbound), ({"direction": "outbound"}, vital.outbound)]
    yield "libp2p_peers", "gauge", "Living connections.", directions
    yield "rolemesh_bans", "gauge", "Bans that hold now, of keys and of places.", [({}, vital.banned)]
    walls = [({"measure": name}, int(stands)) for name, stands in vital.sandbox.items()]
    yield "rolemesh_sandbox", "gauge", "1 for each measure that binds processes that run models, else 0.", walls
    servers = vital.backends.items()
    ready = [({"model": model}, int(server["state"] == "ready")) for model, server in servers]
    yield "rolemesh_backend_ready", "gauge", "1 for each model whose server is ready, else 0.", ready
    jobs = [
        ({"model": model, "outcome": outcome}, server[outcome])
        for model, server in servers
        for outcome in ("answered", "failed", "timed_out", "refused_busy")
    ]
    yield "rolemesh_backend_jobs_total", "counter", "Jobs for servers, by model and what became of them.", jobs
    reached = int(vital.reach in ("reachable", "trusted"))
    yield "rolemesh_reachable", "gauge", "Whether peers can dial this node, or need not.", [({}, reached)]
    refused = [({"reason": reason}, count) for reason, count in sorted(vital.refused.items())]
    yield "rolemesh_connections_refused_total", "counter", "Callers turned away at the door.", refused
    yield "rolemesh_penalties_total", "counter", "Rules broken by peers, as roles saw it.", [({}, vital.penalties)]
    events = [
        ({"topic": topic, "event": event}, count)
        for topic, counts in sorted(vital.topics.items())
        for event, count in sorted(counts.items())
    ]
    yield "rolemesh_gossip_messages_total", "counter", "Messages by topic and what became of them.", events
    queues = [({"queue": name}, size) for name, size in sorted(vital.queues.items())]
    yield "rolemesh_queue_length", "gauge", "What waits inside the node.", queues
    shed = [({"what": name}, count) for name, count in sorted(vital.shed.items())]
    yield "rolemesh_shed_total", "counter", "What was dropped or refused for want of room.", shed
    yield "process_resident_memory_bytes", "gauge", "Memory in RAM.", [({}, vital.rss_bytes)]


def _show_checks(checks: list[Check], is_verbose: bool) -> Page:
    failed = [check for check in checks if not check.holds]
    status = 503 if failed else 200
    if is_verbose:
        shown = [{"name": check.name, "ok": check.holds, "detail": check.detail} for check in checks]
        return Page(status, json.dumps({"ready": not failed, "checks": shown}) + "\n", JSON)
    return Page(status, "".join(f"not ready: {check.name}: {check.detail}\n" for check in failed) or "ok\n")


def _format_labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    shown = (f'{name}="{_escape(value)}"' for name, value in labels.items())
    return "{" + ",".join(shown) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
