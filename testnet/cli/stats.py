"""`rolemesh ledger stats`: what a network is used for, who comes back, and what they say of the service they get."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from testnet.cli.arguments import Json, open_network
from testnet.cli.output import CommandError, ExitCode, Output
from testnet.cli.stats_text import format_stats
from testnet.cli.upkeep import recompute_shown

EPILOGUE = (
    "Examples:\n\n  rolemesh ledger stats\n\n  rolemesh ledger stats --dir .rolemesh/dev-42 --json\n\n"
    "  rolemesh ledger stats --dir ./node --statements ./client-a --statements ./client-b"
)


def stats(
    *,
    directory: Annotated[Path | None, Parameter(name="--dir")] = None,
    statements: Annotated[list[Path] | None, Parameter(negative="")] = None,
    json: Json = False,
) -> None:
    """Show what the activity says, in two parts: from the ledger, and from signed statements.

    The ledger is recomputed from genesis, and its sums are held against its state: exits 6 if they differ. What clients
    have signed about latency and refusals is their word: their signatures are checked, and who said it is told.

    Parameters
    ----------
    directory
        Directory of a network or node; the newest network under ./.rolemesh unless given.
    statements
        Data directory of a client whose statements are to count as well. May be given often.
    """
    from testnet.activity import Activity
    from testnet.statements import read_statements
    from testnet.stats import describe_all

    output = Output(json)
    names: dict[str, str] = {}
    if directory is None or (directory / "testnet.json").exists():
        path, network = open_network(directory)
        directory, names = path.parent, {node.account: node.name for node in network.nodes}
    activity = Activity()
    state = recompute_shown(directory, activity.take).state
    told = describe_all(activity, state, read_statements([directory, *(statements or [])], state.chain))
    for line in format_stats(told, names):
        output.say(line)
    findings = told["from_the_ledger"]["findings"]
    if findings:
        hint = "a rule pays and does not say so: report it with this ledger"
        raise CommandError("invariant_violated", findings[0], hint, ExitCode.INVARIANT_VIOLATED, findings=findings)
    output.give(told)
