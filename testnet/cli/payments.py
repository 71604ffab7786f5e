"""`rolemesh gov payments`: what left the treasury, and by which votes; and what came into it."""

from collections import deque
from typing import Annotated

from cyclopts import Parameter

from testnet.cli.arguments import Json
from testnet.cli.ledger import Where
from testnet.cli.output import CommandError, ExitCode, Output, format_count, format_role, format_table, format_time
from testnet.cli.upkeep import recompute_shown

SHOWN_LETTERS = 16
LIMIT_MAX = 100_000
EPILOGUE = (
    "Examples:\n\n  rolemesh gov payments\n\n  rolemesh gov payments --limit 500 --json\n\n"
    "  rolemesh gov payments --dir ./worker"
)


def payments(
    *,
    limit: Annotated[int, Parameter(name="--limit", help="At most so many, the newest.")] = 20,
    directory: Where = None,
    json: Json = False,
) -> None:
    """List what was paid out of the treasury, each payment with the proposal that granted it and how it was voted.

    The ledger is recomputed from genesis: nothing stored is believed. Whether what came in and what was granted come to
    what the treasury has is said as well; exits 6 if not.
    """
    from testnet.payments import Payments

    output = Output(json)
    if not 1 <= limit <= LIMIT_MAX:
        hint = f"give --limit 1 to {LIMIT_MAX}"
        raise CommandError("bad_limit", f"not a limit: {limit}", hint, ExitCode.USAGE)
    found = Payments(deque(maxlen=limit))
    state = recompute_shown(directory, found.take).state
    rows = list(reversed(found.newest))
    cells = [
        (
            str(row["height"]),
            format_time(row["time_ms"]),
            format_role(row["amount_grains"]),
            row["to"],
            row["proposal"][:SHOWN_LETTERS],
            f"{100 * row['yes_grains'] / row['stake_grains']:.1f} %",
            row["title"],
        )
        for row in rows
    ]
    output.say(format_table(("HEIGHT", "TIME (UTC)", "AMOUNT", "TO", "PROPOSAL", "YES", "TITLE"), cells))
    flowing = found.granted - found.paid
    output.say(
        f"{format_count(found.count, 'payment')}, {format_role(found.paid)} in all, of {format_role(found.granted)} "
        f"granted; {format_role(flowing)} to come"
    )
    for source, amount in sorted(found.came_in.items()):
        output.say(f"{source:>12}  {format_role(amount)} came in")
    sums = found.compute_balance(state)
    output.say(f"{'treasury':>12}  {format_role(state.treasury)}, at height {state.height}")
    if sums != state.treasury:
        hint = "a rule pays and does not say so: report it with this ledger"
        raise CommandError(
            "invariant_violated",
            f"what came in less what was granted is {sums} grains, the treasury has {state.treasury}",
            hint,
            ExitCode.INVARIANT_VIOLATED,
        )
    output.give(
        {
            "height": state.height,
            "payments": rows,
            "count": found.count,
            "paid_grains": found.paid,
            "granted_grains": found.granted,
            "genesis_grains": found.genesis,
            "came_in_grains": {str(source): amount for source, amount in sorted(found.came_in.items())},
            "waiting_grains": sum(entry.treasury for entry in state.pending.values()),
            "treasury_grains": state.treasury,
        }
    )
