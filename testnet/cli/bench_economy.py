"""`rolemesh bench economy`: does the network pay those who keep it, and where does it stop to?"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from testnet.cli.output import CommandError, ExitCode, Output

EPILOGUE = (
    "Examples:\n\n  rolemesh bench economy\n\n  rolemesh bench economy --seed 7 --json\n\n"
    "  rolemesh bench economy --full --markdown table.md\n\n  rolemesh bench economy --cost 3000"
)


def economy(
    *,
    cost: Annotated[
        int | None, Parameter(name="--cost", help="What running a row costs, in basis points of what it is sold for.")
    ] = None,
    seed: Annotated[int, Parameter(help="The first network's. The same seed gives the same figures.")] = 1,
    full: Annotated[
        bool, Parameter(negative="", help="Five networks of each kind, and longer ones: ten minutes or so.")
    ] = False,
    markdown: Annotated[Path | None, Parameter(help="Write the tables to this file too.")] = None,
    json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print one JSON object per line and figure.")
    ] = False,
) -> int:
    """Does the network pay those who keep it? Participants that count their costs, on the real ledger.

    Every transaction goes through the ledger's own rules at the shipped parameters, and every block is held against the
    supply. What work costs is stated, not measured: see --cost.

    Then demand surges and collapses, and half of a role goes at once, while all others stay or go by what they gain.

    Exit code 6 when a cheat brings more than honest work, honest work loses money, an honest node is convicted, or what
    is asked is not served and paid again in time.
    """
    from protocol.types import BP
    from testnet.bench.economy import report as bench
    from testnet.bench.economy.costs import ROW_BP, make_costs
    from testnet.bench.economy.measure import FULL, SHORT

    wanted = ROW_BP if cost is None else cost
    if not 0 < wanted <= BP:
        hint = f"give --cost from 1 to {BP}"
        raise CommandError("bad_cost", f"no share of a price: {wanted} basis points", hint, ExitCode.USAGE)
    output = Output(json)
    found = bench.Report(FULL if full else SHORT, seed, make_costs(wanted), output.note)
    lines = []
    for line in found.run():
        lines.append(line)
        output.say(line.text)
        if line.figure is not None:
            output.give(line.figure)
    if markdown is not None:
        markdown.write_text(bench.write_markdown(lines), encoding="utf-8")
    missed = [line.name for line in lines if line.is_missed]
    if missed:
        output.note(f"missed: {', '.join(missed)}")
    return int(ExitCode.INVARIANT_VIOLATED if missed else ExitCode.OK)
