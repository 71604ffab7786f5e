"""The audits of a lease: once a period every node in it shows pieces that nobody knew before, and is paid for it.

An audit begins with a block: the seed the block before it left draws the pieces, others for each node. Whoever accepted
in that very block is first asked in the next period, as its builder knew the seed. Until the deadline, moved once, a
node answers with the pieces and their paths; a wrong answer is no valid transaction, so it is none. Silence burns some
of the node's stake, brings nothing for the period, and has another node drawn; more of it in a row loses the lease.
"""

from dataclasses import replace

from protocol.audit import Answer, draw_pieces, verify_answer
from protocol.errors import InvalidProof
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import InvalidLease, UnknownLease
from protocol.ledger.lease_places import KEEPING_PARTS, drop, fill, hear, hush, is_storing, put_replica
from protocol.ledger.lease_records import Lease, Replica
from protocol.ledger.leases import (
    AUDIT_KIND,
    compute_pay_max,
    compute_storage_pay,
    find_replica,
    is_running_out,
    pay_replica,
)
from protocol.ledger.params import Params
from protocol.ledger.records import DueItem
from protocol.ledger.staking import take_penalty
from protocol.ledger.transactions import transaction
from protocol.types import Digest

ANSWER_KIND = 61


@transaction(59)
@fast_dataclass(frozen=True)
class AnswerAudit:
    """The pieces that the audit under way draws for the sender, by their numbers."""

    lease: Digest
    answer: Answer


def get_drawn(key: bytes, lease: Lease, account: bytes) -> tuple[int, ...]:
    """The pieces the audit under way asks an account for."""
    return draw_pieces(lease.seed, key, account, lease.contents.pieces)


def compute_pay(lease: Lease, replica: Replica, params: Params) -> int:
    """What an answer to the audit under way brings: for the time since the last one, a period at most."""
    time_ms = min(lease.asked_ms - replica.since_ms, params.audit_ms)
    return compute_storage_pay(lease.contents.size_bytes, lease.price, time_ms) + params.audit_fee


def begin_audit(draft: Draft, item: DueItem) -> None:
    """Due: a period is over. Ask every node in the lease, and begin its next term if this was the last of one.

    A lease that no node is in is over: nobody could get the blob, or nobody is left that it could be had from.
    """
    lease = draft.leases.get(item.id)
    if lease is None:
        return
    if not lease.replicas:
        _end(draft, item.id, lease)
        return
    for replica in lease.replicas:
        if not is_storing(draft, replica.account, KEEPING_PARTS):
            lease = drop(draft, lease, replica)
        elif 0 < replica.height < draft.base.height:
            lease = put_replica(lease, replace(replica, is_asked=1))
    left = _count_left(lease, draft.params)
    fill(draft, item.id, replace(lease, seed=draft.base.seed, asked_ms=draft.time_ms, left=left, passed=()))
    draft.plan(DueItem(draft.time_ms + draft.params.audit_answer_ms, ANSWER_KIND, item.id, waking=1, graced=0))


def apply_answer_audit(draft: Draft, context: TransactionContext, body: AnswerAudit) -> None:
    """Pay for the period, once. InvalidLease unless the answer is what was drawn."""
    lease = draft.leases.get(body.lease)
    if lease is None:
        raise UnknownLease(body.lease)
    replica = find_replica(lease, context.account)
    if replica is None or not replica.is_asked:
        raise InvalidLease(body.lease, "no audit waits for the account's answer")
    try:
        verify_answer(lease.contents, get_drawn(body.lease, lease, context.account), body.answer)
    except InvalidProof as error:
        raise InvalidLease(body.lease, str(error)) from error
    balance = pay_replica(draft, lease, compute_pay(lease, replica, draft.params), context.account)
    shown = replace(replica, is_asked=0, misses=0, since_ms=lease.asked_ms)
    hear(draft, context.account)
    fill(draft, body.lease, replace(put_replica(lease, shown), balance=balance))


def end_audit(draft: Draft, item: DueItem) -> None:
    """Due: the time to answer is over. Whoever was silent pays; the lease goes on, or ends with its last term."""
    lease = draft.leases.get(item.id)
    if lease is None:
        return
    for replica in lease.replicas:
        if replica.is_asked:
            lease = _count_miss(draft, lease, replica)
    lease = replace(lease, seed=b"")
    if not lease.left:
        _end(draft, item.id, lease)
        return
    fill(draft, item.id, lease)
    next_ms = max(lease.asked_ms + draft.params.audit_ms, draft.time_ms + 1)
    draft.plan(DueItem(next_ms, AUDIT_KIND, item.id, waking=1, graced=0))


def _end(draft: Draft, key: bytes, lease: Lease) -> None:
    """What is left of the balance is the payer's again."""
    for replica in lease.replicas:
        lease = drop(draft, lease, replica)
    draft.leases.delete(key)
    draft.credit(lease.payer, lease.balance)


def _count_left(lease: Lease, params: Params) -> int:
    """The audits that follow the one that begins, those of a next term included if the balance covers it."""
    if lease.left > 1 or not lease.renews:
        return lease.left - 1
    return 0 if is_running_out(lease, params) else lease.periods


def _count_miss(draft: Draft, lease: Lease, replica: Replica) -> Lease:
    params = draft.params
    brought = compute_pay_max(lease.contents.size_bytes, lease.price, params)
    penalty = take_penalty(draft, replica.account, params.audit_penalty_times * brought)
    draft.count_work(replica.account, void=1, lost=penalty)
    hush(draft, replica.account)
    missed = replace(replica, is_asked=0, misses=replica.misses + 1, since_ms=lease.asked_ms)
    if missed.misses > params.audit_misses_max:
        return drop(draft, lease, missed)
    return put_replica(lease, missed)
