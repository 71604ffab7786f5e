"""Activity for people: the tables of `rolemesh ledger stats`, and of the report at a run's end."""

from collections.abc import Iterator, Mapping
from typing import Any

from testnet.cli.output import format_count, format_role, format_table

COHORTS_SHOWN = 12
ROWS_SHOWN = 12
LETTERS_SHOWN = 16
NOTHING = "-"


def format_stats(told: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    """Both parts, each under a line that says where it is from. `names` are those of accounts that are known."""
    yield from _format_activity(told["from_the_ledger"])
    yield from _format_statements(told["signed_statements"], names)


def _format_activity(told: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"from the ledger, recomputed from genesis to height {told['height']}: {told['epoch'] + 1} epochs, "
        f"{format_count(sum(told['transactions'].values()), 'transaction')}, {told['ran_ms'] / 1_000:.0f} s"
    )
    for who in ("accounts", "customers"):
        yield from _format_cohorts(who, told[who])
    receipts = told["receipts"]
    modes = ", ".join(f"{count} {mode}" for mode, count in receipts["by_mode"].items() if count)
    share = NOTHING if receipts["checked_share"] is None else f"{100 * receipts['checked_share']:.1f} %"
    yield f"{'receipts':>12}  {receipts['settled']} settled ({modes or 'none'}), {share} of their claims checked"
    yield f"{'':>12}  {receipts['void']} vouchers void, {receipts['forfeit']} receipts forfeit"
    yield from _indent(
        ("MODEL", "RECEIPTS", "FEES"),
        [(_name_model(row), str(row["receipts"]), format_role(row["fees_grains"])) for row in told["models"]],
    )
    yield from _indent(
        ("APP", "INCOME", "OWNER HAD", "PERIODS SOLD", "PASSES", "REQUESTS"),
        [
            (
                row["app"],
                format_role(row["income_grains"]),
                format_role(row["owner_grains"]),
                _show(row["periods_sold"]),
                str(row["passes"]),
                _show(row["requests"]),
            )
            for row in told["apps"]
        ],
    )
    yield from _indent(
        ("ROLE", "NODES", "BONDED", "EARNERS", "INCOME"),
        [
            (
                row["role"],
                str(row["nodes"]),
                format_role(row["bonded_grains"]),
                str(row["earners"]),
                format_role(row["income_grains"]),
            )
            for row in told["roles"]
        ],
    )
    parties = list(dict.fromkeys(party for split in told["fees"].values() for party in split))
    yield from _indent(
        ("FEES OF", *(party.upper() for party in parties)),
        [
            (source, *(format_role(split[party]) if party in split else NOTHING for party in parties))
            for source, split in told["fees"].items()
            if split
        ],
    )
    yield from _format_sums(told)


def _format_statements(told: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    counts = f"{format_count(told['statements'], 'statement')} of {format_count(len(told['by']), 'account')}"
    refused = f", {told['refused']} refused: {told['refused_why'][0]}" if told["refused"] else ""
    yield f"signed statements: {counts}{refused}"
    if not told["statements"]:
        yield f"{'':>12}  clients keep them in their data directories: name more of those with --statements"
        return
    head = ("ANSWERED", "P50", "P95", "P99", "REFUSED")
    by = [(names.get(row["account"], row["account"]), *_format_service(row), str(row["failed"])) for row in told["by"]]
    yield from _indent(("SAID BY", *head, "UNANSWERED"), by)
    about = [
        (names.get(row["account"], row["account"] or row["node"]), *_format_service(row), str(row["said_by"]))
        for row in told["about"]
    ]
    yield from _indent(("ABOUT", *head, "ACCOUNTS SAY SO"), about)
    refusals = {**told["in_all"]["refusals"], **{f"unanswered: {k}": n for k, n in told["in_all"]["failures"].items()}}
    if refusals:
        yield f"{'refusals':>12}  {', '.join(f'{count} {code}' for code, count in refusals.items())}"


def _format_cohorts(who: str, told: Mapping[str, Any]) -> Iterator[str]:
    epochs = "epoch" if told["width_epochs"] == 1 else f"{told['width_epochs']} epochs"
    yield f"{who:>12}  {told['accounts']} active, {told['returned']} of them came back in a later {epochs}"
    cohorts = {row["first_epoch"]: row["active"] for row in told["cohorts"]}
    shown = told["spans"][-COHORTS_SHOWN:]
    rows = []
    for span in shown:
        active = cohorts.get(span["first_epoch"], [])[:COHORTS_SHOWN]
        counts = (str(span[name]) for name in ("active", "new", "returning"))
        rows.append((str(span["first_epoch"]), *counts, " ".join(map(str, active)) or NOTHING))
    yield from _indent(("EPOCH", "ACTIVE", "NEW", "RETURNING", "OF THE NEW, ACTIVE THEN AND LATER"), rows)


def _format_sums(told: Mapping[str, Any]) -> Iterator[str]:
    treasury, stake, penalties, supply = (told[name] for name in ("treasury", "stake", "penalties", "supply"))
    came_in = format_role(sum(treasury["came_in_grains"].values()))
    payments = f"{format_role(treasury['paid_grains'])} paid in {format_count(treasury['payments'], 'payment')}"
    yield (
        f"{'treasury':>12}  {format_role(treasury['has_grains'])}; {came_in} came in, {payments} of "
        f"{format_role(treasury['granted_grains'])} granted, {format_role(treasury['vesting_grains'])} vest"
    )
    yield (
        f"{'stake':>12}  {format_role(stake['bonded_grains'])} bonded, {format_role(stake['delegated_grains'])} "
        f"delegated, {format_role(stake['unbonding_grains'])} on its way back"
    )
    yield (
        f"{'slashes':>12}  {format_role(penalties['stake_grains'])} of stake, "
        f"{format_role(penalties['bond_grains'])} of challengers' bonds; {penalties['proven_wrong']} claims proven "
        f"wrong, {format_count(penalties['validators_convicted'], 'validator')} convicted"
    )
    agrees = "; ".join(told["findings"]) or "all sums above are those of the ledger's state"
    now, burned = format_role(supply["now_grains"]), format_role(supply["burned_grains"])
    yield f"{'supply':>12}  {now}, {burned} of it burned: {agrees}"


def _format_service(row: Mapping[str, Any]) -> tuple[str, ...]:
    times = (NOTHING if row[name] is None else f"{row[name]} ms" for name in ("p50_ms", "p95_ms", "p99_ms"))
    return (str(row["answered"]), *times, str(row["refused"]))


def _name_model(row: Mapping[str, Any]) -> str:
    return row["name"] or row["model"][:LETTERS_SHOWN] or "(in batches)"


def _indent(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """A table under its line, cut off where it would run on; nothing without rows."""
    if not rows:
        return
    for line in format_table(head, rows[:ROWS_SHOWN]).splitlines():
        yield f"{'':>12}  {line}"
    if len(rows) > ROWS_SHOWN:
        yield f"{'':>12}  and {len(rows) - ROWS_SHOWN} more: see --json"


def _show(number: int | None) -> str:
    return NOTHING if number is None else str(number)
