"""`rolemesh proof`: the kinds of proofs there are, and adding one to a receipt."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from testnet.cli.arguments import Json
from testnet.cli.output import CommandError, ExitCode, Output
from testnet.cli.trusting import Genesis, Measurements, gather_trust

if TYPE_CHECKING:
    from protocol.proofs.receipt_file import ReceiptFile

MADE_HERE = ("tee_simulated", "zk")

app = App(
    name="proof",
    help="Proofs that back a result besides the attestations of verifiers.",
    help_epilogue="Examples:\n\n  rolemesh proof kinds\n\n"
    "  rolemesh proof add answer.receipt --kind zk --genesis .rolemesh/dev-42/testnet.json",
)


@app.command(help_epilogue="Examples:\n\n  rolemesh proof kinds\n\n  rolemesh proof kinds --json")
def kinds(*, json: Json = False) -> None:
    """List the proof kinds known here: what each shows, what it does not, and what this machine lacks to check it.

    An installed package adds its own under the entry point group rolemesh.proofs.
    """
    from roles.proof_kinds import load_proof_kinds

    output = Output(json)
    described = [(kind, kind.describe()) for kind in load_proof_kinds()]
    for kind, about in described:
        output.say(kind.name)
        output.say(f"{'shows':>16}  {about.shows}")
        output.say(f"{'does not show':>16}  {about.does_not_show}")
        if about.missing:
            output.say(f"{'not checked here':>16}  {about.missing}")
    output.give(
        {
            "kinds": [
                {
                    "name": kind.name,
                    "shows": about.shows,
                    "does_not_show": about.does_not_show,
                    "missing": about.missing,
                    "evidence_bytes_max": kind.evidence_bytes_max,
                    "made_here": kind.name in MADE_HERE,
                }
                for kind, about in described
            ]
        }
    )


@app.command(
    help_epilogue="Examples:\n\n"
    "  rolemesh proof add answer.receipt --kind zk --genesis .rolemesh/dev-42/testnet.json\n\n"
    "  rolemesh proof add answer.receipt --kind tee --evidence document.cose --measurements listed.json"
)
def add(
    receipt: Path,
    /,
    *,
    kind: Annotated[str, Parameter(name="--kind")],
    evidence: Annotated[Path | None, Parameter(name="--evidence")] = None,
    genesis: Genesis = None,
    measurements: Measurements = None,
    out: Annotated[Path | None, Parameter(name="--out")] = None,
    json: Json = False,
) -> None:
    """Add a proof to a receipt file: evidence from a file, or made here. It is checked before anything is written.

    `zk` proves the model that ships with rolemesh as a circuit (iris) and needs ezkl; `tee_simulated` stands for an
    enclave. Both count on test networks only. All other kinds bring their evidence along.

    Parameters
    ----------
    receipt
        A .receipt file.
    kind
        One of `rolemesh proof kinds`. A proof of the same kind in the file is replaced.
    evidence
        File with the evidence, for a tee the attestation document.
    out
        File to write; the receipt itself unless given.
    """
    from dataclasses import replace

    from protocol.codec import encode
    from protocol.errors import ProtocolError
    from protocol.proofs.receipt_file import BACKINGS_MAX, Backing, verify_receipt_file
    from roles.proof_kinds import load_proof_kinds

    output = Output(json)
    known = {each.name: each for each in load_proof_kinds()}
    if kind not in known:
        raise CommandError("unknown_kind", f"no proof kind {kind!r}", f"choose from {', '.join(known)}", ExitCode.USAGE)
    trusting = gather_trust(genesis, measurements)
    file = read_receipt(receipt)
    trust = trusting.for_chain(file.request.chain)
    made = _read_evidence(evidence, known[kind].evidence_bytes_max) if evidence else _make_evidence(kind, file, output)
    others = [each for each in file.backings if each.kind != kind]
    if len(others) == BACKINGS_MAX:
        names = ", ".join(each.kind for each in others)
        raise CommandError(
            "too_many", f"{receipt} has {BACKINGS_MAX} proofs: {names}", "replace one of them", ExitCode.USAGE
        )
    proven = replace(file, backings=(*others, Backing(kind, made)))
    try:
        findings = verify_receipt_file(proven, trust=trust)
    except ProtocolError as error:
        hint = "nothing was written; does the evidence belong to this receipt, and is all of it trusted here?"
        raise CommandError("verification_failed", str(error), hint, ExitCode.VERIFICATION_FAILED) from error
    finding = next(each for each in reversed(findings) if each.level == kind)
    if not finding.is_shown:
        raise CommandError(
            "cannot_check", finding.text, "nothing was written; see `rolemesh proof kinds`", ExitCode.CONFIG
        )
    target = out or receipt
    try:
        temporary = target.with_name(f".{target.name}.new")
        temporary.write_bytes(encode(proven))
        temporary.replace(target)
    except OSError as error:
        hint = "name a file that can be written with --out"
        raise CommandError("cannot_write", f"{target}: {error.strerror}", hint) from error
    output.say(f"{target}: {kind}, {len(made)} bytes")
    output.say(f"{kind:>12}  ✓ {finding.text}")
    output.give({"file": str(target), "kind": kind, "evidence_bytes": len(made), "shown": finding.text})


def read_receipt(path: Path) -> "ReceiptFile":
    """Raises CommandError when the file is no receipt."""
    from protocol.errors import ProtocolError
    from protocol.proofs.receipt_file import RECEIPT_FILE_BYTES_MAX, decode_receipt_file

    try:
        with path.open("rb") as file:
            return decode_receipt_file(file.read(RECEIPT_FILE_BYTES_MAX + 1))
    except (OSError, ProtocolError) as error:
        hint = "name a .receipt file that `rolemesh infer` has written"
        raise CommandError("bad_receipt", f"{path} cannot be read: {error}", hint, ExitCode.USAGE) from error


def _read_evidence(path: Path, size_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(size_max + 1)
    except OSError as error:
        hint = "name a file that holds the evidence"
        raise CommandError("bad_evidence", f"{path}: {error.strerror}", hint, ExitCode.USAGE) from error
    if len(data) > size_max:
        hint = "is it the right file?"
        raise CommandError("bad_evidence", f"{path} is larger than {size_max} bytes", hint, ExitCode.USAGE)
    return data


def _make_evidence(kind: str, file: "ReceiptFile", output: Output) -> bytes:
    if kind == "tee_simulated":
        return _simulate_enclave(file)
    if kind == "zk":
        return _prove(file, output)
    hint = "name the file that holds it with --evidence"
    raise CommandError("no_evidence", f"evidence of kind {kind} is not made here", hint, ExitCode.USAGE)


def _simulate_enclave(file: "ReceiptFile") -> bytes:
    from protocol.jobs import compute_claim_id, compute_request_id
    from protocol.proofs.tee import compute_user_data
    from testnet.simulated_nitro import make_document

    user_data = compute_user_data(compute_claim_id(file.receipt.claim), file.receipt.output_digest)
    return make_document(file.request.deadline_ms, compute_request_id(file.request), user_data)


def _prove(file: "ReceiptFile", output: Output) -> bytes:
    from protocol.codec import encode
    from protocol.errors import CannotCheck
    from roles.zk.circuit import load_iris
    from roles.zk.prove import ProvingFailed, prove

    circuit = load_iris()
    if file.request.model != circuit.model_digest or len(file.request.inputs) != 1:
        what = f"there is no circuit for model {file.request.model.hex()}, or the receipt holds no input"
        hint = f"the circuit that ships is of model {circuit.name}, {circuit.model_digest.hex()}"
        raise CommandError("no_circuit", what, hint, ExitCode.USAGE)
    output.note(f"proving {circuit.name} in a process of its own: some seconds")
    try:
        return encode(prove(circuit, file.request.inputs[0]))
    except CannotCheck as error:
        what, _, hint = str(error).partition("; ")
        raise CommandError("no_ezkl", what, hint, ExitCode.CONFIG) from error
    except ProvingFailed as error:
        raise CommandError(
            "proving_failed", f"no proof came out: {error}", "run it again; report it if it stays"
        ) from error
