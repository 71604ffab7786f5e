"""`rolemesh verify`: check receipts, evidence and what the ledger says offline, level by level."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from testnet.cli.arguments import Json
from testnet.cli.output import CommandError, ExitCode, Output
from testnet.cli.prove import PROOF_SUFFIX, read_trusted, verify_proof
from testnet.cli.trusting import NOBODY, Genesis, Measurements, Trusting, gather_trust

if TYPE_CHECKING:
    from protocol.ledger.light import Trusted
    from protocol.ledger.state import State
    from protocol.proofs.ledger_file import Shown
    from protocol.proofs.receipt_file import Finding, Leaves
    from testnet.explain import History
    from testnet.recompute import Recomputation

RECEIPT_SUFFIX = ".receipt"
EVIDENCE_SUFFIX = ".evidence"
SUFFIXES = (RECEIPT_SUFFIX, EVIDENCE_SUFFIX, PROOF_SUFFIX)
FILE_BYTES_MAX = 4 * 1024 * 1024
DETAILED_MAX = 3  # files shown level by level; of more only the sums


def add_to(app: App) -> None:
    """Add the command to the tree."""
    app.command(
        verify,
        help_epilogue="Examples:\n\n  rolemesh verify answer.receipt\n\n"
        "  rolemesh verify .rolemesh/dev-42/nodes/client-0 --ledger .rolemesh/dev-42\n\n"
        "  rolemesh verify .rolemesh/dev-7/evidence --ledger .rolemesh/dev-7 --json\n\n"
        "  rolemesh verify inference-0.proof --genesis .rolemesh/dev-42/testnet.json\n\n"
        "  rolemesh verify proven.receipt --measurements listed.json\n\n"
        "  rolemesh verify answer.receipt --proof answer.proof --genesis testnet.json",
    )


@dataclass(frozen=True)
class Backing:
    """What files are checked against besides themselves."""

    state: "State | None" = None
    leaves: "Leaves | None" = None
    trusted: "Trusted | None" = None
    shown: "Shown | None" = None  # by a ledger file
    history: "History | None" = None  # of batches, of a ledger that was recomputed
    trusting: Trusting = NOBODY


@dataclass(frozen=True)
class Paper:
    """A file to be checked; or a receipt in a client's database, under the name its file would have."""

    path: Path
    held: bytes | None = None

    def read(self, bytes_max: int) -> bytes:
        """All of it, or more than so many bytes. Raises OSError."""
        if self.held is not None:
            return self.held
        with self.path.open("rb") as file:
            return file.read(bytes_max + 1)


@dataclass(frozen=True)
class Checked:
    """One file: its findings, or why it is refused."""

    path: Path
    findings: "tuple[Finding, ...]" = ()
    reason: str = ""


def verify(
    target: Path,
    /,
    *others: Path,
    ledger: Annotated[Path | None, Parameter(name="--ledger")] = None,
    genesis: Genesis = None,
    proof: Annotated[Path | None, Parameter(name="--proof")] = None,
    measurements: Measurements = None,
    json: Json = False,
) -> None:
    """Check a receipt, a piece of evidence, a ledger proof, or all in a directory. Needs no network, believes nobody.

    Exits 5 with the reason if anything does not fit: every byte of a file is under a hash or a signature. Says of each
    level of proof what it shows and what it does not.

    Parameters
    ----------
    target
        A .receipt, .evidence or .proof file, a directory of them, or a client's data directory with its receipts.
    others
        More of them.
    ledger
        Directory of a network or node whose ledger is recomputed from genesis, to show what a file alone cannot.
    proof
        A .proof file of `rolemesh ledger prove RECEIPT`, in place of a whole ledger. Needs --genesis.
    """
    from roles.proof_kinds import load_proof_kinds

    output = Output(json)
    papers = [paper for each in (target, *others) for paper in _find_papers(each)]
    backing = replace(
        _gather_backing(papers, ledger, genesis, proof, output), trusting=gather_trust(genesis or ledger, measurements)
    )
    load_proof_kinds()
    results = [check_paper(paper, backing) for paper in papers]
    refused = {result.path.name: result.reason for result in results if result.reason}
    for result in results if len(results) <= DETAILED_MAX else []:
        _show(output, result)
    sums = _sum_up(results)
    if len(results) > DETAILED_MAX:
        for level, shown in sums.items():
            output.say(f"{level:>12}  shown by {shown} of {len(results)} files")
    if refused:
        name, reason = next(iter(refused.items()))
        raise CommandError(
            "verification_failed",
            f"{len(refused)} of {len(results)} refused; {name}: {reason}",
            "do not trust this file; ask for it again from where it came",
            ExitCode.VERIFICATION_FAILED,
            verified=len(results) - len(refused),
            refused=refused,
        )
    not_shown = NOT_SHOWN_BY_PROOFS if all(paper.path.suffix == PROOF_SUFFIX for paper in papers) else NOT_SHOWN
    output.say(f"{'verified':>12}  {len(results)} of {len(results)}")
    output.say(f"{'not shown':>12}  {not_shown}")
    output.give({"verified": len(results), "levels": sums, "not_shown": not_shown, "files": _describe(results)})


NOT_SHOWN = (
    "that the verifiers are independent of the worker and of each other, nor that the model is any good: "
    "two colluding verifiers can attest anything"
)

NOT_SHOWN_BY_PROOFS = (
    "that these blocks follow the rules: a quorum of validators vouches for it, and `--ledger` would recompute it; "
    "nor what happened after that height"
)


def check_paper(paper: Paper, backing: Backing) -> Checked:
    """Check one file, by its suffix."""
    from protocol.errors import InvalidProof, ProtocolError
    from protocol.jobs import Mode, compute_claim_id
    from protocol.proofs.receipt_file import decode_receipt_file, verify_receipt_file
    from testnet.evidence import decode_evidence, verify_evidence
    from testnet.explain import describe_batched

    path = paper.path
    if path.suffix == PROOF_SUFFIX and backing.trusted is None:
        hint = "name a genesis.json or testnet.json you trust with --genesis"
        raise CommandError("no_genesis", f"{path} shows nothing without a genesis", hint, ExitCode.USAGE)

    def check(data: bytes) -> "tuple[Finding, ...]":
        if path.suffix == EVIDENCE_SUFFIX:
            return verify_evidence(decode_evidence(data), backing.state)
        if path.suffix == PROOF_SUFFIX and backing.trusted is not None:
            return verify_proof(data, backing.trusted)
        file = decode_receipt_file(data)
        claim_id = compute_claim_id(file.receipt.claim)
        if backing.shown is not None and backing.shown.entries.get(("wrong", claim_id)) is not None:
            raise InvalidProof("the ledger holds a proof that this claim is wrong")
        trust = backing.trusting.for_chain(file.request.chain)
        findings = verify_receipt_file(file, backing.state, backing.leaves, trust)
        if file.request.mode == Mode.INDIVIDUAL:
            return findings
        return (*findings, *describe_batched(file.voucher, backing.history))

    try:
        data = paper.read(FILE_BYTES_MAX)
        if len(data) > FILE_BYTES_MAX:
            return Checked(path, reason=f"larger than {FILE_BYTES_MAX} bytes")
        return Checked(path, check(data))
    except OSError as error:
        return Checked(path, reason=f"cannot be read: {error.strerror}")
    except ProtocolError as error:
        return Checked(path, reason=f"{type(error).__name__}: {error}")


def _find_papers(target: Path) -> list[Paper]:
    from roles.chain import DATABASE_NAME, RECEIPT_BUCKET, read_kept

    if target.is_dir():
        papers = [Paper(path) for path in sorted(target.iterdir()) if path.suffix in SUFFIXES]
    else:
        papers = [Paper(target)] if target.is_file() else []
    if (target / DATABASE_NAME).is_file():
        kept = read_kept(target / DATABASE_NAME, RECEIPT_BUCKET)
        papers += [Paper(target / f"{key.hex()}{RECEIPT_SUFFIX}", data) for key, data in kept.items()]
    if not papers:
        hint = f"name a file that ends in {', '.join(SUFFIXES)}, a directory that holds some, or a client's directory"
        raise CommandError("no_file", f"nothing to verify at {target}", hint, ExitCode.USAGE)
    return papers


def _gather_backing(
    papers: list[Paper], ledger: Path | None, genesis: Path | None, proof: Path | None, output: Output
) -> Backing:
    """Raises CommandError when what is to back the files does not hold itself."""
    from protocol.errors import ProtocolError
    from protocol.proofs.ledger_file import LEDGER_FILE_BYTES_MAX, decode_ledger_file, verify_ledger_file

    trusted = read_trusted(genesis) if genesis is not None else None
    if ledger is not None:
        history = _watch_batches(papers)
        recomputed = _recompute(ledger, output, history)
        return Backing(recomputed.state, recomputed.leaves, trusted, history=history)
    if proof is None:
        return Backing(trusted=trusted)
    if trusted is None:
        raise CommandError("no_genesis", "--proof needs --genesis", "name the genesis you trust", ExitCode.USAGE)
    try:
        with proof.open("rb") as file:
            shown = verify_ledger_file(decode_ledger_file(file.read(LEDGER_FILE_BYTES_MAX + 1)), trusted)
    except (OSError, ProtocolError) as error:
        hint = "have it made again with `rolemesh ledger prove RECEIPT`"
        raise CommandError("bad_proof", f"{proof}: {error}", hint, ExitCode.VERIFICATION_FAILED) from error
    return Backing(leaves=shown.leaves, trusted=trusted, shown=shown)


def _watch_batches(papers: list[Paper]) -> "History | None":
    """What has to be watched for while the ledger is recomputed; None when no receipt is of a batch."""
    from protocol.errors import ProtocolError
    from protocol.jobs import Mode
    from protocol.proofs.receipt_file import RECEIPT_FILE_BYTES_MAX, ReceiptFile, decode_receipt_file
    from testnet.explain import Case, History, Try

    receipts: list[ReceiptFile] = []
    for paper in papers:
        if paper.path.suffix == RECEIPT_SUFFIX:
            try:
                receipts.append(decode_receipt_file(paper.read(RECEIPT_FILE_BYTES_MAX)))
            except (OSError, ProtocolError):
                continue  # said of this file when its turn comes
    batched = [item for item in receipts if item.request.mode != Mode.INDIVIDUAL]
    if not batched:
        return None
    return History(Case(batched[0].request, tuple(Try(b"", item.voucher) for item in batched)))


def _recompute(ledger: Path, output: Output, history: "History | None") -> "Recomputation":
    """The ledger, recomputed. Raises CommandError if it does not hold, UserError if there is none."""
    from testnet.recompute import recompute_directory

    output.note(f"recomputing the ledger in {ledger} from genesis")
    result = recompute_directory(ledger, None if history is None else history.on_block)
    if not result.holds:
        raise CommandError(
            "ledger_does_not_hold",
            f"the ledger in {ledger} cannot back anything: {result.findings[0]}",
            f"`rolemesh testnet check {ledger}` lists all that is wrong with it",
            ExitCode.VERIFICATION_FAILED,
            findings=result.findings,
        )
    return result


def _sum_up(results: list[Checked]) -> dict[str, int]:
    """How many files show each level."""
    sums: dict[str, int] = {}
    for finding in (finding for result in results for finding in result.findings):
        sums[finding.level] = sums.get(finding.level, 0) + int(finding.is_shown)
    return sums


def _show(output: Output, result: Checked) -> None:
    output.say(str(result.path))
    for finding in result.findings:
        output.say(f"{finding.level:>12}  {'✓' if finding.is_shown else 'not shown:'} {finding.text}")


def _describe(results: list[Checked]) -> list[dict[str, Any]]:
    return [
        {
            "file": str(result.path),
            "levels": [{"level": item.level, "shown": item.is_shown, "text": item.text} for item in result.findings],
        }
        for result in results
    ]
