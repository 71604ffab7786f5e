"""`rolemesh testnet`: a network of processes on this machine, from this terminal or another."""

import contextlib
import os
import signal
import time
from collections import deque
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from testnet.cli import fault, up
from testnet.cli.arguments import Json, open_network
from testnet.cli.output import CommandError, ExitCode, Output, format_bytes, format_count, format_table
from testnet.cli.progress import Progress
from testnet.launch import is_alive, read_status
from testnet.network_file import NetworkFile, is_locked, is_running

DOWN_TIMEOUT_S = 20.0
LOG_BYTES_MAX = 1024 * 1024  # read from the end of each log
FOLLOW_POLL_S = 0.2

app = App(
    name="testnet",
    help="Networks of real processes on this machine.",
    help_epilogue="Examples:\n\n  rolemesh testnet up\n\n  rolemesh testnet status\n\n  rolemesh testnet down",
)
app.command(
    up.up,
    help_epilogue="Examples:\n\n  rolemesh testnet up\n\n  rolemesh testnet up --load digits --duration 60s\n\n"
    "  rolemesh testnet up --seed 7 --liar 1 --load digits --duration 60s\n\n"
    "  rolemesh testnet up --roles validator=1,inference=5,verifier=3,storage=1,client=1\n\n"
    "  rolemesh testnet up --model my.onnx --samples my.npz --load my --duration 2m\n\n"
    "  rolemesh testnet up --load digits --faults docs/examples/faults.json",
)

app.command(fault.app)

Where = Annotated[
    Path | None, Parameter(name="--dir", help="Directory of the network; the newest under ./.rolemesh unless given.")
]


@app.command(help_epilogue="Examples:\n\n  rolemesh testnet status\n\n  rolemesh testnet status --json")
def status(*, directory: Where = None, json: Json = False) -> None:
    """Show every node: role, process, state, height, peers."""
    output = Output(json)
    path, network = open_network(directory)
    rows = [_describe(path.parent, network, index) for index in range(len(network.nodes))]
    state = "running" if is_running(path.parent) else "stopped"
    roots = {row["state_root"] for row in rows if row["alive"] and row["height"] == max(r["height"] for r in rows)}
    output.say(f"network {network.name}  seed {network.seed}  {state}  {path}")
    head = ("NODE", "ROLE", "PID", "STATE", "HEIGHT", "PEERS", "ADDRESS")
    cells = [
        tuple(str(row[key]) for key in ("name", "role", "pid", "state", "height", "peers", "address")) for row in rows
    ]
    output.say(format_table(head, cells))
    output.give(
        {
            "network": network.name,
            "seed": network.seed,
            "file": str(path),
            "state": state,
            "one_state_root_at_tip": len(roots) <= 1,
            "nodes": rows,
        }
    )


@app.command(
    help_epilogue="Examples:\n\n  rolemesh testnet logs\n\n  rolemesh testnet logs inference-0 --lines 50\n\n"
    "  rolemesh testnet logs --follow"
)
def logs(
    *names: str,
    directory: Where = None,
    lines: int = 20,
    follow: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> None:
    """Print the last lines of the nodes' logs.

    Parameters
    ----------
    names
        Nodes whose logs to print; all unless given.
    lines
        How many lines of each, at most 10,000.
    follow
        Stay and print what is added, until Ctrl-C.
    """
    output = Output(json)
    path, _ = open_network(directory)
    if not 1 <= lines <= 10_000 or (follow and json):
        raise CommandError(
            "usage", "--lines is from 1 to 10000, and --follow has no --json", "see --help", ExitCode.USAGE
        )
    found = {log.stem: log for log in sorted((path.parent / "logs").glob("*.log"))}
    unknown = [name for name in names if name not in found]
    if unknown:
        raise CommandError("unknown_name", f"no log of {unknown[0]!r}", f"there is: {', '.join(found)}", ExitCode.USAGE)
    chosen = {name: found[name] for name in names or found}
    tails = {name: _read_tail(log, lines) for name, log in chosen.items()}
    for name, tail in tails.items():
        for line in tail:
            output.say(f"{name}: {line}")
    output.give({"logs": {name: list(tail) for name, tail in tails.items()}})
    if follow:
        _follow(chosen, output)


@app.command(help_epilogue="Examples:\n\n  rolemesh testnet down\n\n  rolemesh testnet down --dir .rolemesh/dev-42")
def down(*, directory: Where = None, json: Json = False) -> None:
    """End every process of a network and wait until they are gone."""
    output = Output(json)
    path, network = open_network(directory)
    pids = _find_processes(path.parent, network)
    if not pids:
        output.say(f"network {network.name} is not running")
        output.give({"network": network.name, "ended": []})
        return
    launched = {node.pid for node in network.nodes} if pids[0] == network.launcher_pid else set()
    for pid in pids:
        if pid not in launched:  # the launcher ends its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while any(is_alive(pid) for pid in pids) or _find_processes(path.parent, network):
        if time.monotonic() > deadline:
            left = [pid for pid in pids if is_alive(pid)]
            raise CommandError(
                "timeout", f"still alive after {DOWN_TIMEOUT_S:.0f} s: {left}", f"kill -9 {left}", ExitCode.TIMEOUT
            )
        time.sleep(0.05)
    output.say(f"network {network.name} is down: {len(pids)} processes told to end, none left")
    output.give({"network": network.name, "ended": pids})


@app.command(help_epilogue="Examples:\n\n  rolemesh testnet check .rolemesh/dev-42\n\n  rolemesh testnet check --json")
def check(directory: Path | None = None, /, *, json: Json = False) -> int:
    """Recompute a network's ledger from genesis and blocks, in a separate process.

    Every node's blocks, states and supply are recomputed, and what clients and workers have kept is held against them:
    each receipt a client holds is paid once, given back, or still open. Exits 6 and says what it found when anything
    differs.

    Parameters
    ----------
    directory
        Directory of a network or of one node; the newest network under ./.rolemesh unless given.
    """
    from testnet.review import CheckFailed, recompute_ledgers

    output = Output(json)
    target = directory if directory is not None else open_network(None)[0].parent
    if not target.is_dir():
        raise CommandError("no_directory", f"no directory {target}", "name a network's directory", ExitCode.USAGE)
    try:
        found = recompute_ledgers(target)
    except CheckFailed as error:
        raise CommandError(
            "no_ledger", str(error), "name a network's or a node's directory", ExitCode.CONFIG
        ) from error
    for name, height in found["heights"].items():
        output.say(f"{name:>14}  holds up to height {height}")
    blocks = format_count(found["blocks"], "block")
    transactions = format_count(found["transactions_checked"], "transaction")
    output.say(f"{blocks}, {transactions}, supply {found['supply']} grains")
    receipts = found["receipts"]
    output.say(
        f"{format_count(receipts['acknowledged'], 'receipt')} held by clients: {receipts['paid']} paid once, "
        f"{receipts['refunded']} given back, unaccounted: {receipts['unaccounted']}"
    )
    for name in receipts["open"]:
        output.say(f"{'open':>14}  {name}")
    findings = [*found["findings"], *receipts["findings"]]
    if findings:
        for finding in findings:
            output.say(f"{'found':>14}  {finding}")
        raise CommandError(
            "invariant_violated",
            f"{format_count(len(findings), 'finding')}; {findings[0]}",
            "compare with an untouched copy of the directory",
            ExitCode.INVARIANT_VIOLATED,
            findings=findings,
        )
    output.say(f"everything holds; state root {found['state_root']}")
    output.give({"directory": str(target), **{key: value for key, value in found.items() if key != "evidence"}})
    return int(ExitCode.OK)


@app.command(
    help_epilogue="Examples:\n\n  rolemesh testnet report\n\n  rolemesh testnet report --dir .rolemesh/dev-42 --json"
)
def report(*, directory: Where = None, json: Json = False) -> int:
    """Write report.html of a run into its directory, from the event logs: one page that loads nothing from elsewhere.

    Without a report.json the ledger is recomputed, in a separate process. Exits 6 when something does not hold.
    """
    from testnet.page.page import PAGE_NAME, write_page

    output = Output(json)
    path, network = open_network(directory)
    progress, logs = Progress(), f"reading the event logs of {format_count(len(network.nodes), 'node')}"
    output.note("looking at what was found about its ledger")
    try:
        page = write_page(path.parent, lambda share: progress.show(f"{logs}: {share:.0%}"))
    except OSError as error:
        hint = f"make {path.parent / PAGE_NAME} writable"
        raise CommandError("not_written", str(error), hint, ExitCode.CONFIG) from error
    progress.end()
    output.say(f"{page.path}, {format_bytes(page.size_bytes)}")
    verdict = page.verdict
    if verdict.unchecked:
        hint = f"see `rolemesh testnet check {path.parent}`"
        message = f"{page.path} is written, but its ledger could not be checked: {verdict.unchecked}"
        raise CommandError("check_failed", message, hint, file=str(page.path))
    output.give(
        {
            "file": str(page.path),
            "bytes": page.size_bytes,
            "bars": {bar.name: bar.holds for bar in verdict.bars},
            "holds": not verdict.broken,
        }
    )
    return int(ExitCode.INVARIANT_VIOLATED if verdict.broken else ExitCode.OK)


def _describe(root: Path, network: NetworkFile, index: int) -> dict[str, Any]:
    node = network.nodes[index]
    status = read_status(root, node)
    pid = int(status.get("pid") or node.pid)
    alive = is_alive(pid)
    return {
        "name": node.name,
        "role": node.role,
        "pid": pid,
        "alive": alive,
        "state": str(status.get("state", "starting")) if alive else "dead",
        "height": int(status.get("height") or 0),
        "state_root": str(status.get("state_root", "")),
        "peers": len(status["peers"]) if isinstance(status.get("peers"), list) else int(status.get("peers") or 0),
        "address": node.addresses[0],
    }


def _find_processes(root: Path, network: NetworkFile) -> list[int]:
    """The launcher, if it runs, and every process that holds a node's lock: nodes started by hand belong to it too."""
    pids = [network.launcher_pid] if is_running(root) and is_alive(network.launcher_pid) else []
    for node in network.nodes:
        lock = root / node.directory / "lock"
        pid = int(read_status(root, node).get("pid") or node.pid)
        if lock.is_file() and is_locked(lock) and is_alive(pid) and pid not in pids:
            pids.append(pid)
    return pids


def _read_tail(log: Path, lines: int) -> deque[str]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES_MAX))
        return deque(file.read().decode("utf-8", "replace").splitlines(), maxlen=lines)


def _follow(logs_by_name: dict[str, Path], output: Output) -> None:
    offsets = {name: log.stat().st_size for name, log in logs_by_name.items()}
    while True:
        for name, log in logs_by_name.items():
            with log.open("rb") as file:
                file.seek(offsets[name])
                data = file.read(LOG_BYTES_MAX)
            whole, newline, _ = data.rpartition(b"\n")
            offsets[name] += len(whole) + len(newline)
            for line in whole.decode("utf-8", "replace").splitlines():
                output.say(f"{name}: {line}")
        time.sleep(FOLLOW_POLL_S)
