"""Stake behind nodes: bond it, delegate it, take it back after a delay, lose it to a slash.

Stake on its way back answers for its node until it matures, and that takes longer than evidence is accepted.
"""

from dataclasses import replace

from protocol.keys import format_account
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.epochs import VALIDATOR, wake_epoch_end
from protocol.ledger.errors import InsufficientBond, InvalidAmount, InvalidNode, LimitReached, UnknownNode
from protocol.ledger.flows import Party, Source
from protocol.ledger.pools import DELEGATIONS_MAX, change_delegation, compute_delegation_key, pay_rewards
from protocol.ledger.records import DueItem, NodeRecord, Unbonding
from protocol.ledger.transactions import Delegate, Stake, Undelegate, Unstake
from protocol.types import BP

UNBOND_KIND = 4


def apply_stake(draft: Draft, context: TransactionContext, body: Stake) -> None:
    node = _get_node(draft, context.account)
    if not body.amount:
        raise InvalidAmount("a stake", body.amount, 1)
    draft.debit(context.account, body.amount)
    _set_bond(draft, node, node.bond + body.amount)
    wake_epoch_end(draft)


def apply_unstake(draft: Draft, context: TransactionContext, body: Unstake) -> None:
    """Move bond to unbonding. It can be slashed until it matures."""
    node = _get_node(draft, context.account)
    if not body.amount:
        raise InvalidAmount("an unstake", body.amount, 1)
    if body.amount > node.bond:
        raise InsufficientBond(node.bond, body.amount)
    if VALIDATOR in node.roles:
        verify_not_the_last(draft, node, node.bond - body.amount)
    _begin_unbonding(draft, context, context.account, body.amount)
    _set_bond(draft, node, node.bond - body.amount)


def apply_delegate(draft: Draft, context: TransactionContext, body: Delegate) -> None:
    """Put stake behind a validator. It counts from the next epoch on."""
    node = _get_node(draft, body.validator)
    if VALIDATOR not in node.roles or body.validator == context.account:
        raise InvalidNode(f"{format_account(body.validator)} is no validator of another account")
    known = draft.delegations.get(compute_delegation_key(body.validator, context.account))
    pool = draft.pools.get(body.validator)
    if known is None and pool is not None and pool.delegators >= DELEGATIONS_MAX:
        raise LimitReached("delegations to this validator", pool.delegators, DELEGATIONS_MAX)
    amount = body.amount + (known.amount if known is not None else 0)
    if not body.amount or amount < draft.params.delegation_min:
        raise InvalidAmount("a delegation", amount if body.amount else 0, max(draft.params.delegation_min, 1))
    draft.debit(context.account, body.amount)
    change_delegation(draft, body.validator, context.account, amount)
    wake_epoch_end(draft)


def apply_undelegate(draft: Draft, context: TransactionContext, body: Undelegate) -> None:
    """Take stake back from a validator, all of it or down to the least there may be."""
    known = draft.delegations.get(compute_delegation_key(body.validator, context.account))
    have = known.amount if known is not None else 0
    if not body.amount:
        raise InvalidAmount("an undelegation", body.amount, 1)
    if body.amount > have:
        raise InsufficientBond(have, body.amount)
    left = have - body.amount
    if 0 < left < draft.params.delegation_min:
        raise InvalidAmount("what stays delegated", left, draft.params.delegation_min)
    _begin_unbonding(draft, context, body.validator, body.amount)
    change_delegation(draft, body.validator, context.account, left)


def verify_not_the_last(draft: Draft, node: NodeRecord, bond: int) -> None:
    """A chain without validators could never mend itself."""
    need = draft.params.get_bond_min(VALIDATOR)
    others = (item for account, item in draft.nodes.items() if account != node.account)
    if bond < need and not any(VALIDATOR in item.roles and item.bond >= need for item in others):
        raise InvalidNode(f"the last validator keeps {need} grains bonded")


def mature_unbonding(draft: Draft, item: DueItem) -> None:
    """Due: pay out what is left of an unbonding."""
    entry = draft.unbonding.get(item.id)
    if entry is None:
        return
    answers_until_ms = max(
        _compute_answers_until(draft, entry.validator, entry.epoch), _find_open_until(draft, entry.validator)
    )
    if draft.time_ms < answers_until_ms:
        draft.plan(replace(item, time_ms=answers_until_ms))
        return
    draft.unbonding.delete(item.id)
    draft.credit(entry.account, entry.amount)


def slash(draft: Draft, account: bytes, reporter: bytes, share_bp: int) -> int:
    """Take a share of all stake behind an account, bonded, delegated and unbonding; the amount, in grains.

    Each record loses the same share, rounded up, so that none is too small to lose. The reporter gets its part unless
    it is the accused or has stake behind it; the rest, at least half, burns.
    """
    params = draft.params
    pay_rewards(draft, account)
    is_involved = reporter == account
    taken = 0
    node = draft.nodes.get(account)
    if node is not None:
        part = _compute_part(node.bond, share_bp)
        draft.nodes.put(account, replace(node, bond=node.bond - part))
        taken += part
    for _, record in list(draft.delegations.items_under(account)):
        part = _compute_part(record.amount, share_bp)
        change_delegation(draft, account, record.delegator, record.amount - part)
        taken += part
        is_involved |= record.delegator == reporter
    for key, entry in list(draft.unbonding.items()):
        if entry.validator == account:
            part = _compute_part(entry.amount, share_bp)
            draft.unbonding.put(key, replace(entry, amount=entry.amount - part))
            taken += part
            is_involved |= entry.account == reporter
    reward = 0 if is_involved else taken * params.reporter_bp // BP
    draft.earn(Source.STAKE, Party.REPORTER, reporter, reward)
    draft.burn(Source.STAKE, taken - reward)
    return taken


def take_penalty(draft: Draft, account: bytes, amount: int) -> int:
    """Burn so much of an account's own stake, bonded first and then on its way back, or all there is; what it was."""
    pay_rewards(draft, account)
    node = draft.nodes.get(account)
    left = amount
    if node is not None:
        part = min(node.bond, left)
        draft.nodes.put(account, replace(node, bond=node.bond - part))
        left -= part
    for key, entry in list(draft.unbonding.items()):
        if entry.account == entry.validator == account and left:
            part = min(entry.amount, left)
            draft.unbonding.put(key, replace(entry, amount=entry.amount - part))
            left -= part
    draft.burn(Source.STAKE, amount - left)
    return amount - left


def _compute_answers_until(draft: Draft, account: bytes, epoch: int) -> int:
    """Until when an account answers for its votes as a validator of an epoch; 0 when it does no more or never did.

    They decide one block more after a sleep, however long it was, and evidence counts from that block on.
    """
    snapshot = draft.epochs.get(epoch)
    if snapshot is None or all(item.account != account for item in snapshot.get_candidates(VALIDATOR)):
        return 0
    follower = next((number for number, _ in draft.epochs.items() if number > epoch), None)
    params = draft.params
    if follower is None:
        return draft.time_ms + params.epoch_ms * (params.evidence_epochs + 2)
    return draft.base.genesis_ms + params.epoch_ms * (follower + params.evidence_epochs + 1)


def _find_open_until(draft: Draft, account: bytes) -> int:
    """Until when stake is kept that answers for a worker's disputes and batches, for a while more at a time."""
    is_disputed = any(dispute.worker == account for _, dispute in draft.disputes.items())
    is_open = is_disputed or any(batch.worker == account for _, batch in draft.batches.items())
    return draft.time_ms + max(draft.params.grace_ms, 1) if is_open else 0


def _compute_part(amount: int, share_bp: int) -> int:
    return -(-amount * share_bp // BP)


def _get_node(draft: Draft, account: bytes) -> NodeRecord:
    node = draft.nodes.get(account)
    if node is None:
        raise UnknownNode(account)
    return node


def _set_bond(draft: Draft, node: NodeRecord, bond: int) -> None:
    pay_rewards(draft, node.account)
    draft.nodes.put(node.account, replace(node, bond=bond))


def _begin_unbonding(draft: Draft, context: TransactionContext, validator: bytes, amount: int) -> None:
    under_way = sum(entry.account == context.account for _, entry in draft.unbonding.items())
    if under_way >= draft.params.unbondings_max:
        raise LimitReached("unbondings of this account", under_way, draft.params.unbondings_max)
    draft.unbonding.put(context.id, Unbonding(context.account, validator, amount, draft.epoch))
    draft.plan(DueItem(draft.time_ms + draft.params.unbonding_ms, UNBOND_KIND, context.id, waking=0, graced=0))
