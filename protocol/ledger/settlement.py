"""Settlement in mode `individual`: every leaf carries all that shows it, and all of it is checked here.

A leaf earns only if the voucher covers it, the worker has signed the claim, the claim opens to the digest, and every
drawn verifier has attested that digest. Source: PROTOCOL, "Paying".
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from protocol.codec import decode
from protocol.committee import draw_committee
from protocol.content import format_cid
from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import (
    VERIFIERS_MIN,
    Attestation,
    Claim,
    Mode,
    compute_claim_id,
    compute_commitment,
)
from protocol.keys import format_node
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import AlreadyProven, UnknownEpoch, UnknownNode
from protocol.ledger.job_errors import (
    ExpiredVoucher,
    InvalidLeaf,
    InvalidMode,
    NotYourChannel,
    SequenceMismatch,
    UnknownChannel,
    VoucherExceeded,
)
from protocol.ledger.job_records import Channel, Pending, Share
from protocol.ledger.money import split_inference_fee, tell_inference_split
from protocol.ledger.records import DueItem, EpochSnapshot, NodeRecord
from protocol.ledger.state import State
from protocol.ledger.transactions import (
    ChannelRun,
    Leaf,
    SettleIndividual,
    Transaction,
    Work,
    ZeroReason,
    compute_transaction_id,
    get_transaction_kind,
)
from protocol.proofs.bounds import is_agreed
from protocol.tensor import Tensor, compute_tensors_digest

PAYOUT_KIND = 2
LOST = "its worker did not open it when that was demanded"
_ZERO_REASONS = frozenset(int(reason) for reason in ZeroReason)


@dataclass
class _Settlement:
    """One settlement under way, and what its leaves add up to so far."""

    draft: Draft
    context: TransactionContext
    node: NodeRecord
    shares: Counter[bytes] = field(default_factory=Counter)
    agreed: Counter[bytes] = field(default_factory=Counter)  # leaves, by verifier
    checked: Counter[bytes] = field(default_factory=Counter)  # what they burn, a part for each verifier
    treasury: int = 0
    burn: int = 0
    paid: int = 0
    void: int = 0
    fees: int = 0


@fast_dataclass(frozen=True)
class SettledLeaf:
    """How the voucher (channel, seq) ended on the ledger. `claim_id` is empty and `amount` 0 for a zero leaf."""

    channel: bytes
    seq: int
    height: int
    transaction_id: bytes
    reason: int
    amount: int
    claim_id: bytes


def apply_settle_individual(draft: Draft, context: TransactionContext, body: SettleIndividual) -> None:
    """Settle every leaf of every run, or nothing. Earnings wait in `pending` until the window is over."""
    node = draft.nodes.get(context.account)
    if node is None:
        raise UnknownNode(context.account)
    if not body.runs or not all(run.leaves for run in body.runs):
        raise InvalidLeaf(0, "a settlement or a run without leaves")
    settlement = _Settlement(draft, context, node)
    for run in body.runs:
        _settle_run(settlement, run)
    done = {"paid": settlement.paid, "void": settlement.void, "earned": settlement.fees, "burnt": settlement.burn}
    draft.count_work(context.account, **done)
    for account in sorted(settlement.agreed):
        draft.count_work(account, agreed=settlement.agreed[account], burnt=settlement.checked[account])
    if settlement.fees:
        shares = tuple(Share(account, amount) for account, amount in sorted(settlement.shares.items()) if amount)
        draft.pending.put(context.id, Pending(shares, settlement.treasury, settlement.burn))
        draft.plan(DueItem(draft.time_ms + draft.params.settle_window_ms, PAYOUT_KIND, context.id, waking=1, graced=0))


class RunTrial:
    """Leaves of one channel, tried one after the other as a block of `time_ms` or later would settle them.

    `channel` is the channel so far, in the state or with what is on its way to it. Signatures are not checked.
    UnknownNode for a payee without a node.
    """

    def __init__(self, state: State, key: bytes, channel: Channel, time_ms: int) -> None:
        self._key = key
        self.channel = channel
        node = state.nodes.get(channel.payee)
        if node is None:
            raise UnknownNode(channel.payee)
        draft = Draft(state, state.height + 1, max(time_ms, state.time_ms + 1))
        context = TransactionContext(channel.payee, bytes(32), check_signatures=False)
        self._settlement = _Settlement(draft, context, node)

    def add(self, seq: int, leaf: Leaf) -> None:
        """InvalidTransaction for a leaf that no settlement with those before it will ever hold; it is left out then."""
        self.channel = _settle_leaf(self._settlement, self.channel, self._key, seq, leaf)


def pay_out(draft: Draft, item: DueItem) -> None:
    """Due: what a settlement earned reaches its accounts, the treasury and the fire."""
    entry = draft.pending.get(item.id)
    if entry is None:
        return
    draft.pending.delete(item.id)
    for share in entry.shares:
        draft.credit(share.account, share.amount)
    draft.treasury += entry.treasury
    draft.burned += entry.burn


def collect_leaves(transactions: Iterable[Transaction], height: int) -> list[SettledLeaf]:
    """Every leaf the transactions of a decided block have settled."""
    leaves: list[SettledLeaf] = []
    for transaction in transactions:
        if transaction.kind != get_transaction_kind(SettleIndividual):
            continue
        transaction_id = compute_transaction_id(transaction)
        for run in decode(SettleIndividual, transaction.body).runs:
            for seq, leaf in enumerate(run.leaves, run.seq_first):
                amount = leaf.work[0].voucher.amount if leaf.work else 0
                claim_id = compute_claim_id(leaf.work[0].claim) if leaf.work else b""
                leaves.append(SettledLeaf(run.channel, seq, height, transaction_id, leaf.reason, amount, claim_id))
    return leaves


def _settle_run(settlement: _Settlement, run: ChannelRun) -> None:
    draft = settlement.draft
    channel = draft.channels.get(run.channel)
    if channel is None:
        raise UnknownChannel(run.channel)
    if channel.payee != settlement.context.account:
        raise NotYourChannel(run.channel, settlement.context.account)
    if channel.mode != Mode.INDIVIDUAL:
        raise InvalidMode(channel.mode)
    if run.seq_first != channel.settled_seq + 1:
        raise SequenceMismatch(channel.settled_seq + 1, run.seq_first)
    for seq, leaf in enumerate(run.leaves, run.seq_first):
        channel = _settle_leaf(settlement, channel, run.channel, seq, leaf)
    draft.channels.put(run.channel, channel)


def _settle_leaf(settlement: _Settlement, channel: Channel, key: bytes, seq: int, leaf: Leaf) -> Channel:
    """The channel after one more leaf."""
    paid, cumulative = channel.paid, channel.cumulative
    if leaf.work and not leaf.reason:
        work = leaf.work[0]
        if (work.voucher.channel, work.voucher.seq) != (key, seq):
            number, other = work.voucher.seq, work.voucher.channel.hex()
            raise InvalidLeaf(seq, f"its voucher is number {number} of channel {other}")
        _verify_work(settlement, channel, work)
        _divide(settlement, work)
        paid += work.voucher.amount
        cumulative = max(cumulative, work.voucher.cumulative)
    elif leaf.reason in _ZERO_REASONS and not leaf.work:
        settlement.void += 1
    else:
        raise InvalidLeaf(seq, f"reason {leaf.reason} with {len(leaf.work)} works")
    return replace(channel, paid=paid, cumulative=cumulative, settled_seq=seq)


def _verify_work(settlement: _Settlement, channel: Channel, work: Work) -> None:
    """Everything about one leaf that its channel's state does not number; cheap things first."""
    draft, context, node = settlement.draft, settlement.context, settlement.node
    voucher, claim = work.voucher, work.claim
    if voucher.expiry_ms < draft.time_ms:
        raise ExpiredVoucher(voucher.expiry_ms, draft.time_ms)
    paid = channel.paid + voucher.amount
    if paid > voucher.cumulative:
        raise VoucherExceeded("voucher", voucher.cumulative, paid)
    if paid > channel.deposit:
        raise VoucherExceeded("deposit", channel.deposit, paid)
    promised = (voucher.channel, voucher.seq, voucher.request_id, voucher.attempt, voucher.amount)
    if (claim.channel, claim.seq, claim.request_id, claim.attempt, claim.fee) != promised:
        raise InvalidLeaf(voucher.seq, "claim and voucher are not of the same job")
    owner = draft.node_owners.get(claim.worker)  # maybe of a key the node had when it did the work
    if owner is None or owner.account != node.account:
        reason = f"the claim is of node {format_node(claim.worker)}, the account's is {format_node(node.node)}"
        raise InvalidLeaf(voucher.seq, reason)
    if compute_commitment(work.salt, work.output_digest) != claim.commitment:
        raise InvalidLeaf(voucher.seq, "salt and digest do not open the claim")
    claim_id = compute_claim_id(claim)
    if draft.wrong.get(claim_id) is not None:
        raise AlreadyProven(claim_id)
    if is_lost(draft, claim_id):
        raise InvalidLeaf(voucher.seq, LOST)
    fault = find_fault(draft, context, claim, claim_id, work.attestations, work.output_digest, work.outputs)
    if fault:
        raise InvalidLeaf(voucher.seq, fault)
    context.verify_signed(voucher, channel.payer)
    context.verify_signed(claim, claim.worker)


def _divide(settlement: _Settlement, work: Work) -> None:
    draft = settlement.draft
    snapshot = get_snapshot(draft, work.claim.epoch)
    amount = work.voucher.amount
    share, each, treasury, burn = split_inference_fee(amount, len(work.attestations), draft.params)
    settlement.shares[settlement.context.account] += share
    verifiers = [snapshot.by_node[item.verifier].account for item in work.attestations]
    for account in verifiers:
        settlement.shares[account] += each
        settlement.agreed[account] += 1
        settlement.checked[account] += burn // len(verifiers)
    tell_inference_split(draft, amount, work.claim.model, settlement.context.account, verifiers)
    settlement.treasury += treasury
    settlement.burn += burn
    settlement.fees += amount
    settlement.paid += 1


def find_fault(
    draft: Draft,
    context: TransactionContext,
    claim: Claim,
    claim_id: bytes,
    attestations: tuple[Attestation, ...],
    output_digest: bytes,
    outputs: tuple[Tensor, ...] = (),
) -> str:
    """Why a claim does not count as attested with this digest by everyone drawn for it; empty when it does."""
    fault = find_committee_fault(draft, claim, attestations)
    if fault:
        return fault
    if bool(outputs) != any(item.shown for item in attestations):
        return "the worker's outputs stand beside those that attestations show, and nowhere else"
    if outputs and compute_tensors_digest(outputs) != output_digest:
        return "the outputs do not have this digest"
    model = draft.models.get(claim.model)
    for item in attestations:
        if item.claim_id != claim_id or not is_agreed(model, item, output_digest, outputs):
            return f"the attestation of {format_node(item.verifier)} does not open to this digest"
        context.verify_signed(item, item.verifier)
    return ""


def find_committee_fault(draft: Draft, claim: Claim, attestations: tuple[Attestation, ...]) -> str:
    """Why attestations are not by everyone drawn for a claim, in order; empty when they are, whatever they say."""
    if not VERIFIERS_MIN <= claim.verifiers <= draft.params.verifiers_max:
        return f"{claim.verifiers} verifiers; the policy wants {VERIFIERS_MIN} to {draft.params.verifiers_max}"
    snapshot = get_snapshot(draft, claim.epoch)
    worker = snapshot.find_candidate(claim.worker)
    if worker is None or not worker.serves(claim.model):
        return f"node {format_node(claim.worker)} did not serve model {format_cid(claim.model)} in epoch {claim.epoch}"
    committee = draw_committee(snapshot, claim.request_id, claim.worker, claim.verifiers)
    if tuple(item.verifier for item in attestations) != committee:
        return f"attested by {len(attestations)}, and not by exactly the {len(committee)} that were drawn, in order"
    return ""


def is_lost(draft: Draft, claim_id: bytes) -> bool:
    """Whether the worker did not open a claim that was demanded (`demands`): nothing pays it any more."""
    demand = draft.demands.get(claim_id)
    return demand is not None and bool(demand.is_forfeit)


def get_snapshot(draft: Draft, epoch: int) -> EpochSnapshot:
    snapshot = draft.epochs.get(epoch)
    if snapshot is None:
        kept = [number for number, _ in draft.epochs.items()]
        raise UnknownEpoch(epoch, kept[0], kept[-1])
    return snapshot
