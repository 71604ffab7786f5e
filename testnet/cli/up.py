"""`rolemesh testnet up`: read what is wanted, found the network, run it, report."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from protocol.errors import LocalError
from testnet.cli.arguments import Json, parse_duration, parse_roles, spread_nodes
from testnet.cli.gateway import read_listen
from testnet.cli.output import CommandError, ExitCode, Output
from testnet.cli.run import Order, Pace
from testnet.cli.running import run_network
from testnet.cli.served import choose_models, choose_scheduled
from testnet.faults import FaultPlan
from testnet.launch import DirectoryInUse, LaunchError, hold_directory, termination_raises
from testnet.network_file import FILE_NAME, HOME, is_running

SEEDS = 100_000
NODES_DEFAULT = 9
NAMES_TRIED_MAX = 1_000
RATE_MIN, RATE_MAX = 0.01, 10_000.0


def up(
    *,
    nodes: int | None = None,
    roles: str | None = None,
    seed: int | None = None,
    duration: str | None = None,
    load: str | None = None,
    rows: int | None = None,
    in_flight: int = 8,
    rate: float | None = None,
    mode: str = "individual",
    timeout: str = "30s",
    liar: int = 0,
    model: Path | None = None,
    samples: Path | None = None,
    exact: Annotated[bool, Parameter(negative="")] = False,
    feed: str | None = None,
    directory: Annotated[Path | None, Parameter(name="--dir")] = None,
    accounts: int = 8,
    spawn: Annotated[bool, Parameter(negative="")] = False,
    faults: Path | None = None,
    workflow: str | None = None,
    lease: Annotated[bool, Parameter(negative="")] = False,
    propose: Annotated[bool, Parameter(negative="")] = False,
    sells: Annotated[bool, Parameter(name="--app", negative="")] = False,
    gateway: str | None = None,
    json: Json = False,
) -> int:
    """Start a network of processes on this machine and stay until Ctrl-C, `rolemesh testnet down` or --duration.

    With --load the clients share out every row of the model's samples as requests; the run ends when all are settled,
    and a report says what it showed. Exit code 0 then means that every bar of the report holds.

    Parameters
    ----------
    nodes
        How many processes, spread over the roles; 9 unless given.
    roles
        How many of each role instead: inference=3,verifier=2,... or your own as package.module:Role=1.
    seed
        What all keys, addresses and faults are derived from; a new one unless given.
    duration
        How long to run from "ready" on: 60s, 5m. Without it, until all is settled (--load) or until Ctrl-C.
    load
        Name of a model to send requests to: digits, or another that ships, such as digits-cnn, or your own.
    rows
        Send only the first so many rows.
    in_flight
        How many requests each client has under way at a time.
    rate
        How many requests each client begins in a second at most, such as 0.5; without it, as many as are answered.
    mode
        How requests are paid and checked: individual, batch, private, or mixed for each of them in turn.
    timeout
        How long each request may take.
    liar
        How many inference nodes answer wrongly on purpose on a seeded share of jobs.
    model
        An ONNX file of your own to serve as well, named like the file; or the name of one that ships.
    samples
        An .npz file with `inputs` (and `labels`) to load your model with.
    exact
        Your model computes the same bits on every machine, so a wrong answer can be slashed.
    feed
        A JSON document to read as the oracle's feed, as URL#path.to.number, instead of the recorded series.
    directory
        Where to keep everything; ./.rolemesh/dev-SEED unless given.
    accounts
        How many spare funded accounts, for nodes and clients that join.
    spawn
        Start every node as a fresh interpreter instead of a fork.
    workflow
        Name of a model that ships and reads a series, such as volatility: schedule it over the replayed series.
    faults
        A fault plan as JSON (docs/faults.md) to play from "ready" on; `rolemesh testnet fault` does more at any time.
    lease
        Have the first client lease the file of samples on every storage node, and wait until an audit is answered.
    propose
        Have the first client propose a change and the validators vote for it, and wait until it is in force.
    sells
        Have a validator register an app, a gateway serve it, and the first client buy a pass and use it up. It takes
        one of the spare accounts.
    gateway
        Loopback address and port for a gateway beside the nodes (`rolemesh gateway run`), such as 127.0.0.1:8080; port
        0 for any. It takes one of the spare accounts.
    """
    counts = _choose_roles(nodes, roles)
    _check_counts(counts, liar, accounts, rows, in_flight, load, rate is not None or lease or propose or sells)
    if sells and not accounts:
        raise CommandError("usage", "--app takes one of the spare accounts", "use --accounts 1", ExitCode.USAGE)
    _check_rate(rate)
    plan = _read_faults(faults, counts)
    place = read_listen(gateway) if gateway is not None else None
    pace = Pace(in_flight, _check_mode(mode), round(1_000 * parse_duration(timeout)), rate or 0)
    files, loaded = choose_models(load, rows, pace, model, samples, exact)
    files, scheduled = choose_scheduled(files, workflow, counts, feed)
    seed = secrets.randbelow(SEEDS) if seed is None else seed
    duration_s = parse_duration(duration) if duration else None
    order = Order(
        directory=_make_directory(directory, seed),
        seed=seed,
        roles=counts,
        models=files,
        load=loaded,
        liars=liar,
        accounts=accounts,
        feed=_check_feed(feed),
        spawn=spawn,
        duration_s=duration_s,
        faults=plan,
        scheduled=scheduled,
        lease=lease,
        proposes=propose,
        sells=sells,
        gateway=place,
    )
    try:
        with termination_raises(), hold_directory(order.directory):
            return run_network(order, Output(json))
    except DirectoryInUse as error:
        hint = "`rolemesh testnet down` ends it, or name another --dir"
        raise CommandError("directory_in_use", str(error), hint, ExitCode.CONFIG) from error
    except LaunchError as error:
        hint = f"read the logs in {order.directory / 'logs'}"
        raise CommandError("launch_failed", str(error), hint, seed=seed) from error


def _choose_roles(nodes: int | None, roles: str | None) -> Mapping[str, int]:
    if nodes is not None and roles is not None:
        raise CommandError("usage", "--nodes and --roles exclude each other", "use one of them", ExitCode.USAGE)
    return parse_roles(roles) if roles is not None else spread_nodes(NODES_DEFAULT if nodes is None else nodes)


def _check_counts(
    counts: Mapping[str, int],
    liar: int,
    accounts: int,
    rows: int | None,
    in_flight: int,
    load: str | None,
    is_load_needed: bool,
) -> None:
    """Refuse what could never work, before anything is started. Raises CommandError."""

    def refuse(code: str, message: str, hint: str) -> None:
        raise CommandError(code, message, hint, ExitCode.USAGE)

    if not 0 < sum(counts.values()) <= 250:
        refuse("too_many_nodes", f"{sum(counts.values())} nodes; one machine takes from 1 to 250", "see --nodes")
    from protocol.ledger.block import VOTES_MAX  # pulls in what help and usage can do without

    if not 1 <= counts.get("validator", 0) <= VOTES_MAX:
        message = f"{counts.get('validator', 0)} validators; a ledger has from 1 to {VOTES_MAX}"
        refuse("validators", message, "use validator=4: of four, one may fail")
    if not 0 <= liar <= counts.get("inference", 0):
        refuse("liars", f"{liar} liars among {counts.get('inference', 0)} inference nodes", "use --liar 1")
    if not 0 <= accounts <= 250 or (rows is not None and rows < 1) or not 1 <= in_flight <= 1_024:
        refuse("usage", "--accounts is 0 to 250, --rows at least 1, --in-flight 1 to 1024", "see --help")
    if load is not None:
        for role, least in (("client", 1), ("inference", 1), ("verifier", 2), ("storage", 1)):
            if counts.get(role, 0) < least:
                refuse("roles", f"--load needs {least} {role}, there are {counts.get(role, 0)}", f"add {role}={least}")
    elif counts.get("inference", 0) + counts.get("verifier", 0) and not counts.get("storage", 0):
        refuse("roles", "inference and verifier nodes fetch models from storage, there is none", "add storage=1")
    elif rows is not None or liar or is_load_needed:
        message = "--rows, --rate, --liar, --lease, --propose and --app say something about a load"
        refuse("usage", message, "add --load digits")


def _check_rate(rate: float | None) -> None:
    if rate is not None and not RATE_MIN <= rate <= RATE_MAX:
        message = f"--rate is {rate:g}; a client begins from {RATE_MIN:g} to {RATE_MAX:g} requests a second"
        raise CommandError("usage", message, "leave it out for as many as are answered", ExitCode.USAGE)


def _check_mode(mode: str) -> str:
    from protocol.jobs import Mode
    from testnet.load_plan import MIXED

    modes = [*map(str, Mode), MIXED]
    if mode not in modes:
        raise CommandError("unknown_mode", f"no mode {mode!r}", f"use one of: {', '.join(modes)}", ExitCode.USAGE)
    return mode


def _read_faults(path: Path | None, counts: Mapping[str, int]) -> FaultPlan:
    """The plan in a file, for nodes that there will be. Raises CommandError."""
    from testnet.genesis import name_nodes

    if path is None:
        return FaultPlan()
    try:
        plan = FaultPlan.from_text(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, LocalError) as error:
        hint = "docs/faults.md shows one that works"
        raise CommandError("bad_plan", f"{path} is no fault plan: {error}", hint, ExitCode.USAGE) from error
    names = name_nodes({role.rpartition(":")[2].lower(): count for role, count in counts.items()})
    for node in plan.list_nodes():
        if node not in names:
            hint = f"nodes of this network: {', '.join(names)}"
            raise CommandError("unknown_node", f"{path} names {node!r}, which will not be there", hint, ExitCode.USAGE)
    return plan


def _check_feed(feed: str | None) -> tuple[str, str] | None:
    """URL and path of a feed of the user's own."""
    if feed is None:
        return None
    url, _, path = feed.partition("#")
    if not url.startswith(("http://", "https://")) or not path:
        hint = "write it like https://example.org/ticker.json#data.price"
        raise CommandError("bad_feed", f"not a feed: {feed!r}", hint, ExitCode.USAGE)
    return url, path


def _make_directory(wanted: Path | None, seed: int) -> Path:
    """A new directory for the network; never one that holds anything. Raises CommandError."""
    if wanted is None:
        names = [f"dev-{seed}", *(f"dev-{seed}-{count}" for count in range(2, NAMES_TRIED_MAX))]
        wanted = next(HOME / name for name in names if not (HOME / name).exists())
    elif wanted.exists() and (not wanted.is_dir() or any(wanted.iterdir())):
        what = "a network runs in it" if wanted.is_dir() and is_running(wanted) else "it is not empty"
        hint = "name another --dir" + (", or remove the old network" if (wanted / FILE_NAME).exists() else "")
        raise CommandError("directory_in_use", f"{wanted} cannot be used: {what}", hint, ExitCode.CONFIG)
    try:
        wanted.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            "no_directory", f"{wanted} cannot be made: {error.strerror}", "name another --dir", ExitCode.CONFIG
        ) from error
    return wanted
