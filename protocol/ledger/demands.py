"""Demands: a drawn verifier makes a worker open a claim it has signed and never settled.

Whoever was drawn for a claim and has no receipt of it puts the signed claim on the ledger, with a fee. By the deadline,
moved once, the worker opens it with its receipt and is paid what that cost it; then the receipt can be disputed, or
proven wrong, like any other. Silence loses the leaf, which nothing pays any more, and a fixed penalty: no slash, since
it may only be offline, and no end of what a receipt that turns up later can prove. In mode `batch` verifiers are drawn
among opened leaves, so there is nothing to demand. Source: PROTOCOL, "Checking".
"""

from dataclasses import replace
from typing import Annotated

from protocol.codec import encode
from protocol.committee import draw_committee
from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import VERIFIERS_MIN, Claim, Mode, Receipt, compute_claim_id, compute_commitment
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import LimitReached
from protocol.ledger.fees import count_units
from protocol.ledger.flows import Party, Source
from protocol.ledger.job_errors import AlreadyDemanded, InvalidDemand, UnknownDemand
from protocol.ledger.job_records import Demand
from protocol.ledger.pools import pay_rewards
from protocol.ledger.records import DueItem
from protocol.ledger.settlement import get_snapshot
from protocol.ledger.transactions import transaction
from protocol.types import AtMost, Digest

DEMAND_KIND = 45
FORGET_KIND = 46
HEAD_BYTES = 192  # of a transaction around its body, about


@transaction(39)
@fast_dataclass(frozen=True)
class DemandOpening:
    """The sender's verifier was drawn for this claim and wants it opened."""

    claim: Claim


@transaction(52)
@fast_dataclass(frozen=True)
class OpenClaim:
    """The worker's receipt of a claim that was demanded."""

    claim_id: Digest
    receipt: Annotated[tuple[Receipt, ...], AtMost(1)]


def apply_demand_opening(draft: Draft, context: TransactionContext, body: DemandOpening) -> None:
    """Begin a demand; its key is the claim's id."""
    claim, params = body.claim, draft.params
    claim_id = compute_claim_id(claim)
    if draft.demands.get(claim_id) is not None:
        raise AlreadyDemanded(claim_id)
    if len(draft.demands) >= params.demands_max:
        raise LimitReached("demands", len(draft.demands), params.demands_max)
    latest_ms = claim.deadline_ms + params.challenge_ms
    if not claim.deadline_ms <= draft.time_ms <= latest_ms:
        raise InvalidDemand(claim_id, f"it can be demanded from {claim.deadline_ms} to {latest_ms}")
    channel = draft.channels.get(claim.channel)
    if channel is not None and channel.mode != Mode.INDIVIDUAL:
        raise InvalidDemand(claim_id, f"its channel settles in mode {channel.mode!r}, where drawn leaves are opened")
    if channel is not None and claim.seq <= channel.settled_seq:
        raise InvalidDemand(claim_id, f"voucher {claim.seq} has been settled: what pays it has opened it")
    if not VERIFIERS_MIN <= claim.verifiers <= params.verifiers_max:
        raise InvalidDemand(claim_id, f"{claim.verifiers} verifiers can not be drawn")
    snapshot = get_snapshot(draft, claim.epoch)
    worker = snapshot.find_candidate(claim.worker)
    if worker is None or not worker.serves(claim.model):
        raise InvalidDemand(claim_id, f"its worker did not serve the model in epoch {claim.epoch}")
    committee = draw_committee(snapshot, claim.request_id, claim.worker, claim.verifiers)
    if all(item.node not in committee for item in snapshot.candidates if item.account == context.account):
        raise InvalidDemand(claim_id, "a verifier that was drawn for it can demand it")
    context.verify_signed(claim, claim.worker)
    draft.debit(context.account, params.answer_fee)
    demand = Demand(claim, worker.account, context.account, params.answer_fee, draft.time_ms + params.demand_ms)
    draft.demands.put(claim_id, demand)
    draft.plan(DueItem(demand.deadline_ms, DEMAND_KIND, claim_id, waking=1, graced=0))


def apply_open_claim(draft: Draft, context: TransactionContext, body: OpenClaim) -> None:
    """The worker opens, and is paid what it cost. The receipt stands in the state for as long as it can be disputed."""
    demand = draft.demands.get(body.claim_id)
    if demand is None or not demand.is_open:
        raise UnknownDemand(body.claim_id)
    if demand.worker != context.account:
        raise InvalidDemand(body.claim_id, "its worker opens it")
    if len(body.receipt) != 1 or body.receipt[0].claim != demand.claim:
        raise InvalidDemand(body.claim_id, "its receipt opens it")
    receipt = body.receipt[0]
    if compute_commitment(receipt.salt, receipt.output_digest) != demand.claim.commitment:
        raise InvalidDemand(body.claim_id, "the receipt does not open the claim")
    cost = min(demand.fee, draft.base_fee * count_units(len(encode(body)) + HEAD_BYTES))
    draft.earn(Source.ANSWER, Party.INFERENCE, demand.worker, cost)
    draft.credit(demand.verifier, demand.fee - cost)
    draft.demands.put(body.claim_id, replace(demand, fee=0, receipt=body.receipt))
    draft.call_off(DEMAND_KIND, body.claim_id)
    until_ms = draft.time_ms + draft.params.challenge_ms
    draft.plan(DueItem(until_ms, FORGET_KIND, body.claim_id, waking=0, graced=0))


def close_demand(draft: Draft, item: DueItem) -> None:
    """Due: the worker has been silent. It loses the leaf and the penalty; the fee goes back."""
    demand = draft.demands.get(item.id)
    if demand is None or not demand.is_open:
        return
    draft.credit(demand.verifier, demand.fee)
    node = draft.nodes.get(demand.worker)
    penalty = min(draft.params.demand_penalty, node.bond if node is not None else 0)
    if node is not None and penalty:
        pay_rewards(draft, demand.worker)
        draft.nodes.put(demand.worker, replace(node, bond=node.bond - penalty))
        draft.burn(Source.STAKE, penalty)
    draft.count_work(demand.worker, void=1, lost=penalty)
    draft.demands.put(item.id, replace(demand, fee=0, is_forfeit=1))
    # Nothing pays the claim any more while its epoch is known, and after that nothing could.
    kept_ms = draft.params.epochs_kept * draft.params.epoch_ms
    draft.plan(DueItem(draft.time_ms + 2 * kept_ms, FORGET_KIND, item.id, waking=0, graced=0))


def forget_demand(draft: Draft, item: DueItem) -> None:
    """Due: nobody can ask about the claim any more."""
    draft.demands.delete(item.id)
