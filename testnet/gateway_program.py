"""The gateway of `testnet up`: a process beside the nodes, with a client of its own."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testnet.launch import Program

GATEWAY = "gateway"
TIMEOUT_S = 30.0  # for one request


def plan_gateway(network: Path, listen: tuple[str, int], app: str = "", name: str = GATEWAY) -> Program:
    """The process for the network of a directory, with a client whose account is claimed for it; of an app, if any.

    Raises NoAccount, ConfigError, NetworkFileError.
    """
    from testnet.join import open_client

    place = get_place(network, name)
    place.unlink(missing_ok=True)
    directory = open_client(network)
    arguments = (str(directory), listen[0], str(listen[1]), str(place), app)
    return Program(name, "testnet.gateway_program:run", arguments, network / "logs" / f"{name}.log")


def get_place(network: Path, name: str = GATEWAY) -> Path:
    """The file that says where a gateway is, once it answers."""
    return network / f"{name}.json"


def read_place(network: Path, name: str = GATEWAY) -> str:
    """The URL of a network's gateway; empty before it answers."""
    try:
        fields: Mapping[str, Any] = json.loads(get_place(network, name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    return str(fields["url"])


def read_directory(network: Path) -> Path | None:
    """The data directory of a network's gateway; None where none has ever answered."""
    try:
        fields: Mapping[str, Any] = json.loads(get_place(network).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Path(fields["directory"])


def run(arguments: Sequence[str]) -> int:
    """`DIRECTORY HOST PORT FILE APP`: serve until SIGTERM, say in the file where, once it answers. The exit code."""
    import trio

    from roles.client import Client
    from roles.config import EXIT_OK, UserError
    from roles.gateway.run import Plan, run_until_signal
    from roles.interpreter import set_up_interpreter
    from roles.node import set_up_logging

    directory, host, port, file, app = arguments

    def announce(url: str, client: Client) -> None:
        whole = Path(file).with_suffix(".tmp")
        whole.write_text(json.dumps({"url": url, "pid": os.getpid(), "directory": directory}), encoding="utf-8")
        whole.replace(file)

    set_up_logging()
    set_up_interpreter()
    try:
        trio.run(run_until_signal, Plan(Path(directory), (host, int(port)), TIMEOUT_S, app=app), announce)
    except UserError as error:
        print(json.dumps({"error": error.message, "hint": error.hint}), file=sys.stderr, flush=True)
        return error.exit_code
    return EXIT_OK
