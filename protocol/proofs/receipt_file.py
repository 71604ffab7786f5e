"""A receipt as a file: a result with everything that shows where it comes from, for anyone to check, offline.

Every byte of it is under a hash or a signature, so a changed file is refused. What the file alone cannot show, a ledger
recomputed from genesis can: that the verifiers were drawn, and that the leaf was settled and for how much.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated

import protocol.proofs.built_in  # noqa: F401  registers our kinds
from protocol.codec import decode
from protocol.committee import compute_committee
from protocol.errors import CannotCheck, InvalidProof, InvalidTransaction
from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import Attestation, InferenceRequest, Mode, Receipt, Voucher, compute_claim_id, compute_request_id
from protocol.keys import format_account, format_node
from protocol.ledger.settlement import SettledLeaf
from protocol.ledger.state import State
from protocol.ledger.transactions import ATTESTATIONS_MAX, ZeroReason
from protocol.proofs.bounds import is_agreed
from protocol.proofs.context import EVIDENCE_BYTES_MAX, ProofContext, Trust
from protocol.proofs.kinds import REEXEC, SIGNED, verify_attestations, verify_receipt
from protocol.registry import find_proof_kind
from protocol.signing import verify_signed
from protocol.tensor import Tensor, compute_tensors_digest, verify_tensor
from protocol.types import AtMost, Name, Whole

VERSION = 1
RECEIPT_FILE_BYTES_MAX = 4 * 1024 * 1024
BACKINGS_MAX = 4
NO_TRUST = Trust()

_PROOFS: Mapping[str, str] = {Mode.INDIVIDUAL: REEXEC.name, Mode.BATCH: REEXEC.name, Mode.PRIVATE: SIGNED.name}
_UNATTESTED: Mapping[str, str] = {
    Mode.BATCH: "that the output is right: in mode 'batch' the ledger has some jobs checked, drawn after the fact",
    Mode.PRIVATE: "that the output is right: in mode 'private' nobody checks, the worker's signature is all there is",
}

Leaves = Mapping[tuple[bytes, int], SettledLeaf]  # by (channel, seq): `testnet.recompute` gathers them from blocks


@fast_dataclass(frozen=True)
class Backing:
    """What backs a result besides attestations."""

    kind: Name  # a registered proof kind
    evidence: Annotated[bytes, AtMost(EVIDENCE_BYTES_MAX)]


@fast_dataclass(frozen=True)
class ReceiptFile:
    """What the client keeps of one answered request."""

    version: Whole
    request: InferenceRequest
    voucher: Voucher
    receipt: Receipt
    outputs: Annotated[tuple[Tensor, ...], AtMost(8)]
    attestations: Annotated[tuple[Attestation, ...], AtMost(ATTESTATIONS_MAX)]
    backings: Annotated[tuple[Backing, ...], AtMost(BACKINGS_MAX)] = ()  # at most one of a kind


@fast_dataclass(frozen=True)
class Finding:
    """One level of proof: whether it is shown, and what exactly is or is not. For people."""

    level: str
    is_shown: bool
    text: str


def decode_receipt_file(data: bytes) -> ReceiptFile:
    """Read a file. MalformedMessage for anything but the canonical bytes of one."""
    return decode(ReceiptFile, data, RECEIPT_FILE_BYTES_MAX)


def verify_receipt_file(
    file: ReceiptFile, state: State | None = None, leaves: Leaves | None = None, trust: Trust = NO_TRUST
) -> tuple[Finding, ...]:
    """What the file shows, level by level. RemoteError, with the reason, when anything in it does not fit.

    `state` and `leaves` come from a ledger recomputed from genesis, `leaves` alone from a ledger file that holds;
    without them the levels that need one are not shown. `trust` is for the proof kinds of `backings`; nobody unless
    given.
    """
    if file.version != VERSION:
        raise InvalidProof(f"a receipt file of version {file.version}; this program reads version {VERSION}")
    _verify_parts(file)
    claim = file.receipt.claim
    ordered = f"account {format_account(file.request.account)} signed a voucher of {claim.fee} grains for this request"
    signed = (
        Finding("paid for", True, ordered),
        Finding("signed", True, f"node {format_node(claim.worker)} signed this output for this input and model"),
    )
    if state is not None and compute_claim_id(claim) in state.wrong:
        raise InvalidProof("a dispute on the ledger has found this claim wrong")
    if file.request.mode != Mode.INDIVIDUAL:
        verify_receipt(file.receipt)
        return (*signed, Finding("attested", False, _UNATTESTED[file.request.mode]), *_find_backings(file, trust))
    verify_attestations(file.receipt, file.attestations)
    return (
        *signed,
        _find_attested(file, state, leaves),
        *_find_backings(file, trust),
        _find_drawn(file, state, leaves),
        _find_settled(file, leaves),
    )


def _find_attested(file: ReceiptFile, state: State | None, leaves: Leaves | None) -> Finding:
    """Who found the same; of a float model the ledger says how far apart outputs are that count as the same."""
    names = " and ".join(format_node(item.verifier) for item in file.attestations)
    near = [item for item in file.attestations if item.shown]
    if not near:
        return Finding("attested", True, f"{names} signed that they computed the same output, bit for bit")
    model = state.models.get(file.request.model) if state is not None else None
    if model is None and _is_settled(file, leaves):
        return Finding("attested", True, f"the ledger settled this claim, near enough to what {names} signed")
    if model is None:
        text = f"that {names} found the same: outputs differ in their last bits, and no ledger that knows the model"
        return Finding("attested", False, f"{text} was given")
    if not all(is_agreed(model, item, file.receipt.output_digest, file.outputs) for item in near):
        raise InvalidProof("a verifier found outputs that are not within the model's bound of the worker's")
    return Finding("attested", True, f"{names} signed that they computed the same output, within the model's bound")


def _verify_parts(file: ReceiptFile) -> None:
    """The parts are of one job: request, voucher and claim name each other, the outputs are those of the receipt."""
    request, voucher, claim = file.request, file.voucher, file.receipt.claim
    request_id = compute_request_id(request)
    if voucher.request_id != request_id or claim.request_id != request_id:
        raise InvalidProof(f"voucher or claim is for another request than {request_id.hex()}")
    if request.proof != _PROOFS.get(request.mode):
        raise InvalidProof(f"proof kind {request.proof!r} in mode {request.mode!r} is not known here")
    if request.mode != Mode.INDIVIDUAL and file.attestations:
        raise InvalidProof(f"attestations of a request in mode {request.mode!r}")
    for name in ("model", "epoch", "verifiers", "deadline_ms"):
        if getattr(claim, name) != getattr(request, name):
            raise InvalidProof(f"claim and request differ in {name}")
    promised = (voucher.channel, voucher.seq, voucher.attempt, voucher.amount)
    if (claim.channel, claim.seq, claim.attempt, claim.fee) != promised or claim.fee > request.fee_max:
        raise InvalidProof("claim and voucher are not of the same job, or above the request's limit")
    if request.inputs and compute_tensors_digest(request.inputs) != claim.input_digest:
        raise InvalidProof("the claim names other inputs than the request")
    if not file.outputs:
        raise InvalidProof("no outputs: whatever the worker signed, it is no result")
    for tensor in (*request.inputs, *file.outputs):
        verify_tensor(tensor)
    if compute_tensors_digest(file.outputs) != file.receipt.output_digest:
        raise InvalidProof("the outputs are not those of the receipt")
    verify_signed(voucher, request.account)


def _find_backings(file: ReceiptFile, trust: Trust) -> Iterator[Finding]:
    context = ProofContext(file.request, file.receipt, file.outputs, file.request.deadline_ms, trust)
    if len({item.kind for item in file.backings}) != len(file.backings):
        raise InvalidProof("two proofs of one kind")
    for item in file.backings:
        kind = find_proof_kind(item.kind)
        if kind is None:
            raise InvalidProof(f"proof kind {item.kind!r} is not known here")
        if len(item.evidence) > kind.evidence_bytes_max:
            raise InvalidProof(f"{len(item.evidence)} bytes of evidence, {item.kind} has {kind.evidence_bytes_max}")
        try:
            yield Finding(item.kind, True, kind.verify(context, item.evidence))
        except CannotCheck as error:
            yield Finding(item.kind, False, f"what its proof says: {error}")


def _find_drawn(file: ReceiptFile, state: State | None, leaves: Leaves | None) -> Finding:
    claim = file.receipt.claim
    if state is None and _is_settled(file, leaves):
        return Finding("drawn", True, "the ledger settled this claim, for which it drew these verifiers")
    if state is None:
        return Finding("drawn", False, "that the ledger drew these verifiers: no ledger was given")
    if state.chain != file.request.chain:
        raise InvalidProof(f"the receipt is of chain {file.request.chain.hex()}, the ledger of {state.chain.hex()}")
    snapshot = state.get_epoch(claim.epoch)
    if snapshot is None:
        if _is_settled(file, leaves):
            return Finding("drawn", True, "the ledger settled this claim, for which it drew these verifiers")
        return Finding(
            "drawn", False, f"that these verifiers were drawn: the ledger no longer keeps epoch {claim.epoch}"
        )
    try:
        committee = compute_committee(
            snapshot.seed, claim.request_id, claim.worker, snapshot.candidates, claim.verifiers
        )
    except InvalidTransaction as error:
        raise InvalidProof(f"in epoch {claim.epoch} no such committee could be drawn: {error}") from error
    if {item.verifier for item in file.attestations} != set(committee):
        raise InvalidProof(f"in epoch {claim.epoch} the ledger drew other verifiers for this request")
    return Finding("drawn", True, f"the ledger drew exactly these verifiers in epoch {claim.epoch}")


def _find_settled(file: ReceiptFile, leaves: Leaves | None) -> Finding:
    if leaves is None:
        return Finding("settled", False, "that the worker was paid: no ledger was given")
    claim = file.receipt.claim
    leaf = leaves.get((claim.channel, claim.seq))
    if leaf is None:
        return Finding("settled", False, "that the worker was paid: no block given here settles its leaf")
    if _is_settled(file, leaves):
        return Finding("settled", True, f"block {leaf.height} settled {leaf.amount} grains for this very claim")
    how = "for another claim" if leaf.claim_id else f"without pay, reason {ZeroReason(leaf.reason).name.lower()}"
    return Finding("settled", False, f"that the worker was paid: block {leaf.height} settled its voucher {how}")


def _is_settled(file: ReceiptFile, leaves: Leaves | None) -> bool:
    """The ledger has paid for this very claim."""
    claim = file.receipt.claim
    leaf = None if leaves is None else leaves.get((claim.channel, claim.seq))
    return leaf is not None and leaf.claim_id == compute_claim_id(claim)
