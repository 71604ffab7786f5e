"""Run a replay token again and say what happens: `rolemesh sim --replay TOKEN`."""

import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

from protocol.errors import LocalError
from testnet.sim import Network, simulate
from testnet.sim_token import Replay, get_version, parse_token

EVENTS_SHOWN_MAX = 40
EXIT_OK, EXIT_FAILURE, EXIT_USAGE = 0, 1, 2


@dataclass(frozen=True)
class Replayed:
    """A run that was repeated, and whether it came to the trace its token names."""

    network: Network
    replay: Replay
    is_same: bool


def replay(token: str) -> Replayed:
    """Repeat the run of a token, to its last event. Raises LocalError for what is no token."""
    run = parse_token(token)
    network = simulate(run.seed, run.roles, run.liars, run.faults, run.options)
    for step in run.steps:
        network.kernel.run_events(step.events_run, network.kernel.start_ms + step.at_ms)
        match step.kind, step.arguments:
            case "request", (model, row, client, *how):
                network.request(model, row, client, *how)
            case "crash", (name,):
                network.crash(name)
            case "stop", (name,):
                network.stop(name)
            case "start", (name,):
                network.start(name)
            case _:
                raise LocalError(f"this rolemesh knows no step {step.kind!r} with {len(step.arguments)} arguments")
    network.kernel.run_events(run.events_run, network.kernel.start_ms + run.elapsed_ms)
    return Replayed(network, run, network.trace == run.trace)


def describe(result: Replayed) -> dict[str, Any]:
    """What a person or a program wants to know of a replayed run, ready for JSON."""
    network, run = result.network, result.replay
    return {
        "seed": run.seed,
        "roles": dict(run.roles),
        "liars": run.liars,
        "faults": run.faults.to_text(),
        "version": run.version,
        "is_same": result.is_same,
        "elapsed_ms": network.elapsed_ms,
        "height": network.ledger.height,
        "supply": network.supply(),
        "violations": network.find_violations(),
        "counts": dict(sorted(Counter(event["name"] for event in network.events).items())),
        "last_events": network.events[-EVENTS_SHOWN_MAX:],
    }


def run_token(token: str) -> int:
    """Repeat the run of a token and print what happened. The exit code: 0 all well, 1 violations, 2 no token."""
    try:
        result = replay(token)
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    found = describe(result)
    start_ms = result.network.kernel.start_ms
    for event in found.pop("last_events"):
        rest = " ".join(f"{key}={value}" for key, value in event.items() if key not in ("time_ms", "node", "name"))
        print(f"{event['time_ms'] - start_ms:>8} ms  {event['node']:<14} {event['name']:<20} {rest}")
    for key, value in found.items():
        print(f"{key}: {value}")
    if not result.is_same:
        print(f"note: made by rolemesh {result.replay.version}, this is {get_version()}: the run took another course")
    return EXIT_FAILURE if found["violations"] else EXIT_OK
