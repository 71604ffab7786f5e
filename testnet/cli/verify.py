"""`rolemesh verify`: check receipts and evidence offline, level by level."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from testnet.cli.arguments import Json
from testnet.cli.output import CommandError, ExitCode, Output

if TYPE_CHECKING:
    from protocol.proofs.receipt_file import Finding
    from testnet.recompute import Recomputation

RECEIPT_SUFFIX = ".receipt"
EVIDENCE_SUFFIX = ".evidence"
FILE_BYTES_MAX = 4 * 1024 * 1024
DETAILED_MAX = 3  # files shown level by level; of more only the sums


def add_to(app: App) -> None:
    """Add the command to the tree."""
    app.command(
        verify,
        help_epilogue="Examples:\n\n  rolemesh verify answer.receipt\n\n"
        "  rolemesh verify .rolemesh/dev-42/nodes/client-0/receipts --ledger .rolemesh/dev-42\n\n"
        "  rolemesh verify .rolemesh/dev-7/evidence --ledger .rolemesh/dev-7 --json",
    )


@dataclass(frozen=True)
class Checked:
    """One file: its findings, or why it is refused."""

    path: Path
    findings: "tuple[Finding, ...]" = ()
    reason: str = ""


def verify(
    target: Path,
    /,
    *,
    ledger: Annotated[Path | None, Parameter(name="--ledger")] = None,
    json: Json = False,
) -> None:
    """Check a receipt, a piece of evidence, or every one in a directory. Needs no network and believes nobody.

    Exits 5 with the reason if anything does not fit: every byte of a file is under a hash or a signature. Says of each
    level of proof what it shows and what it does not.

    Parameters
    ----------
    target
        A .receipt or .evidence file, or a directory of them.
    ledger
        Directory of a network or node whose ledger is recomputed from genesis, to show what a file alone cannot.
    """
    output = Output(json)
    files = _find_files(target)
    recomputed = _recompute(ledger, output) if ledger is not None else None
    results = [check_file(path, recomputed) for path in files]
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
    output.say(f"{'verified':>12}  {len(results)} of {len(results)}")
    output.say(f"{'not shown':>12}  {NOT_SHOWN}")
    output.give({"verified": len(results), "levels": sums, "not_shown": NOT_SHOWN, "files": _describe(results)})


NOT_SHOWN = (
    "that the verifiers are independent of the worker and of each other, nor that the model is any good: "
    "two colluding verifiers can attest anything"
)


def check_file(path: Path, recomputed: "Recomputation | None") -> Checked:
    """Check one file, by its suffix."""
    from protocol.errors import ProtocolError
    from protocol.proofs.receipt_file import decode_receipt_file, verify_receipt_file
    from testnet.evidence import decode_evidence, verify_evidence

    state = recomputed.state if recomputed is not None else None
    leaves = recomputed.leaves if recomputed is not None else None
    check: Callable[[bytes], tuple[Finding, ...]]
    if path.suffix == EVIDENCE_SUFFIX:

        def check(data: bytes) -> "tuple[Finding, ...]":
            return verify_evidence(decode_evidence(data), state)

    else:

        def check(data: bytes) -> "tuple[Finding, ...]":
            return verify_receipt_file(decode_receipt_file(data), state, leaves)

    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            return Checked(path, reason=f"larger than {FILE_BYTES_MAX} bytes")
        return Checked(path, check(data))
    except OSError as error:
        return Checked(path, reason=f"cannot be read: {error.strerror}")
    except ProtocolError as error:
        return Checked(path, reason=f"{type(error).__name__}: {error}")


def _find_files(target: Path) -> list[Path]:
    if target.is_dir():
        files = sorted(path for path in target.iterdir() if path.suffix in (RECEIPT_SUFFIX, EVIDENCE_SUFFIX))
    else:
        files = [target] if target.is_file() else []
    if not files:
        hint = f"name a {RECEIPT_SUFFIX} or {EVIDENCE_SUFFIX} file, or a directory that holds some"
        raise CommandError("no_file", f"nothing to verify at {target}", hint, ExitCode.USAGE)
    return files


def _recompute(ledger: Path, output: Output) -> "Recomputation":
    """The ledger, recomputed. Raises CommandError if it does not hold, UserError if there is none."""
    from testnet.recompute import recompute_directory

    output.note(f"recomputing the ledger in {ledger} from genesis")
    result = recompute_directory(ledger)
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
