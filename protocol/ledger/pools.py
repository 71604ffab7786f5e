"""What delegators put behind a validator, and what it earns for them. Shares are whole records, never share arithmetic.

Rewards gather in the validator's pool and are paid out before any stake behind it changes, and at every epoch's end,
pro rata to each record as it then stands; what rounding leaves burns. So a block pays its builder with one write,
however many delegators it has.
"""

from dataclasses import replace

from protocol.ledger.draft import Draft
from protocol.ledger.flows import Source
from protocol.ledger.records import Delegation, Pool

DELEGATIONS_MAX = 256  # of one validator


def compute_delegation_key(validator: bytes, delegator: bytes) -> bytes:
    return validator + delegator


def reward_builder(draft: Draft, builder: bytes, amount: int) -> None:
    """A builder's share of its block's fees: its own, or its pool's when others have stake behind it."""
    pool = draft.pools.get(builder)
    if pool is None:
        draft.credit(builder, amount)
    elif amount:
        draft.pools.put(builder, replace(pool, rewards=pool.rewards + amount))


def pay_rewards(draft: Draft, validator: bytes) -> None:
    """Empty the rewards of a pool to the validator and its delegators."""
    pool = draft.pools.get(validator)
    if pool is None or not pool.rewards:
        return
    node = draft.nodes.get(validator)
    stakes = {validator: node.bond if node is not None else 0}
    stakes |= {item.delegator: item.amount for _, item in draft.delegations.items_under(validator)}
    total = max(sum(stakes.values()), 1)
    left = pool.rewards
    for account, stake in stakes.items():
        share = pool.rewards * stake // total
        draft.credit(account, share)
        left -= share
    draft.burn(Source.REWARD, left)
    draft.pools.put(validator, replace(pool, rewards=0))


def pay_all_rewards(draft: Draft) -> None:
    """An epoch ends."""
    for validator, _ in list(draft.pools.items()):
        pay_rewards(draft, validator)


def change_delegation(draft: Draft, validator: bytes, delegator: bytes, amount: int) -> None:
    """Set one record, at 0 take it away, and keep the pool's sums. Rewards so far are paid by what was before."""
    pay_rewards(draft, validator)
    key = compute_delegation_key(validator, delegator)
    known, pool = draft.delegations.get(key), draft.pools.get(validator) or Pool(0, 0, 0)
    before = known.amount if known is not None else 0
    delegators = pool.delegators + (amount > 0) - (known is not None)
    if amount:
        draft.delegations.put(key, Delegation(validator, delegator, amount))
    else:
        draft.delegations.delete(key)
    if delegators:
        draft.pools.put(validator, Pool(pool.delegated + amount - before, delegators, 0))
    else:
        draft.pools.delete(validator)
