"""The `rolemesh` command.

Every command has examples in its `--help`, prints one JSON object with `--json` and exits with a code of
`testnet.cli.output.ExitCode`. Nothing heavy (libp2p, onnxruntime, numpy) is imported before a command needs it.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from testnet.cli.output import CommandError, ExitCode, print_error


def build_app() -> App:
    """The tree of commands. Each group lives in a module of its own and is cheap to import."""
    from testnet.cli import (
        apps,
        bench,
        explain,
        gateway,
        gov,
        infer,
        keys,
        ledger,
        model,
        network,
        node,
        oracle,
        peers,
        proof,
        receipt,
        sim,
        store,
        verify,
        workflow,
    )

    app = App(
        name="rolemesh",
        help="A peer-to-peer gossip network in which AI work is divided by role, checked, paid for and recorded.",
        version=get_version,
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        help_epilogue="Examples:\n\n  rolemesh testnet up\n\n  rolemesh testnet up --load digits --duration 60s\n\n"
        "  rolemesh infer digits --input digit.png\n\n"
        "Exit codes: 0 ok, 1 failure, 2 usage, 3 configuration, 4 node unreachable, 5 verification failed, "
        "6 invariant violated, 7 timeout, 130 interrupted.",
    )
    groups = (network, node, gateway, peers, keys, ledger, model, store, oracle, workflow, gov, apps, proof, bench)
    for group in groups:
        app.command(group.app)
    for module in (infer, verify, explain, receipt, sim):
        module.add_to(app)
    app.command(version, help_epilogue="Examples:\n\n  rolemesh version --json")
    return app


def get_version() -> str:
    """The installed version."""
    from importlib.metadata import version as read_version

    return read_version("rolemesh")


def version(*, json: bool = False) -> None:
    """Print the version.

    Parameters
    ----------
    json
        One JSON object instead of text.
    """
    from testnet.cli.output import Output

    output = Output(json)
    output.say(get_version())
    output.give({"version": get_version()})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Every way to fail ends here, and none of them is 0."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    is_json = "--json" in tokens
    try:
        result = build_app()(tokens, exit_on_error=False, print_error=False)
    except BrokenPipeError:
        # Whoever read our output has left; there is nobody to tell. Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.FAILURE)
    except (Exception, KeyboardInterrupt) as error:
        failure = explain_error(error)
        print_error(failure, is_json)
        return int(failure.exit_code)
    return int(result) if isinstance(result, int) else int(ExitCode.OK)


def explain_error(error: BaseException) -> CommandError:
    """What went wrong, for whoever ran the command. A surprise is a bug, and is shown with all its lines."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return CommandError("interrupted", "interrupted", "", ExitCode.INTERRUPTED)
    if isinstance(error, CycloptsError):
        group = " ".join(["rolemesh", *(error.command_chain or ())])
        return CommandError("usage", str(error), f"`{group} --help` shows what is possible", ExitCode.USAGE)
    from roles.config import UserError

    if isinstance(error, UserError):
        exit_code = ExitCode(error.exit_code)
        return CommandError(exit_code.name.lower(), error.message, error.hint, exit_code)
    traceback.print_exception(error)
    hint = "this is a bug in rolemesh: please report the lines above"
    return CommandError("internal", f"{type(error).__name__}: {error}", hint)
