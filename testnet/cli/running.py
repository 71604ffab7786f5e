"""Run a founded network from its first process to its report."""

import importlib
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testnet.cli.output import CommandError, ExitCode, Output, format_bytes, format_table
from testnet.cli.referendum import Referendum
from testnet.cli.run import LOG_TAIL_LINES, Load, Order, Run, find_reason
from testnet.cli.schedule import FEED as SCHEDULED_FEED
from testnet.cli.schedule import Schedule
from testnet.cli.stats_text import format_stats
from testnet.cli.storefront import Storefront
from testnet.events import EventFollower
from testnet.launch import Launcher, Program, Terminated, plan_programs, read_status
from testnet.network_file import FILE_NAME, NetworkFile, NodeEntry

if TYPE_CHECKING:
    from testnet.load_plan import RowsDone

READY_TIMEOUT_S = 60.0
READY_PER_NODE_S = 1.0
GO_NAME = "go"


def run_network(order: Order, output: Output) -> int:
    """Found, start, run, end, report; the exit code. Raises CommandError, LaunchError, KeyboardInterrupt."""
    # Before a signal may end the network: Python dies of an interrupt that comes while a module makes its dataclasses,
    # whoever catches it.
    for name in ("testnet.fault_control", "testnet.fault_desk"):
        importlib.import_module(name)
    network = _found(order)
    output.say(f"rolemesh testnet  seed {order.seed}  network {network.name}  dir {order.directory}")
    programs = plan_programs(order.directory, network, order.load is not None)
    follower = EventFollower([order.directory, *(order.directory / node.directory for node in network.nodes)])
    with Launcher(order.directory, network, order.spawn) as launcher:
        run = Run(order, network, launcher, follower, rows_done=_follow_rows(order, network))
        started_s = time.monotonic()
        launcher.start(programs)
        _wait_until_ready(run)
        launcher.record_pids()
        _print_nodes(run, output, time.monotonic() - started_s)
        gateway = _start_gateway(run, order.gateway, output) if order.gateway is not None else ""
        with _faults_taken(run, programs):  # by the time it says that it is ready
            (order.directory / GO_NAME).touch()
            output.say("ready")
            if order.load is None:
                _give_network(run, output, gateway)
            if order.scheduled is not None:
                client = order.directory / _list_clients(network)[0].directory
                run.schedule = Schedule(client, network.feed_url, order.scheduled)
            if order.proposes:
                client = order.directory / _list_clients(network)[0].directory
                validators = [order.directory / node.directory for node in network.nodes if node.role == "validator"]
                run.referendum = Referendum(client, validators)
            if order.sells:
                run.storefront = _open_storefront(run)
            ready_s = time.monotonic()
            ended_by = _stay(run)
            ran_s = time.monotonic() - ready_s
    run.progress.end()
    if ended_by == "interrupt":
        raise KeyboardInterrupt
    if order.load is None:
        output.say(f"network {network.name} is down")
        return int(ExitCode.OK)
    return _review(run, order.load, ran_s, ended_by, output)


def _open_storefront(run: Run) -> Storefront:
    """Of a validator, for the first client; the model under load is asked."""
    order, load = run.order, run.order.load
    assert load is not None
    [owner, *_] = [order.directory / node.directory for node in run.network.nodes if node.role == "validator"]
    buyer = order.directory / _list_clients(run.network)[0].directory
    return Storefront(run.launcher, owner, buyer, load.model.name, load.inputs[0])


def _found(order: Order) -> NetworkFile:
    """Write the network to disk; with a load, also the client's plan and the samples as the model takes them."""
    from testnet.found import NetworkPlan, NoAddress, found_network

    options: dict[str, Mapping[str, Any]] = {}
    if order.feed is not None:
        from testnet.genesis import FEED_NAME

        url, path = order.feed
        options["oracle"] = {"feeds": {FEED_NAME: {"url": url, "path": path}}}
    feeds = (SCHEDULED_FEED,) if order.scheduled is not None else ()
    plan = NetworkPlan(
        order.directory, order.seed, order.roles, order.models, order.liars, order.accounts, options, feeds=feeds
    )
    try:
        network = found_network(plan, now_ms=time.time_ns() // 1_000_000)
    except NoAddress as error:
        raise CommandError("port_in_use", str(error), "end another network: `rolemesh testnet down`") from error
    if order.load is not None:
        _plan_load(order, order.load, network)
    return network


def _plan_load(order: Order, load: Load, network: NetworkFile) -> None:
    import numpy as np

    from testnet.load_plan import LoadPlan, write_plan

    samples = order.directory / "samples.npz"
    np.savez(samples, inputs=load.inputs)
    go = (order.directory / GO_NAME).resolve()
    clients = _list_clients(network)
    storage = sum(node.role == "storage" for node in network.nodes)
    for place, client in enumerate(clients):
        plan = LoadPlan(
            load.model.digest.hex(),
            str(samples.resolve()),
            len(load.inputs),
            str(go),
            load.pace.in_flight,
            timeout_ms=load.pace.timeout_ms,
            mode=load.pace.mode,
            per_s=load.pace.per_s,
            place=place,
            clients=len(clients),
            copies=storage if order.lease and not place else 0,
        )
        write_plan(order.directory / client.directory, plan)


def _follow_rows(order: Order, network: NetworkFile) -> "RowsDone":
    from testnet.load_plan import RowsDone

    return RowsDone([order.directory / client.directory for client in _list_clients(network)])


def _list_clients(network: NetworkFile) -> list[NodeEntry]:
    return [node for node in network.nodes if node.role == "client"]


def _wait_until_ready(run: Run) -> None:
    nodes = len(run.network.nodes)
    timeout_s = READY_TIMEOUT_S + READY_PER_NODE_S * nodes
    try:
        is_ready = run.launcher.wait(run.is_ready, timeout_s, run.show_waiting)
    except Terminated as error:
        raise CommandError("interrupted", f"stopped by {error} before the network was ready", "") from error
    finally:
        run.progress.end()
    if not is_ready:
        waiting = run.find_waiting()
        raise CommandError(
            "timeout",
            f"after {timeout_s:.0f} s these nodes do not serve: {', '.join(waiting)}",
            f"read {run.order.directory / 'logs' / waiting[0]}.log",
            ExitCode.TIMEOUT,
            waiting=waiting,
            seed=run.order.seed,
        )


@contextmanager
def _faults_taken(run: Run, programs: list[Program]) -> Iterator[None]:
    """Inside, while the launcher waits, it plays the plan of faults and takes in those that are asked for."""
    from testnet.fault_control import open_control, serve_one
    from testnet.fault_desk import PLAN, FaultDesk

    order, launcher = run.order, run.launcher
    run.desk = desk = FaultDesk(order.directory, launcher, {program.name: program for program in programs})
    try:
        with open_control(order.directory) as launcher.listener:
            launcher.on_call = partial(serve_one, launcher.listener, desk)
            desk.add(order.faults, PLAN)
            yield
    finally:
        launcher.listener = None
        desk.close()


def _stay(run: Run) -> str:
    """Until it is over; why: `settled`, `quiet`, `duration`, `down` or `interrupt`."""
    run.moved_s = time.monotonic()
    duration_s = run.order.duration_s if run.order.duration_s is not None else float("inf")
    try:
        is_over = run.launcher.wait(run.is_over, duration_s, run.show_load)
    except Terminated:
        return "down"
    except KeyboardInterrupt:
        return "interrupt"
    if not is_over:
        return "duration"
    return "settled" if run.is_settled() else "quiet"


def _review(run: Run, load: Load, ran_s: float, ended_by: str, output: Output) -> int:
    """Check and report; the exit code. The processes have ended by now."""
    from testnet.review import CheckFailed, Material, review_run

    output.note("checking what the run left behind")
    material = Material(
        directory=run.order.directory,
        network=run.network,
        model=load.model,
        inputs=load.inputs,
        labels=load.labels,
        liars=run.order.liars,
        mode=load.pace.mode,
        tally=run.follower.read(),
        ran_s=ran_s,
        ended_by=ended_by,
        exits=run.launcher.exits,
        asked=None if run.storefront is None else run.storefront.statuses,
    )
    try:
        report = review_run(material)
    except CheckFailed as error:
        hint = f"look at {run.order.directory} with `rolemesh testnet check`"
        raise CommandError("check_failed", str(error), hint, seed=run.order.seed) from error
    names = {node.account: node.name for node in run.network.nodes}
    for line in (*report.lines, "", *format_stats(report.fields["activity"], names)):
        output.say(line)
    output.give({**report.fields, "page": str(_draw_page(run, output))})
    return report.exit_code


def _draw_page(run: Run, output: Output) -> Path:
    """The run as a page to open in a browser. Raises CommandError."""
    from testnet.page.page import PAGE_NAME, write_page

    directory = run.order.directory
    try:
        page = write_page(directory, lambda share: run.progress.show(f"drawing the report page: {share:.0%} read"))
    except OSError as error:
        hint = f"make {directory / PAGE_NAME} writable, and then: rolemesh testnet report --dir {directory}"
        raise CommandError("not_written", str(error), hint, ExitCode.CONFIG) from error
    run.progress.end()
    output.say(f"{'page':>12}  {page.path}, {format_bytes(page.size_bytes)}: open it in a browser")
    return page.path


def _print_nodes(run: Run, output: Output, start_s: float) -> None:
    rows = []
    for node in run.network.nodes:
        status = read_status(run.order.directory, node)
        pid = str(run.launcher.pids[node.name])
        rows.append((node.name, node.role, pid, str(status.get("state", "")), node.addresses[0], node.node))
    output.say(format_table(("NODE", "ROLE", "PID", "STATE", "ADDRESS", "ID"), rows))
    output.say(f"{len(rows)} nodes up in {start_s:.1f} s; network file {run.order.directory / FILE_NAME}")
    if run.network.accounts:
        output.say(f"{len(run.network.accounts)} spare accounts (public development keys) for `rolemesh node init`")


def _start_gateway(run: Run, listen: tuple[str, int], output: Output) -> str:
    """The URL of the gateway, once it answers. Raises CommandError."""
    from testnet.gateway_program import GATEWAY, plan_gateway, read_place

    launcher, directory = run.launcher, run.order.directory
    launcher.start([plan_gateway(directory, listen)])
    log = directory / "logs" / f"{GATEWAY}.log"
    try:
        is_up = launcher.wait(
            lambda: bool(read_place(directory)) or GATEWAY in launcher.exits,
            READY_TIMEOUT_S,
            lambda: run.progress.show("the gateway joins the network"),
        )
    except Terminated as error:
        raise CommandError("interrupted", f"stopped by {error} before the gateway answered", "") from error
    finally:
        run.progress.end()
    url = read_place(directory)
    if not is_up or not url:
        reason = find_reason(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise CommandError("no_gateway", f"the gateway does not answer: {reason}", f"read {log}", seed=run.order.seed)
    output.say(f"gateway: OpenAI {url}/v1, Open Inference Protocol {url}/v2")
    return url


def _give_network(run: Run, output: Output, gateway: str) -> None:
    """The one JSON object of a network that stays up."""
    nodes = [{"name": node.name, "role": node.role, "pid": run.launcher.pids[node.name]} for node in run.network.nodes]
    file = str(run.order.directory / FILE_NAME)
    told = {"state": "ready", "seed": run.order.seed, "network": run.network.name, "file": file, "nodes": nodes}
    output.give(told | ({"gateway": gateway} if gateway else {}))
    if not output.is_json and run.order.duration_s is None:
        print("Ctrl-C or `rolemesh testnet down` ends it", file=sys.stderr, flush=True)
