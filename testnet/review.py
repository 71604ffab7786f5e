"""Review a loaded run: gather what happened, have it checked by processes of their own, and say what holds.

Nothing is believed where it can be checked: the ledgers are recomputed from genesis and blocks, the client's receipts
verified one by one, their answers compared with the labels.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.jobs import Mode
from roles.chain import DATABASE_NAME, RECEIPT_BUCKET, read_kept
from roles.files import write_atomically
from testnet.events import Tally
from testnet.fault_report import add_faults
from testnet.found import is_liar
from testnet.launch import read_status
from testnet.network_file import NetworkFile
from testnet.report import (
    Report,
    Wanted,
    add_accuracy,
    add_activity,
    add_apps,
    add_blobs,
    add_leases,
    add_ledger,
    add_liars,
    add_oracle,
    add_proposals,
    add_receipts,
    add_reconciliation,
    add_requests,
    add_topics,
    add_workflows,
)

if TYPE_CHECKING:
    import numpy as np

    from protocol.ledger.model_records import ModelRecord

CHECK_TIMEOUT_S = 300.0
REPORT_NAME = "report.json"
EVIDENCE_NAME = "evidence"
NOT_SHOWN = (
    "this run does not show: validators and verifiers of different owners, other machines or networks, nor security "
    "against whoever holds these public keys"
)


@dataclass(frozen=True)
class Material:
    """What there is to review. `labels` are the right answers of `inputs`, where known."""

    directory: Path
    network: NetworkFile
    model: "ModelRecord"
    inputs: "np.ndarray[Any, Any]"
    labels: list[str] | None
    liars: int
    mode: str
    tally: Tally
    ran_s: float
    ended_by: str
    exits: Mapping[str, int]
    asked: tuple[int, ...] | None = None  # how an app's gateway answered under a pass; None where there is no app


class CheckFailed(Exception):
    """A checking process did not give an answer. The message says what it gave instead."""


def review_run(material: Material) -> Report:
    """Check everything and put the report together; it is also written to `report.json`. Raises CheckFailed."""
    report = Report()
    wanted = Wanted(len(material.inputs), material.liars, material.ran_s, material.ended_by, material.mode)
    clients = [node for node in material.network.nodes if node.role == "client"]
    homes = [material.directory / client.directory for client in clients]
    receipts = {home: read_kept(home / DATABASE_NAME, RECEIPT_BUCKET) for home in homes}
    ledger = recompute_ledgers(material.directory)
    write_evidence(material.directory, ledger["evidence"])
    report.lines.append("")
    verified = verify_files([home for home in homes if receipts[home]], material.directory)
    add_requests(report, material.tally, wanted, count_receipts(material.mode, verified, ledger["receipts"]))
    if material.labels is not None:
        add_accuracy(report, *count_right([data for kept in receipts.values() for data in kept.values()], material))
    add_receipts(report, verified)
    add_reconciliation(report, ledger["receipts"])
    add_ledger(report, ledger)
    if any(node.role == "oracle" for node in material.network.nodes):
        add_oracle(report, ledger)
    add_workflows(report, ledger)
    if ledger["leases"]:
        add_leases(report, ledger)
    add_proposals(report, ledger)
    if material.asked is not None:
        add_apps(report, ledger, material.asked)
    names = {node.node: node.name for node in material.network.nodes}
    add_blobs(report, material.tally, {_to_hex(node): name for node, name in names.items()})
    if material.liars or ledger["proven_wrong"]:
        liars = [node.account for node in material.network.nodes if is_liar(node.name, material.liars)]
        add_liars(report, material.tally, wanted, ledger, liars)
        _add_evidence(report, material.directory, ledger["evidence"])
    add_faults(report, material.tally)
    add_topics(report, {node.name: read_status(material.directory, node) for node in material.network.nodes})
    for name, code in material.exits.items():
        report.add("gone", f"{name} ended with {code} during the run")
    add_activity(report, ledger["activity"])
    report.lines.append(NOT_SHOWN)
    _conclude(report, material)
    return report


def recompute_ledgers(directory: Path) -> dict[str, Any]:
    """What `python -m testnet.facts` says of a directory. Raises CheckFailed."""
    done = _run([sys.executable, "-m", "testnet.facts", str(directory)])
    if done.returncode != 0:
        raise CheckFailed(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it said nothing")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def verify_files(targets: Sequence[Path], ledger: Path) -> dict[str, Any]:
    """What `rolemesh verify --json`, as a process of its own, says of clients' receipts or of evidence. CheckFailed."""
    named = [str(target) for target in targets]
    done = _run([sys.executable, "-m", "testnet.cli", "verify", *named, "--ledger", str(ledger), "--json"])
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise CheckFailed(f"rolemesh verify ended with {done.returncode}: {done.stderr[-500:]}") from error
    return said


def count_receipts(mode: str, verified: Mapping[str, Any], reconciled: Mapping[str, Any]) -> tuple[int, int]:
    """How many results were released, and how many of them settled; nothing if any receipt was refused.

    In mode `individual` each receipt shows both by itself. Of a batch only all receipts together show its leaves.
    """
    levels = dict(verified.get("levels", {}))
    if mode == Mode.INDIVIDUAL or not levels:
        return levels.get("attested", 0), levels.get("settled", 0)
    return int(reconciled["acknowledged"]), int(reconciled["paid"])


def count_right(receipts: Sequence[bytes], material: Material) -> tuple[int, int]:
    """How many receipts hold the right label, and how many could be compared: (right, labelled)."""
    from protocol.proofs.receipt_file import decode_receipt_file
    from testnet.labels import compute_labels

    assert material.labels is not None
    wanted = {row.tobytes(): label for row, label in zip(material.inputs, material.labels, strict=True)}
    right = labelled = 0
    for receipt in receipts:
        file = decode_receipt_file(receipt)
        label = wanted.get(file.request.inputs[0].data) if file.request.inputs else None
        if label is not None:
            labelled += 1
            right += compute_labels(material.model, file.outputs) == [label]
    return right, labelled


def write_evidence(directory: Path, evidence: Mapping[str, str]) -> None:
    """Keep what was proven on the ledger as files for `rolemesh verify`."""
    for claim_id, encoded in evidence.items():
        folder = directory / EVIDENCE_NAME
        folder.mkdir(exist_ok=True)
        (folder / f"{claim_id}.evidence").write_bytes(bytes.fromhex(encoded))


def _add_evidence(report: Report, directory: Path, evidence: Mapping[str, str]) -> None:
    """Have the evidence verified as anyone could."""
    if not evidence:
        return
    said = verify_files([directory / EVIDENCE_NAME], directory)
    error = said.get("error")
    text = f"{len(evidence)} pieces in {directory / EVIDENCE_NAME}, " + (
        f"refused: {error['message']}" if error else "all verified by a separate process: `rolemesh verify` shows each"
    )
    report.hold("evidence", not error, text, is_invariant=True)


def _conclude(report: Report, material: Material) -> None:
    """Decide the exit code, and keep the report."""
    failed = [bar for bar in report.bars if not bar.holds]
    report.exit_code = 0 if not failed else 6 if any(bar.is_invariant for bar in failed) else 1
    if failed and material.ended_by == "duration" and report.exit_code == 1:
        report.exit_code = 7
    report.fields |= {
        "seed": material.network.seed,
        "network": material.network.name,
        "directory": str(material.directory),
        "bars": {bar.name: bar.holds for bar in report.bars},
        "said": {bar.name: bar.text for bar in report.bars},
        "holds": not failed,
        "not_shown": NOT_SHOWN,
    }
    write_atomically(material.directory / REPORT_NAME, json.dumps(report.fields, indent=1) + "\n")
    kept = f"report in {material.directory / REPORT_NAME}"
    verdict = "every bar holds" if not failed else f"does not hold: {', '.join(bar.name for bar in failed)}"
    report.lines.insert(-1, f"{'result':>12}  {verdict}; seed {material.network.seed}, {kept}")


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise CheckFailed(f"{' '.join(command[2:4])} gave no answer in {CHECK_TIMEOUT_S:.0f} s") from error


def _to_hex(node: str) -> str:
    from protocol.keys import parse_node

    return parse_node(node).hex()
