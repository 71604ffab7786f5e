"""Vesting: what genesis promises an account or the treasury, released in equal parts from a cliff on.

What a vote grants vests under the proposal's id, so whatever leaves the treasury names its vote.
"""

from dataclasses import replace

from protocol.ledger.draft import Draft
from protocol.ledger.flows import Party, Source
from protocol.ledger.records import DueItem, Vesting

VEST_KIND = 5


def compute_vested(entry: Vesting, time_ms: int) -> int:
    """What is free by this time, whether it has been released or not.

    >>> compute_vested(Vesting(bytes(32), 1_000, 0, cliff_ms=50, part_ms=10, parts=3), 60)
    666
    """
    if time_ms < entry.cliff_ms:
        return 0
    parts = 1 + (time_ms - entry.cliff_ms) // entry.part_ms
    return entry.amount * min(parts, entry.parts) // entry.parts


def release(draft: Draft, item: DueItem) -> None:
    """Due: what is vested by now goes where it was promised."""
    entry = draft.vesting.get(item.id)
    if entry is None:
        return
    vested = compute_vested(entry, draft.time_ms)
    _pay(draft, item.id, entry.account, vested - entry.released)
    if vested == entry.amount:
        draft.vesting.delete(item.id)
        return
    left = replace(entry, released=vested)
    draft.vesting.put(item.id, left)
    parts = 1 + (draft.time_ms - entry.cliff_ms) // entry.part_ms
    draft.plan(DueItem(entry.cliff_ms + parts * entry.part_ms, VEST_KIND, item.id, waking=0, graced=0))


def _pay(draft: Draft, key: bytes, account: bytes, amount: int) -> None:
    if not account:
        draft.fund(Source.GENESIS, amount)
    elif draft.proposals.get(key) is None:
        draft.earn(Source.GENESIS, Party.HOLDER, account, amount)
    else:
        draft.earn(Source.GRANT, Party.GRANTEE, account, amount, key)
