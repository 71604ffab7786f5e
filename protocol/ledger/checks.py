"""What becomes of drawn leaves that earn: verifiers run them again, blind, and the worker opens what it claimed.

Verifiers are drawn with the leaves, from the same seed. Each puts its blind attestation on the ledger itself, so that
no worker stands between; who is silent is replaced, twice, and a leaf nobody could check is given back. Then the worker
opens its digests, and silence forfeits the batch. Equal is agreement. Of a calibrated float model the worker shows its
outputs with a digest that a verifier has not found, and that verifier its own: within the bound is agreement too.
Whoever found something else disputes the leaf while the window is open (`disputes`), or its word counts for nothing.
Where no bound says how far honest machines may differ, a leaf in dissent is given back. Source: PROTOCOL, "Checking".
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated

from protocol.committee import compute_committee
from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import Claim, InferenceRequest, compute_attestation, compute_claim_id, compute_commitment
from protocol.ledger.batches import BATCH_PAYOUT_KIND, OPEN_KIND, SAMPLES_MAX, LeafIndex, compute_check_key, forfeit
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.job_errors import AlreadySaid, InvalidBatch, TooFewCandidates, UnknownBatch
from protocol.ledger.job_records import Batch, BatchPhase, Check, Checker
from protocol.ledger.model_records import ModelRecord
from protocol.ledger.quality import compute_burnt
from protocol.ledger.records import DueItem
from protocol.ledger.transactions import transaction
from protocol.proofs.bounds import get_bound_ppt, is_near
from protocol.tensor import TENSORS_MAX, Tensor, compute_tensors_digest
from protocol.types import AtMost, Digest

ATTEST_KIND = 14
DIGEST_KIND = 15
REPLACEMENTS_MAX = 2


@fast_dataclass(frozen=True)
class LeafAttestation:
    """`value` is `jobs.compute_attestation` of the claim, the verifier's node key and the digest it computed."""

    index: LeafIndex
    value: Digest


@transaction(34)
@fast_dataclass(frozen=True)
class AttestLeaves:
    """A drawn verifier's blind statements about leaves of a batch."""

    batch: Digest
    items: Annotated[tuple[LeafAttestation, ...], AtMost(SAMPLES_MAX)]


@fast_dataclass(frozen=True)
class LeafDigest:
    """`outputs` exactly where `must_show` says so."""

    index: LeafIndex
    salt: Digest
    output_digest: Digest
    outputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)] = ()


@transaction(35)
@fast_dataclass(frozen=True)
class RevealDigests:
    """The worker opens the claims of checked leaves, all that are left."""

    batch: Digest
    items: Annotated[tuple[LeafDigest, ...], AtMost(SAMPLES_MAX)]


@fast_dataclass(frozen=True)
class LeafOutputs:
    index: LeafIndex
    outputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]


@transaction(46)
@fast_dataclass(frozen=True)
class ShowOutputs:
    """A verifier shows what it has attested: other outputs than the worker's, within the bound of a float model."""

    batch: Digest
    items: Annotated[tuple[LeafOutputs, ...], AtMost(SAMPLES_MAX)]


def begin_check(
    draft: Draft, batch: Batch, batch_id: bytes, index: int, claim: Claim, request: InferenceRequest
) -> None:
    """Draw the verifiers of an opened leaf."""
    check = Check(claim, request, draft.epoch, 0, 0, (), b"", is_void=0)
    draft.checks.put(compute_check_key(batch_id, index), _draw(draft, batch, check, claim.verifiers))


def begin_attestations(draft: Draft, batch_id: bytes, batch: Batch) -> None:
    """All drawn leaves are open."""
    draft.call_off(OPEN_KIND, batch_id)
    draft.batches.put(batch_id, replace(batch, phase=BatchPhase.ATTESTATIONS))
    _plan(draft, ATTEST_KIND, batch_id, draft.params.attest_ms)
    _end_attestations(draft, batch_id)


def apply_attest_leaves(draft: Draft, context: TransactionContext, body: AttestLeaves) -> None:
    """Take what a drawn verifier says. Its first word counts."""
    _get_batch(draft, body.batch, BatchPhase.ATTESTATIONS)
    if not body.items:
        raise InvalidBatch(body.batch, "nothing is attested")
    for item in body.items:
        key = compute_check_key(body.batch, item.index)
        check = draft.checks.get(key)
        own = _find_checker(check, context.account)
        if check is None or own is None or own.value:
            raise AlreadySaid(body.batch, item.index)
        draft.checks.put(key, _with_checker(check, replace(own, value=item.value)))
    _end_attestations(draft, body.batch)


def close_attestations(draft: Draft, item: DueItem) -> None:
    """Due: who has not spoken is replaced by the next drawn; a leaf whose verifiers stay away is void."""
    batch = draft.batches.get(item.id)
    if batch is None or batch.phase != BatchPhase.ATTESTATIONS:
        return
    for key, check in _list_open(draft, item.id):
        silent = [checker for checker in check.checkers if not checker.value]
        for checker in silent:
            draft.count_work(checker.account, void=1, lost=compute_burnt(check.claim.fee, draft.params))
        spoken = tuple(checker for checker in check.checkers if checker.value)
        if check.rounds == REPLACEMENTS_MAX:
            draft.checks.put(key, replace(check, checkers=spoken, is_void=1))
        else:
            after = replace(check, checkers=spoken, rounds=check.rounds + 1)
            draft.checks.put(key, _draw(draft, batch, after, len(silent)))
    _plan(draft, ATTEST_KIND, item.id, draft.params.attest_ms)
    _end_attestations(draft, item.id)


def apply_reveal_digests(draft: Draft, context: TransactionContext, body: RevealDigests) -> None:
    """Take the digests the worker has claimed blindly."""
    batch = _get_batch(draft, body.batch, BatchPhase.DIGESTS)
    if batch.worker != context.account:
        raise UnknownBatch(body.batch)
    if not body.items:
        raise InvalidBatch(body.batch, "no digest is opened")
    for item in body.items:
        key = compute_check_key(body.batch, item.index)
        check = draft.checks.get(key)
        if check is None or check.is_void or check.output_digest:
            raise InvalidBatch(body.batch, f"leaf {item.index} has no digest to be opened")
        if compute_commitment(item.salt, item.output_digest) != check.claim.commitment:
            raise InvalidBatch(body.batch, f"leaf {item.index}: salt and digest do not open the claim")
        is_asked = must_show(check, item.output_digest, draft.models.get(check.claim.model))
        if bool(item.outputs) != is_asked:
            reason = (
                "outputs are shown of a calibrated float model, where a verifier has found others, and nowhere else"
            )
            raise InvalidBatch(body.batch, f"leaf {item.index}: {reason}")
        if is_asked and compute_tensors_digest(item.outputs) != item.output_digest:
            raise InvalidBatch(body.batch, f"leaf {item.index}: the outputs do not have the digest")
        draft.checks.put(key, replace(check, output_digest=item.output_digest, outputs=item.outputs))
    _end_digests(draft, body.batch)


def must_show(check: Check, output_digest: bytes, model: ModelRecord | None) -> bool:
    """Whether a worker that opens this digest has to show the outputs as well."""
    claim_id = compute_claim_id(check.claim)
    values = ((item.value, compute_attestation(claim_id, item.node, output_digest)) for item in check.checkers)
    return bool(get_bound_ppt(model)) and any(value != agreed for value, agreed in values)


def apply_show_outputs(draft: Draft, context: TransactionContext, body: ShowOutputs) -> None:
    """Note that verifiers which attested other digests agree with the worker all the same."""
    _get_batch(draft, body.batch, BatchPhase.WINDOW)
    if not body.items:
        raise InvalidBatch(body.batch, "no outputs are shown")
    for item in body.items:
        key = compute_check_key(body.batch, item.index)
        check = draft.checks.get(key)
        own = _find_checker(check, context.account)
        if check is None or own is None or own.is_near:
            raise AlreadySaid(body.batch, item.index)
        digest = compute_tensors_digest(item.outputs)
        if own.value != compute_attestation(compute_claim_id(check.claim), own.node, digest):
            raise InvalidBatch(body.batch, f"leaf {item.index}: the outputs open no attestation of this account")
        if not check.outputs or not is_near(draft.models.get(check.claim.model), check.outputs, item.outputs):
            raise InvalidBatch(body.batch, f"leaf {item.index}: the outputs are not within the bound of the worker's")
        draft.checks.put(key, _with_checker(check, replace(own, is_near=1)))


def close_digests(draft: Draft, item: DueItem) -> None:
    """Due: the worker has not opened a digest, which forfeits the batch."""
    batch = draft.batches.get(item.id)
    if batch is None or batch.phase != BatchPhase.DIGESTS:
        return
    closed = sum(not check.output_digest and not check.is_void for _, check in _list_checks(draft, item.id))
    forfeit(draft, item.id, batch)
    draft.count_work(batch.worker, void=closed)


def _draw(draft: Draft, batch: Batch, check: Check, count: int) -> Check:
    """The check with so many more verifiers, the next ones drawn; void when there are not as many left."""
    claim, snapshot = check.claim, draft.epochs.get(check.epoch)
    if snapshot is None:
        return replace(check, is_void=1)
    others = [item for item in snapshot.candidates if item.account != batch.worker]
    total = check.drawn + count
    try:
        nodes = compute_committee(batch.seed, claim.request_id, claim.worker, others, total)[check.drawn :]
    except TooFewCandidates:
        return replace(check, is_void=1)
    added = tuple(Checker(snapshot.by_node[node].account, node, b"") for node in nodes)
    return replace(check, checkers=(*check.checkers, *added), drawn=total)


def _end_attestations(draft: Draft, batch_id: bytes) -> None:
    """Go on to the digests once every verifier has spoken, or to the window when there is nothing to check."""
    if any(True for _ in _list_open(draft, batch_id)):
        return
    batch = draft.batches.get(batch_id)
    assert batch is not None
    draft.batches.put(batch_id, replace(batch, phase=BatchPhase.DIGESTS))
    draft.call_off(ATTEST_KIND, batch_id)
    _plan(draft, DIGEST_KIND, batch_id, draft.params.open_ms)
    _end_digests(draft, batch_id)


def _end_digests(draft: Draft, batch_id: bytes) -> None:
    if any(not check.output_digest and not check.is_void for _, check in _list_checks(draft, batch_id)):
        return
    batch = draft.batches.get(batch_id)
    assert batch is not None
    draft.batches.put(batch_id, replace(batch, phase=BatchPhase.WINDOW))
    draft.call_off(DIGEST_KIND, batch_id)
    _plan(draft, BATCH_PAYOUT_KIND, batch_id, draft.params.dispute_window_ms)


def _plan(draft: Draft, kind: int, batch_id: bytes, in_ms: int) -> None:
    draft.plan(DueItem(draft.time_ms + in_ms, kind, batch_id, waking=1, graced=0))


def _get_batch(draft: Draft, batch_id: bytes, phase: BatchPhase) -> Batch:
    batch = draft.batches.get(batch_id)
    if batch is None:
        raise UnknownBatch(batch_id)
    if batch.phase != phase:
        raise InvalidBatch(batch_id, f"it waits for its {BatchPhase(batch.phase).name.lower()}")
    return batch


def _list_checks(draft: Draft, batch_id: bytes) -> Iterator[tuple[bytes, Check]]:
    return draft.checks.items_under(batch_id)


def _list_open(draft: Draft, batch_id: bytes) -> Iterable[tuple[bytes, Check]]:
    """Checks some of whose verifiers have yet to speak."""
    for key, check in list(_list_checks(draft, batch_id)):
        if not check.is_void and any(not checker.value for checker in check.checkers):
            yield key, check


def _find_checker(check: Check | None, account: bytes) -> Checker | None:
    if check is None:
        return None
    return next((checker for checker in check.checkers if checker.account == account), None)


def _with_checker(check: Check, changed: Checker) -> Check:
    return replace(check, checkers=tuple(changed if item.node == changed.node else item for item in check.checkers))
