"""Nobody's transaction reaches the treasury or what genesis has allocated, whatever its kind and whoever signs it.

Signatures inside of what is sent are not checked here, so nobody lacks a key for anything.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.ledger.genesis import GenesisVesting
from protocol.ledger.governance_records import Motion, TreasuryGrant
from protocol.ledger.transactions import Transfer, all_transactions
from tests.support.examples import scale
from tests.support.from_types import values_of
from tests.support.governance import Assembly

HOLDER = b"\x0b" * 32
VESTING = (
    GenesisVesting(b"", 3_001, cliff_ms=10**9, part_ms=10**6, parts=3),
    GenesisVesting(HOLDER, 1_001, cliff_ms=10**9, part_ms=10**6, parts=5),
)
SENDERS = ("validator-0", "validator-1", "inference-0", "client-0")
OURS = [body for _, body in all_transactions() if body.__module__.startswith("protocol.")]
NET = Assembly(vesting=VESTING)
VOTED_ON = NET.propose(Motion(grant=(TreasuryGrant(HOLDER, 1_000),)))
STATE = NET.ledger.state
KEYS = (
    bytes(32),
    HOLDER,
    VOTED_ON,
    *STATE.vesting,
    *(NET.account(name).public for name in SENDERS),
    *(NET.ledger.node(name).public for name in SENDERS),
)


def aim(value: Any, draw: st.DrawFn) -> Any:
    """The value with keys that the ledger knows in place of some of those in it: chance alone would find none."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{item.name: aim(getattr(value, item.name), draw) for item in fields(value)})
    if isinstance(value, tuple):
        return tuple(aim(item, draw) for item in value)
    if isinstance(value, bytes) and len(value) == len(HOLDER):
        return draw(st.sampled_from((value, *KEYS)))
    return value


@st.composite
def bodies(draw: st.DrawFn, kind: type) -> Any:
    return aim(draw(values_of(kind)), draw)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_no_transaction_takes_from_the_treasury_or_from_what_vests(kind: type) -> None:
    @settings(max_examples=scale(6), deadline=None)
    @given(body=bodies(kind), sender=st.sampled_from(SENDERS))
    def holds(body: Any, sender: str) -> None:
        ledger = NET.ledger
        ledger.state = STATE
        ledger.block(ledger.sign(NET.account(sender), body))  # which holds what was paid against what it says
        assert ledger.state.treasury >= STATE.treasury
        assert dict(ledger.state.vesting) == dict(STATE.vesting)
        if kind is not Transfer:
            assert not ledger.state.get_balance(HOLDER)

    holds()


def test_asking_for_a_grant_is_not_having_it() -> None:
    assert STATE.proposals[VOTED_ON].motion.grant
    ledger = NET.ledger
    ledger.state = STATE
    for _ in range(3):
        ledger.block(after_ms=60_000)  # nobody votes
    assert ledger.state.treasury >= STATE.treasury
    assert not ledger.state.get_balance(HOLDER)
