"""What a loaded run showed: figures, and bars that hold or do not.

Each `add_…` turns one kind of material into lines, fields and bars; `testnet.review` gathers the material.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocol.ledger.governance_records import ProposalPhase
from protocol.types import BP
from testnet.events import Tally, compute_percentile

ACCURACY_MIN_BP = 9_500
EXAMPLES_MAX = 3
VALUES_SHOWN = 6
PROPOSED = "half the deposit for models and feeds"  # title of what a run with --propose has voted on
LEFT_OUT = ("activity", "evidence", "paid_claims", "receipts")  # of the report's fields: long, or said elsewhere
COUNTERS_SHOWN = ("published", "delivered", "duplicates", "rejected", "dropped", "bytes_sent")


@dataclass(frozen=True)
class Bar:
    """Something that must hold. `is_invariant` bars are about money and evidence; the others about doing the work."""

    name: str
    holds: bool
    text: str
    is_invariant: bool = False


@dataclass
class Report:
    """Lines for people, fields for programs, bars for the exit code."""

    lines: list[str] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    exit_code: int = 0

    def add(self, title: str, text: str) -> None:
        self.lines.append(f"{title:>12}  {text}")

    def hold(self, name: str, holds: bool, text: str, is_invariant: bool = False) -> None:
        """Add a bar, and its line."""
        self.bars.append(Bar(name, holds, text, is_invariant))
        self.add(name, f"{'✓' if holds else '✗'} {text}")


@dataclass(frozen=True)
class Wanted:
    """What the load asked for."""

    rows: int
    liars: int
    ran_s: float
    ended_by: str
    mode: str = "individual"


def add_requests(report: Report, tally: Tally, wanted: Wanted, receipts: tuple[int, int]) -> None:
    """How many requests were answered, released, settled; how fast.

    `receipts` counts the results released and those settled, as verified receipts show it: events of a process that
    was killed may be lost, receipts and the ledger are not.
    """
    attested, settled = receipts
    released = "attested by two verifiers" if wanted.mode == "individual" else f"released in mode {wanted.mode}"
    text = (
        f"{wanted.rows} wanted, {len(tally.first_sent_ms)} sent, {len(tally.answered)} answered, "
        f"{attested} {released}, {settled} settled on the ledger, in {wanted.ran_s:.1f} s from ready"
    )
    # A client that was killed asks once more for what it cannot remember: there may be more answers than rows.
    report.hold("requests", attested == settled >= wanted.rows, text)
    extra = tally.attempts - len(tally.first_sent_ms)
    report.add("", f"{extra} fallbacks to other workers, {tally.retried} retries by gossip, {tally.direct} direct")
    if tally.failed:
        codes = ", ".join(sorted(set(tally.failed.values())))
        report.add("", f"{len(tally.failed)} failed: {codes}")
    latencies = tally.latencies_ms()
    p50, p95 = compute_percentile(latencies, 50), compute_percentile(latencies, 95)
    report.add("latency", f"request to released result: p50 {p50} ms, p95 {p95} ms")
    report.fields["requests"] = {
        "wanted": wanted.rows,
        "mode": wanted.mode,
        "sent": len(tally.first_sent_ms),
        "answered": len(tally.answered),
        "attested": attested,
        "settled": settled,
        "failed": len(tally.failed),
        "attempts": tally.attempts,
        "retried": tally.retried,
        "direct": tally.direct,
        "latency_p50_ms": p50,
        "latency_p95_ms": p95,
        "ran_s": round(wanted.ran_s, 3),
        "ended_by": wanted.ended_by,
    }


def add_receipts(report: Report, verified: Mapping[str, Any]) -> None:
    """What `rolemesh verify`, as a process of its own, said of the client's receipts."""
    error = verified.get("error")
    details = error["details"] if error else verified
    good, refused = int(details.get("verified", 0)), dict(details.get("refused", {}))
    text = f"{good} of {good + len(refused)} receipts verified offline by a separate process"
    report.hold("receipts", bool(good) and not error, text, is_invariant=True)
    if error:
        report.add("", f"{error['code']}: {error['message']}")
    levels = dict(details.get("levels", {}))
    if levels:
        report.add("", ", ".join(f"{level} {count}" for level, count in levels.items()))
    report.fields["receipts"] = {"verified": good, "refused": refused, "levels": levels}


def add_reconciliation(report: Report, found: Mapping[str, Any]) -> None:
    """What became of every receipt a client holds: paid once, given back, or not accounted for."""
    ends = ", ".join(f"{count} {end}" for end, count in found["ends"].items() if end != "paid")
    text = (
        f"{found['acknowledged']} receipts held by clients: {found['paid']} paid once, {found['refunded']} given back, "
        f"unaccounted: {found['unaccounted']}" + (f" ({ends})" if ends else "")
    )
    report.hold("nothing lost", not found["unaccounted"] and not found["findings"], text, is_invariant=True)
    for finding in [*found["findings"], *found["open"]][:EXAMPLES_MAX]:
        report.add("", finding)
    report.fields["reconciliation"] = dict(found)


def add_activity(report: Report, activity: Mapping[str, Any]) -> None:
    """What the run was used for, for programs; its sums must be the ledger's."""
    findings = activity["from_the_ledger"]["findings"]
    text = "; ".join(findings) or "activity summed over all blocks comes to what the ledger's state has"
    report.hold("activity", not findings, text, is_invariant=True)
    report.fields["activity"] = dict(activity)


def add_accuracy(report: Report, right: int, labelled: int) -> None:
    """How many of the attested answers are the right ones."""
    share = right / labelled if labelled else 0.0
    text = f"{right} of {labelled} attested answers are right: {share:.4f} (bar: 0.95)"
    report.hold("accuracy", right * BP >= ACCURACY_MIN_BP * labelled > 0, text)
    report.fields["accuracy"] = {"right": right, "labelled": labelled, "share": round(share, 6)}


def add_ledger(report: Report, ledger: Mapping[str, Any]) -> None:
    """Supply, fees and oracle values, as recomputed from genesis and blocks."""
    text = (
        f"{ledger['blocks']} blocks and {ledger['transactions_checked']} transactions of {len(ledger['heights'])} nodes"
    )
    report.hold("ledger", ledger["holds"], f"{text} recomputed from genesis by a separate process", is_invariant=True)
    for finding in ledger["findings"][:EXAMPLES_MAX]:
        report.add("", finding)
    supply, founded = ledger["supply"], ledger["supply_genesis"]
    equal = "the same to the grain" if supply == founded else f"{supply - founded:+} grains"
    report.hold("supply", supply == founded, f"{supply} grains now, {founded} in genesis: {equal}", is_invariant=True)
    parts = {name: ledger[name] for name in ("workers", "verifiers", "treasury", "burn")}
    split = ", ".join(f"{name} {amount}" for name, amount in parts.items())
    is_whole = sum(parts.values()) == ledger["fees"]
    report.hold("fees", is_whole, f"{ledger['fees']} grains for inference, split: {split}", is_invariant=True)
    leaves = ", ".join(f"{count} {reason}" for reason, count in sorted(ledger["leaves"].items()))
    report.add("leaves", leaves or "none")
    report.fields["ledger"] = {key: value for key, value in ledger.items() if key not in LEFT_OUT}


def add_oracle(report: Report, ledger: Mapping[str, Any]) -> None:
    """The values each feed has had on the ledger: they must change."""
    for feed, values in ledger["feeds"].items():
        shown = ", ".join(str(value) for value in values[:VALUES_SHOWN]) + (", …" if len(values) > VALUES_SHOWN else "")
        report.hold("oracle", len(set(values)) > 1, f"{feed}: {len(values)} reports on the ledger, {shown}")
    if not ledger["feeds"]:
        report.hold("oracle", False, "no report reached the ledger")


def add_workflows(report: Report, ledger: Mapping[str, Any]) -> None:
    """Ticks of scheduled work: of each workflow some must have come to a result."""
    for name, counts in ledger["workflows"].items():
        told = f"{counts['fired']} ticks fired, {counts['done']} done, {counts['missed']} missed"
        report.hold("workflow", counts["done"] > 0, f"{name}: {told}")


def add_leases(report: Report, ledger: Mapping[str, Any]) -> None:
    """What storage nodes kept for money, and that they showed it."""
    leases = ledger["leases"].values()
    held = ", ".join(f"{each['size_bytes']} bytes by {each['holding']} of {each['copies']}" for each in leases)
    text = f"kept by storage nodes: {held}; {ledger['audits']} audits answered with pieces of it"
    whole = all(each["holding"] >= each["copies"] for each in leases)
    is_paid = ledger["audits"] > 0 and ledger["audits_paid"] > 0
    report.hold("leases", whole and is_paid, f"{text}, {ledger['audits_paid']} grains paid for them")


def add_proposals(report: Report, ledger: Mapping[str, Any]) -> None:
    """What was proposed and how it ended; what the run itself has proposed must be in force."""
    for each in ledger["proposals"].values():
        changes = ", ".join(f"{name} is {value}" for name, value in each["changes"].items())
        share = f"{100 * each['yes'] / each['stake']:.1f} % of all stake for it"
        text = f"{each['title']}: {share}; {each['state']} since height {each['height']}"
        if each["title"] == PROPOSED:
            report.hold("proposal", each["state"] == ProposalPhase.IN_FORCE, f"{text}: {changes}")
        else:
            report.add("proposal", text)


def add_apps(report: Report, ledger: Mapping[str, Any], asked: Sequence[int]) -> None:
    """What was sold, and used under the pass: all that it allows and no more is answered, and stands on the ledger.

    `asked` are the statuses of its gateway's answers in order.
    """
    answered, refused = asked.count(200), asked.count(429)
    for name, each in ledger["apps"].items():
        sold = f"{each['sold']} period sold for {each['income']} grains, {each['earned']} of all earned by its owner"
        used = f"{answered} requests under the pass answered, {refused} refused as it was used up"
        is_kept = refused == 1 and tuple(asked) == (200,) * answered + (429,) and answered == each["requests"] > 0
        report.hold("app", is_kept and each["sold"] > 0, f"{name}: {sold}; {used}; {each['requests']} on the ledger")
    if not ledger["apps"]:
        report.hold("app", False, "no app reached the ledger")


def add_blobs(report: Report, tally: Tally, names: Mapping[str, str]) -> None:
    """Who fetched what from whom. `names` maps node keys in hex to names."""
    by_node: dict[str, list[Mapping[str, Any]]] = {}
    for blob in tally.blobs:
        by_node.setdefault(str(blob["node"]), []).append(blob)
    size = sum(int(blob["bytes"]) for blob in tally.blobs)
    blocks = sum(int(blob["blocks"]) for blob in tally.blobs)
    sources = sorted({names.get(str(blob["from"]), str(blob["from"])[:8]) for blob in tally.blobs})
    text = f"{size} bytes in {blocks} blocks fetched by CID from {', '.join(sources) or 'nobody'}"
    report.hold("blobs", blocks > 0, f"{text}; at the start only storage nodes held the models")
    by = ", ".join(f"{node} {sum(int(blob['bytes']) for blob in blobs)} B" for node, blobs in sorted(by_node.items()))
    report.add("", f"by {by}")
    report.fields["blobs"] = [
        {"node": blob["node"], "cid": blob.get("cid"), "bytes": blob["bytes"], "blocks": blob["blocks"]}
        for blob in tally.blobs
    ]


def add_topics(report: Report, statuses: Mapping[str, Mapping[str, Any]]) -> None:
    """Messages per topic, summed over nodes, from their last status."""
    totals: dict[str, dict[str, int]] = {}
    for status in statuses.values():
        for topic, counters in dict(status.get("topics", {})).items():
            if not isinstance(counters, Mapping):
                continue
            short = "/".join(str(topic).split("/")[3:-1]) or str(topic)
            mine = totals.setdefault(short, {})
            for name, count in counters.items():
                mine[name] = mine.get(name, 0) + int(count)
    for topic, counters in sorted(totals.items()):
        report.add("topic", f"{topic:<12} " + ", ".join(f"{counters.get(name, 0)} {name}" for name in COUNTERS_SHOWN))
    report.fields["topics"] = totals


def add_liars(report: Report, tally: Tally, wanted: Wanted, ledger: Mapping[str, Any], liars: Sequence[str]) -> None:
    """Lies told, caught, paid, slashed. `ledger` is what was recomputed from the blocks."""
    told = set(tally.lies)
    caught = {item["claim_id"] for item in ledger["proven_wrong"]}
    paid = told & set(ledger["paid_claims"])
    slashed = {item["account"] for item in ledger["proven_wrong"] if item["slashed"]}
    honest = slashed - set(liars)
    text = f"{len(told)} lies told, {len(told & caught)} proven in disputes on the ledger, {len(paid)} paid"
    report.hold("lies", told <= caught and not paid and (bool(told) or not wanted.liars), text, is_invariant=True)
    cut = sum(int(item["slashed"]) for item in ledger["proven_wrong"])
    report.hold(
        "slashed",
        not honest and (slashed == set(liars) or not told),
        f"{len(slashed & set(liars))} of {len(liars)} liars lost {cut} grains; {len(honest)} honest nodes slashed",
        is_invariant=True,
    )
    for item in list(ledger["proven_wrong"])[:EXAMPLES_MAX]:
        report.add("evidence", f"claim {item['claim_id'][:16]}… block {item['height']}: {item['account']}")
    report.fields["lies"] = {
        "told": sorted(told),
        "proven": sorted(caught),
        "paid": sorted(paid),
        "slashed_grains": cut,
        "honest_slashed": sorted(honest),
    }
