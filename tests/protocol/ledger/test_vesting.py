"""Vesting and the ecosystem's share: what genesis holds back, and when it comes free."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.ledger.apply import next_due_ms
from protocol.ledger.genesis import GenesisVesting, build_state
from protocol.ledger.records import Vesting
from protocol.ledger.state import State, compute_supply
from protocol.ledger.vesting import compute_vested
from tests.support.ledgers import GENESIS_MS, Ledger

HOLDER = b"\x09" * 32


def vest(ledger: Ledger, *entries: GenesisVesting, treasury: int = 0) -> State:
    genesis = replace(ledger.foundation.genesis, vesting=entries, treasury=treasury)
    return build_state(genesis)


def test_parts_come_free_from_the_cliff_on_and_wake_nobody() -> None:
    ledger = Ledger()
    ledger.state = vest(ledger, GenesisVesting(HOLDER, 1_000, cliff_ms=500, part_ms=100, parts=3))
    assert next_due_ms(ledger.state) is None
    balances = []
    for _ in range(8):
        ledger.block(after_ms=100)
        balances.append(ledger.state.get_balance(HOLDER))
    assert balances == [0, 0, 0, 0, 333, 666, 1_000, 1_000]
    assert not ledger.state.vesting


def test_parts_missed_asleep_come_as_one() -> None:
    ledger = Ledger()
    ledger.state = vest(ledger, GenesisVesting(HOLDER, 1_000, cliff_ms=500, part_ms=100, parts=5))
    ledger.block(after_ms=750)
    assert ledger.state.get_balance(HOLDER) == 600
    assert [item.time_ms for item in ledger.state.due.values() if item.id in ledger.state.vesting] == [GENESIS_MS + 800]
    ledger.block(after_ms=10**9)
    assert ledger.state.get_balance(HOLDER) == 1_000


def test_the_supply_is_what_is_allocated_vests_and_is_the_ecosystems() -> None:
    ledger = Ledger()
    bare = ledger.state.supply
    state = vest(ledger, GenesisVesting(HOLDER, 7, 0, 1, 1), GenesisVesting(HOLDER, 8, 0, 1, 1), treasury=100)
    assert state.supply == compute_supply(state) == bare + 115
    assert state.treasury == 100
    assert len(state.vesting) == 2


def test_what_vests_for_nobody_is_the_treasurys_and_only_votes_spend_it() -> None:
    ledger = Ledger()
    ledger.state = vest(ledger, GenesisVesting(b"", 1_000, cliff_ms=500, part_ms=100, parts=4), treasury=50)
    had = []
    for _ in range(9):
        ledger.block(after_ms=100)
        had.append(ledger.state.treasury)
    assert had == [50, 50, 50, 50, 300, 550, 800, 1_050, 1_050]
    assert b"" not in ledger.state.accounts
    assert not ledger.state.vesting


@settings(max_examples=60, deadline=None)
@given(
    amount=st.integers(1, 10**15),
    cliff_ms=st.integers(0, 5_000),
    part_ms=st.integers(1, 900),
    parts=st.integers(1, 12),
    waits=st.lists(st.integers(1, 4_000), min_size=1, max_size=12),
    holder=st.sampled_from((HOLDER, b"")),
)
def test_whatever_blocks_come_a_holder_has_what_is_vested_by_then_and_no_grain_more(
    amount: int, cliff_ms: int, part_ms: int, parts: int, waits: list[int], holder: bytes
) -> None:
    ledger = Ledger()
    ledger.state = vest(ledger, GenesisVesting(holder, amount, cliff_ms, part_ms, parts))
    whole = Vesting(holder, amount, 0, GENESIS_MS + cliff_ms, part_ms, parts)
    for after_ms in waits:
        ledger.block(after_ms=after_ms)
        passed_ms = ledger.state.time_ms - GENESIS_MS - cliff_ms
        due = 0 if passed_ms < 0 else amount * min(1 + passed_ms // part_ms, parts) // parts
        got = ledger.state.get_balance(HOLDER) if holder else ledger.state.treasury
        assert got == due == compute_vested(whole, ledger.state.time_ms)
        assert (due == amount) == (not ledger.state.vesting)
