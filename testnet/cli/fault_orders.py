"""What every `rolemesh testnet fault …` does: check names, ask the launcher, stay until it is over, heal on Ctrl-C."""

import contextlib
import json as jsonlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from protocol.errors import LocalError
from testnet.cli.arguments import open_network, parse_duration
from testnet.cli.output import CommandError, ExitCode, Output, format_count
from testnet.cli.progress import Progress
from testnet.faults import FaultPlan
from testnet.launch import is_alive, read_status
from testnet.network_file import NetworkFile, NodeEntry, is_locked, is_running

ASK_S = 30.0  # the launcher may be asking many nodes meanwhile
POLL_S = 0.2


def carry_out(
    make: Callable[[int], FaultPlan],
    for_: str | None,
    directory: Path | None,
    json: bool,
    must_run: tuple[str, ...] = (),
    extra_ms: int = 0,
) -> None:
    """Have the launcher carry out a plan made for so many ms; with an end, stay until then. Raises CommandError."""
    output = Output(json)
    duration_ms = max(1, round(parse_duration(for_) * 1_000)) if for_ is not None else 0
    root, network = open_running(directory)
    try:
        plan = make(duration_ms)
    except LocalError as error:
        raise CommandError("bad_fault", str(error), "see --help", ExitCode.USAGE) from error
    if not plan.list_faults():
        hint = "raise --rate or --for"
        raise CommandError("bad_fault", "nothing would happen in that time", hint, ExitCode.USAGE)
    _check_nodes(root, network, plan.list_nodes(), must_run)
    by = f"{os.getpid()}/{time.time_ns()}"  # known even when we are interrupted before the launcher has answered
    with _interruptible():
        try:
            mine = set(ask_launcher(root, {"command": "faults.add", "plan": _to_document(plan), "by": by})["ids"])
            if duration_ms:
                _stay(root, mine, (duration_ms + extra_ms) / 1_000)
        except KeyboardInterrupt:
            ask_launcher(root, {"command": "faults.heal", "which": by})
            raise
    found = [fault for fault in ask_launcher(root, {"command": "faults.ls"})["faults"] if fault["fault"] in mine]
    for fault in found:
        output.say(f"{fault['fault']}  {fault['kind']} {format_where(fault)}: {fault['state']}")
    if not duration_ms and found:
        output.say(f"ends with `rolemesh testnet fault heal {found[0]['set']}`")
    output.give({"faults": found})


def _stay(root: Path, mine: set[str], duration_s: float) -> None:
    progress, end_s = Progress(), time.monotonic() + duration_s + ASK_S
    try:
        while time.monotonic() < end_s:
            faults = [
                fault for fault in ask_launcher(root, {"command": "faults.ls"})["faults"] if fault["fault"] in mine
            ]
            left = [fault for fault in faults if fault["state"] in ("planned", "on")]
            if not left:
                return
            on = [fault["fault"] for fault in left if fault["state"] == "on"]
            progress.show(f"{format_count(len(left), 'fault')} left, on: {', '.join(on[:4]) or 'none'}; Ctrl-C heals")
            time.sleep(POLL_S)
    finally:
        progress.end()
    raise CommandError("timeout", "the faults are not over yet", "see `rolemesh testnet fault ls`", ExitCode.TIMEOUT)


def open_running(directory: Path | None) -> tuple[Path, NetworkFile]:
    path, network = open_network(directory)
    if not is_running(path.parent):
        hint = "start one with `rolemesh testnet up`, or name its directory with --dir"
        raise CommandError(
            "not_running", f"network {network.name} in {path.parent} does not run", hint, ExitCode.UNREACHABLE
        )
    return path.parent, network


def ask_launcher(root: Path, request: dict[str, Any]) -> dict[str, Any]:
    from roles.control import NodeUnreachable, RequestRefused, ask_node

    try:
        return ask_node(root, request, ASK_S)
    except RequestRefused as error:
        raise CommandError("bad_fault", error.message, "see --help", ExitCode.USAGE) from error
    except NodeUnreachable as error:
        hint = "wait until it is ready, or look at it with `rolemesh testnet status`"
        raise CommandError(
            "not_running", f"the launcher in {root} takes no faults", hint, ExitCode.UNREACHABLE
        ) from error


def _check_nodes(root: Path, network: NetworkFile, names: tuple[str, ...], must_run: tuple[str, ...]) -> None:
    """Refuse names that nobody has, and to kill or pause what does not run."""
    known = [node.name for node in network.nodes]
    for name in names:
        if name not in known:
            hint = f"there is: {', '.join(known)}"
            raise CommandError("unknown_node", f"no node {name!r} in network {network.name}", hint, ExitCode.USAGE)
    for node in network.nodes:
        if node.name in must_run and not _is_running(root, node):
            hint = "`rolemesh testnet fault heal` starts what a fault has killed"
            raise CommandError("node_down", f"{node.name} does not run", hint, ExitCode.UNREACHABLE)


def _is_running(root: Path, node: NodeEntry) -> bool:
    # The lock alone does not say: a worker of a node that was killed may hold it for a moment more.
    lock = root / node.directory / "lock"
    return lock.is_file() and is_locked(lock) and is_alive(int(read_status(root, node).get("pid") or node.pid))


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM too heals what this command has set, and SIGINT even where a shell has us ignore it."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _to_document(plan: FaultPlan) -> Any:
    return jsonlib.loads(plan.to_text())


def split_names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def format_where(fault: dict[str, Any]) -> str:
    """Where a fault is, in a few words."""
    if "nodes" in fault:
        return ",".join(fault["nodes"])
    if "groups" in fault:
        groups = " / ".join(",".join(group) for group in fault["groups"])
        return f"{groups}{' / rest' if len(fault['groups']) == 1 else ''}{' one way' if fault.get('one_way') else ''}"
    arrow = "<->" if fault.get("both_ways") else "->"
    return f"{','.join(fault.get('sources', ())) or 'all'} {arrow} {','.join(fault.get('targets', ())) or 'all'}"


def format_left(fault: dict[str, Any]) -> str:
    return "" if fault["left_s"] is None else f"{fault['left_s']:.1f} s"
