"""What was found about a run: read from its `report.json`, or recomputed from genesis and blocks now."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testnet.page.fields import get_int, get_text, get_texts, read_object
from testnet.report import Bar, Report, add_ledger
from testnet.review import REPORT_NAME, CheckFailed, recompute_ledgers

BARS_MAX = 64
BAR_TEXT_MAX = 512
FINDINGS_MAX = 20
FEES = ("fees", "workers", "verifiers", "treasury", "burn")
RECEIPTS = ("acknowledged", "paid", "refunded", "unaccounted")


@dataclass(frozen=True)
class Verdict:
    """Bars with what they say; fees of inference in grains, receipts of clients by what became of them.

    `unchecked` says why there is nothing, if there is nothing; `is_recomputed` that the run left no report.
    """

    bars: tuple[Bar, ...] = ()
    fees: tuple[tuple[str, int], ...] = ()
    receipts: tuple[tuple[str, int], ...] = ()
    findings: tuple[str, ...] = ()
    unchecked: str = ""
    is_recomputed: bool = False

    @property
    def broken(self) -> list[str]:
        """Names of the bars that do not hold."""
        return [bar.name for bar in self.bars if not bar.holds]


def find_verdict(directory: Path) -> Verdict:
    """Of the run in a network's directory. Without a report that can be read, its ledger is recomputed."""
    known = parse_verdict(read_object(directory / REPORT_NAME))
    if known is not None:
        return known
    try:
        ledger = recompute_ledgers(directory)
    except CheckFailed as error:
        return Verdict(unchecked=str(error))
    report = Report()
    add_ledger(report, ledger)
    found = _describe((_judge_receipts(ledger["receipts"]), *report.bars), ledger, ledger["receipts"])
    return replace(found, is_recomputed=True)


def parse_verdict(fields: Mapping[str, Any]) -> Verdict | None:
    """What a `report.json` says; None if it is not one of a loaded run."""
    bars, said, ledger, receipts = (fields.get(name) for name in ("bars", "said", "ledger", "reconciliation"))
    if not (isinstance(bars, dict) and isinstance(ledger, dict) and isinstance(receipts, dict)):
        return None
    told = said if isinstance(said, dict) else {}
    known = [Bar(name, holds is True, get_text(told, name, BAR_TEXT_MAX)) for name, holds in bars.items()]
    return _describe(tuple(known[:BARS_MAX]), ledger, receipts)


def _judge_receipts(receipts: Mapping[str, Any]) -> Bar:
    """A run that was ended in the midst of work has receipts that are not settled yet: that breaks nothing."""
    held, paid, refunded, unsettled = (receipts[name] for name in RECEIPTS)
    text = f"{held} held by clients: {paid} paid once, {refunded} given back, {unsettled} open when the run ended"
    return Bar("receipts", not receipts["findings"], text, is_invariant=True)


def _describe(bars: tuple[Bar, ...], ledger: Mapping[str, Any], receipts: Mapping[str, Any]) -> Verdict:
    findings = [text for part in (ledger, receipts) for text in get_texts(part, "findings", BAR_TEXT_MAX)]
    return Verdict(
        bars,
        tuple((name, amount) for name in FEES if (amount := get_int(ledger, name)) is not None),
        tuple((name, count) for name in RECEIPTS if (count := get_int(receipts, name)) is not None),
        tuple(findings[:FINDINGS_MAX]),
    )
