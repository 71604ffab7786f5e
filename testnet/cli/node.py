"""`rolemesh node`: one node of a network, in a data directory of its own."""

import json as jsonlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from testnet.cli.arguments import ROLES, Json, Network, open_network, parse_roles
from testnet.cli.output import CommandError, ExitCode, Output
from testnet.cli.passphrases import PassphraseFile, open_with_passphrase
from testnet.network_file import NetworkFile, NetworkFileError, claim_account, release_account

if TYPE_CHECKING:
    from roles.config import NodeConfig

DATA = Path(".rolemesh/node")

Direct = Annotated[
    list[str] | None,
    Parameter(
        name="--direct",
        negative="",
        help="Peer whose operator has agreed to exchange all gossip: /ip4/HOST/tcp/PORT/p2p/NODE. May be given often.",
    ),
]

app = App(
    name="node",
    help="One node: make a data directory, run it, look at it.",
    help_epilogue="Examples:\n\n  rolemesh node init --network testnet.json --data ./node --role inference\n\n"
    "  rolemesh node run --data ./node\n\n  rolemesh node status --data ./node",
)
Data = Annotated[Path, Parameter(name="--data", help="Data directory of the node.")]
Listen = Annotated[
    str,
    Parameter(name="--listen", help="Multiaddr to listen on; a free loopback address unless given."),
]


@app.command(
    help_epilogue="Examples:\n\n  rolemesh node init --network .rolemesh/dev-42/testnet.json --role inference\n\n"
    "  rolemesh node init --network testnet.json --data ./worker --role verifier --listen /ip4/127.0.0.9/tcp/4009\n\n"
    "  rolemesh node init --network testnet.json"
    " --direct /ip4/192.0.2.7/tcp/4001/p2p/12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA"
)
def init(
    *,
    network: Network = None,
    data: Data = DATA,
    role: str = "inference",
    listen: Listen = "",
    direct: Direct = None,
    json: Json = False,
) -> None:
    """Make the data directory of a new node: keys of its own, the network's genesis, a spare funded account.

    Parameters
    ----------
    role
        What the node will do, unless `node run --role` says otherwise.
    """
    from roles.store.store import STORE_NAME
    from testnet.join import change_node

    output = Output(json)
    _check_role(role)
    _check_listen(listen)
    _check_direct(direct or [])
    path, found = open_network(network)
    if data.exists() and any(path.name != STORE_NAME for path in data.iterdir()):
        raise CommandError(
            "directory_in_use",
            f"{data} is not empty",
            "name another directory with --data, or run the node that is there with `rolemesh node run`",
            ExitCode.CONFIG,
        )
    made = _claim_and_make(path, found, data, role, listen)
    if direct:
        change_node(data, direct=tuple(direct))
    output.say(f"node {made['node']} is ready in {data}")
    output.say(f"account {made['account']} (a public development key, funded in genesis)")
    output.say(f"start it with `rolemesh node run --data {data} --role {role}`")
    output.give(made)


@app.command(
    help_epilogue="Examples:\n\n  rolemesh node run --role inference\n\n"
    "  rolemesh node run --data .rolemesh/dev-42/nodes/inference-0\n\n"
    "  rolemesh node run --listen /ip4/0.0.0.0/tcp/4001 --announce /ip4/192.0.2.7/tcp/4001 --http 127.0.0.1:9464\n\n"
    "  rolemesh node run --backend digits@1=http://127.0.0.1:8080/digits\n\n"
    "  rolemesh node run --role storage --bucket https://s3.example.org/my-bucket/node-1"
)
def run(
    *,
    data: Data = DATA,
    role: str = "",
    listen: Listen = "",
    announce: Annotated[list[str] | None, Parameter(negative="")] = None,
    http: str = "",
    direct: Direct = None,
    passphrase_file: PassphraseFile = None,
    keep_blocks: int | None = None,
    backend: Annotated[list[str] | None, Parameter(negative="")] = None,
    bucket: str = "",
    engine_workers: int | None = None,
    json: Json = False,
) -> int:
    """Run a node until Ctrl-C or SIGTERM. It bonds and registers its role on the ledger if that is not done yet.

    Parameters
    ----------
    role
        Change what the node does from now on.
    announce
        Multiaddr that others should dial, if not the one it listens on: behind a router, or on every address of the
        machine. May be given up to four times. Kept for the next start, as --http is.
    http
        Loopback address and port for /livez, /readyz and /metrics; port 0 for any, which `node status` then shows.
    keep_blocks
        How many of the newest blocks to keep, at least 1000; 0 for all. Kept for the next start. What is pruned can
        neither be given to others nor recomputed.
    backend
        MODEL=URL: have a model run by a server that speaks Open Inference Protocol v2, not by this node's own worker
        processes. MODEL is name@version or a CID, URL is http(s)://HOST:PORT/NAME by the server's name for it;
        MODEL=local takes it back. May be given for several models. Kept for the next start; `node status` shows how
        each server is. The node answers for what the server says with its own stake.
    bucket
        https://HOST/BUCKET/PREFIX: where the blocks of the node's store are from now on, in an S3-compatible bucket; or
        `none`, for files again. Blocks are not moved. Credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    engine_workers
        How many models run at once, 1 to 64, each in a process of its own. Kept for the next start. `node init` chooses
        as many as the machine has processors, less one.
    """
    from roles.status import read_status
    from testnet.join import change_node

    _check_direct(direct or [])
    if role:
        _check_role(role)
    _check_listen(listen)
    _check_reachable_at(announce or [], http)
    _check_backends(backend or [])
    _check_bucket(bucket)
    output = Output(json)
    config = change_node(
        data,
        role=role,
        listen=listen,
        announce=tuple(announce or ()),
        http=http,
        direct=tuple(direct or ()),
        keep_blocks=keep_blocks,
        backends=tuple(backend or ()),
        bucket=bucket,
        engine_workers=engine_workers,
    )
    output.note(f"node {config.name} ({', '.join(config.roles)}) in {data}; Ctrl-C ends it")
    passphrase = open_with_passphrase(data, output, passphrase_file)
    _check_startable(data, config, passphrase)
    code = _run(data, passphrase)
    if code:
        raise CommandError(
            "node_failed",
            f"node {config.name} ended with {code}: {read_status(data).fields.get('error') or 'see its log above'}",
            "the lines on standard error say what led to it",
            ExitCode(code) if code in set(ExitCode) else ExitCode.FAILURE,
        )
    output.give({"directory": str(data), "name": config.name, "roles": config.roles, "state": "stopped"})
    return code


@app.command(
    help_epilogue="Examples:\n\n  rolemesh node status\n\n"
    "  rolemesh node status --data .rolemesh/dev-42/nodes/inference-0 --json"
)
def status(*, data: Data = DATA, json: Json = False) -> None:
    """Show what a node last said about itself. Exits 4 when it does not run."""
    from roles.status import Liveness, read_status

    output = Output(json)
    if not (data / "node.json").is_file():
        raise CommandError(
            "no_node", f"no node in {data}", "make one with `rolemesh node init --network FILE`", ExitCode.CONFIG
        )
    found = read_status(data)
    for name, value in found.fields.items():
        output.say(f"{name:>14}  {_show(name, value)}")
    if found.liveness is not Liveness.RUNNING:
        raise CommandError(
            "not_running",
            f"the node in {data} does not run ({found.liveness})",
            f"start it with `rolemesh node run --data {data}`",
            ExitCode.UNREACHABLE,
            liveness=str(found.liveness),
        )
    output.give({"directory": str(data), "liveness": str(found.liveness), **found.fields})


def _show(name: str, value: Any) -> str:
    """A field of the status for people.

    >>> _show("sandbox", {"in_force": ["seccomp", "rlimits"], "missing": {"landlock": "the kernel has none"}})
    'seccomp, rlimits; missing: landlock (the kernel has none)'
    """
    if name != "sandbox":
        return str(value) if isinstance(value, str | int) else jsonlib.dumps(value)
    if not value:
        return "no process that runs models has been started"
    missing = [f"{measure} ({reason})" for measure, reason in value["missing"].items()]
    return ", ".join(value["in_force"]) + (f"; missing: {', '.join(missing)}" if missing else "")


def _check_startable(data: Path, config: "NodeConfig", passphrase: str | None) -> None:
    """Refuse what cannot start, with its own reason. Raises CommandError, or UserError for files that do not fit."""
    from roles.equipment import parse_listen, read_plan
    from roles.lock import is_locked
    from testnet.found import is_free

    if is_locked(data):
        hint = "stop that node first, or give this one a data directory of its own"
        raise CommandError("directory_in_use", f"a node runs on {data} already", hint, ExitCode.CONFIG)
    read_plan(data, passphrase)
    host, port = parse_listen(config.listen)
    if port and not is_free(host, port):
        hint = "end whatever listens there, or choose another address with --listen"
        raise CommandError("port_in_use", f"{config.listen} cannot be listened on", hint, ExitCode.CONFIG)


def _run(data: Path, passphrase: str | None) -> int:
    """The node's process; a client that was given a load goes on with it."""
    from roles.node import run as run_process
    from testnet.load import main as run_load
    from testnet.load_plan import PLAN_NAME

    return run_load([str(data)]) if (data / PLAN_NAME).is_file() else run_process(data, passphrase=passphrase)


def _claim_and_make(path: Path, network: NetworkFile, data: Path, role: str, listen: str) -> dict[str, Any]:
    from testnet.found import NoAddress
    from testnet.join import make_node

    try:
        spare = claim_account(path, network, str(data))
        try:
            return make_node(data, network, spare, role, listen)
        except BaseException:
            release_account(path, spare)
            raise
    except NetworkFileError as error:
        hint = "start a network with more of them: `rolemesh testnet up --accounts 32`"
        raise CommandError("no_account", str(error), hint, ExitCode.CONFIG) from error
    except NoAddress as error:
        raise CommandError("port_in_use", str(error), "name one with --listen", ExitCode.CONFIG) from error


def _check_role(role: str) -> None:
    if role not in ROLES:
        parse_roles(f"{role}=1")


def _check_reachable_at(announce: list[str], http: str) -> None:
    from roles.config import ANNOUNCE_MAX, is_dialable, parse_http

    bad = next((text for text in announce if not is_dialable(text)), None)
    if bad is not None or len(announce) > ANNOUNCE_MAX:
        message = (
            f"not an address others could dial: {bad!r}" if bad is not None else f"more than {ANNOUNCE_MAX} addresses"
        )
        raise CommandError("bad_address", message, "write it like /ip4/192.0.2.7/tcp/4001", ExitCode.USAGE)
    if http:
        try:
            parse_http(http)
        except ValueError as error:
            raise CommandError("bad_address", str(error), "write it like 127.0.0.1:9464", ExitCode.USAGE) from error


def _check_backends(texts: list[str]) -> None:
    from roles.engine.remote.settings import HINT, parse_backend

    try:
        for text in texts:
            parse_backend(text)
    except ValueError as error:
        raise CommandError("bad_backend", str(error), HINT, ExitCode.USAGE) from error


def _check_bucket(text: str) -> None:
    from roles.store.bucket import parse_bucket
    from testnet.join import NO_BUCKET

    if text in ("", NO_BUCKET):
        return
    try:
        parse_bucket(text)
    except ValueError as error:
        hint = "write it like https://s3.example.org/my-bucket/node-1"
        raise CommandError("bad_bucket", str(error), hint, ExitCode.USAGE) from error


def _check_direct(direct: list[str]) -> None:
    from roles.config import DIRECT_MAX, parse_peer

    try:
        if len(direct) > DIRECT_MAX:
            raise ValueError(f"{len(direct)} direct peers, at most {DIRECT_MAX}")
        for text in direct:
            parse_peer(text)
    except ValueError as error:
        hint = "write it like /ip4/192.0.2.7/tcp/4001/p2p/12D3Koo…; `rolemesh node status` there shows both"
        raise CommandError("bad_address", str(error), hint, ExitCode.USAGE) from error


def _check_listen(listen: str) -> None:
    if listen and not re.fullmatch(r"/ip4/[\d.]{7,15}/tcp/\d{1,5}", listen):
        raise CommandError(
            "bad_address", f"not a listen address: {listen!r}", "write it like /ip4/127.0.0.9/tcp/4001", ExitCode.USAGE
        )
