"""Delegations and slashes: what stands behind a validator, what it earns, what it loses."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.keys import PrivateKey
from protocol.ledger.block import VOTES_MAX, get_validators
from protocol.ledger.draft import Draft
from protocol.ledger.errors import InsufficientBond, InvalidAmount, InvalidNode, LimitReached, UnknownNode
from protocol.ledger.fees import divide_fees
from protocol.ledger.params import Params, verify_params
from protocol.ledger.pools import DELEGATIONS_MAX, change_delegation, compute_delegation_key, pay_rewards
from protocol.ledger.records import Pool
from protocol.ledger.staking import slash
from protocol.ledger.state import State, compute_supply
from protocol.ledger.transactions import Delegate, Stake, Undelegate, Unstake
from tests.support.ledgers import Ledger

PARAMS = Params()
LEAST = PARAMS.delegation_min
BOND = PARAMS.get_bond_min("validator")
TWELVE = Ledger({"validator": 12}).state


def test_a_delegation_weighs_from_the_next_epoch_on_and_no_sooner() -> None:
    ledger = Ledger({"validator": 2})
    validator, delegator = ledger.account("validator-0").public, ledger.spare()
    ledger.do(delegator, Delegate(validator, 3 * LEAST))
    ledger.do(delegator, Delegate(validator, 1))
    assert ledger.state.pools[validator] == Pool(3 * LEAST + 1, 1, ledger.state.pools[validator].rewards)
    assert _weigh(ledger.state, validator) == BOND
    ledger.block(after_ms=PARAMS.epoch_ms)
    assert _weigh(ledger.state, validator) == BOND + 3 * LEAST + 1
    ledger.do(delegator, Undelegate(validator, 3 * LEAST + 1))
    assert not ledger.state.delegations
    assert _weigh(ledger.state, validator) == BOND + 3 * LEAST + 1
    ledger.block(after_ms=PARAMS.epoch_ms)
    assert _weigh(ledger.state, validator) == BOND


def test_what_is_delegated_does_not_help_a_node_to_be_drawn_in_other_roles() -> None:
    ledger = Ledger({"validator": 2})
    validator = ledger.account("validator-0").public
    ledger.do(ledger.spare(), Delegate(validator, LEAST))
    ledger.block(after_ms=PARAMS.epoch_ms)
    candidate = next(item for item in ledger.state.epochs[1].candidates if item.account == validator)
    assert (candidate.weight, candidate.delegated) == (BOND, LEAST)


def test_a_delegation_follows_its_rules() -> None:
    ledger = Ledger()
    validator, delegator = ledger.account("validator-0"), ledger.spare()
    low = ledger.refuse(delegator, Delegate(validator.public, LEAST - 1))
    assert isinstance(low, InvalidAmount)
    assert (low.amount, low.need) == (LEAST - 1, LEAST)
    assert isinstance(ledger.refuse(validator, Delegate(validator.public, LEAST)), InvalidNode)
    assert isinstance(ledger.refuse(delegator, Delegate(ledger.account("inference-0").public, LEAST)), InvalidNode)
    assert isinstance(ledger.refuse(delegator, Delegate(bytes(32), LEAST)), UnknownNode)
    none = ledger.refuse(delegator, Undelegate(validator.public, 1))
    assert isinstance(none, InsufficientBond)
    assert (none.have, none.need) == (0, 1)
    ledger.do(delegator, Delegate(validator.public, LEAST + 5))
    assert isinstance(ledger.refuse(delegator, Delegate(validator.public, 0)), InvalidAmount)
    assert isinstance(ledger.refuse(delegator, Undelegate(validator.public, 0)), InvalidAmount)
    assert isinstance(ledger.refuse(delegator, Undelegate(validator.public, 6)), InvalidAmount)
    ledger.do(delegator, Undelegate(validator.public, 5))
    before = ledger.state.get_balance(delegator.public)
    ledger.block(after_ms=PARAMS.epoch_ms)
    ledger.block(after_ms=PARAMS.unbonding_ms - PARAMS.epoch_ms - 1)
    earned = ledger.state.get_balance(delegator.public) - before
    ledger.block(after_ms=1)
    assert ledger.state.get_balance(delegator.public) - before - earned == 5


def test_a_validator_has_room_for_so_many_delegations() -> None:
    ledger = Ledger()
    validator, delegator = ledger.account("validator-0").public, ledger.spare()
    draft = Draft(ledger.state, 1, ledger.state.time_ms)
    for number in range(DELEGATIONS_MAX):
        change_delegation(draft, validator, number.to_bytes(32, "big"), LEAST)
    full = draft.freeze(bytes(32))
    ledger.state = replace(full, supply=compute_supply(full))
    error = ledger.refuse(delegator, Delegate(validator, LEAST))
    assert isinstance(error, LimitReached)
    assert (error.have, error.limit) == (DELEGATIONS_MAX, DELEGATIONS_MAX)


def test_a_validator_may_leave_unless_it_is_the_last() -> None:
    ledger = Ledger({"validator": 2})
    first, second = ledger.account("validator-0"), ledger.account("validator-1")
    ledger.do(first, Unstake(1))
    assert isinstance(ledger.refuse(second, Unstake(1)), InvalidNode)
    ledger.do(second, Stake(1))
    ledger.do(second, Unstake(1))


@settings(max_examples=60, deadline=None)
@given(
    bond=st.integers(0, 10**12),
    stakes=st.lists(st.integers(1, 10**12), max_size=8),
    rewards=st.integers(0, 10**12),
)
def test_rewards_go_pro_rata_to_each_record_and_what_is_left_burns(bond: int, stakes: list[int], rewards: int) -> None:
    draft, validator = _draft_with(bond, stakes)
    before = draft.freeze(bytes(32))
    draft.fees = rewards * 10_000 // 3_000
    divide_fees(draft, validator, earns=True)
    pool = draft.pools.get(validator)
    earned = pool.rewards if pool is not None else rewards
    pay_rewards(draft, validator)
    after = draft.freeze(bytes(32))
    assert (
        compute_supply(after) == compute_supply(before) + rewards * 10_000 // 3_000
    )  # the fees come from nowhere here
    total = bond + sum(stakes)
    for index, stake in enumerate(stakes):
        assert after.get_balance(_delegator(index)) == earned * stake // total
    if stakes:
        own = after.get_balance(validator) - before.get_balance(validator)
        assert own == earned * bond // total
        assert 0 <= earned - own - sum(earned * stake // total for stake in stakes) <= len(stakes)


@settings(max_examples=100, deadline=None)
@given(
    bond=st.integers(0, 10**12),
    stakes=st.lists(st.integers(1, 10**12), max_size=6),
    share_bp=st.integers(0, 10_000),
    reporter=st.integers(-1, 7),
)
def test_a_slash_takes_its_share_of_every_record_and_burns_at_least_half(
    bond: int, stakes: list[int], share_bp: int, reporter: int
) -> None:
    draft, validator = _draft_with(bond, stakes)
    before = draft.freeze(bytes(32))
    who = validator if reporter < 0 else _delegator(reporter)
    taken = slash(draft, validator, who, share_bp)
    after = draft.freeze(bytes(32))
    assert compute_supply(after) == compute_supply(before)
    lost = [before.nodes[validator].bond - after.nodes[validator].bond]
    for key, record in before.delegations.items():
        held = after.delegations.get(key)
        lost.append(record.amount - (held.amount if held is not None else 0))
    for amount, part in zip([bond, *stakes], lost, strict=True):
        assert 0 <= part * 10_000 - amount * share_bp < 10_000
    assert taken == sum(lost)
    rewarded = after.get_balance(who) - before.get_balance(who)
    is_involved = reporter < len(stakes)
    assert rewarded == (0 if is_involved else taken * PARAMS.reporter_bp // 10_000)
    assert after.burned - before.burned == taken - rewarded
    assert (after.burned - before.burned) * 2 >= taken


def test_stake_on_its_way_back_answers_for_its_validator_and_gives_no_reward() -> None:
    ledger = Ledger()
    validator, delegator, stranger = ledger.account("validator-0").public, ledger.spare(), ledger.spare(1)
    ledger.do(delegator, Delegate(validator, LEAST))
    ledger.do(delegator, Undelegate(validator, LEAST))
    draft = Draft(ledger.state, ledger.state.height + 1, ledger.state.time_ms + 1)
    before = ledger.state.get_balance(delegator.public)
    taken = slash(draft, validator, delegator.public, 10_000)
    assert taken == BOND + LEAST
    after = draft.freeze(bytes(32))
    assert sum(entry.amount for entry in after.unbonding.values()) == 0
    assert after.get_balance(delegator.public) == before
    draft = Draft(ledger.state, ledger.state.height + 1, ledger.state.time_ms + 1)
    slash(draft, validator, stranger.public, 10_000)
    assert draft.accounts.get(stranger.public).balance > ledger.state.get_balance(stranger.public)  # type: ignore[union-attr]


def test_of_more_validators_than_may_vote_the_heaviest_do() -> None:
    state = Ledger({"validator": 1}).state
    snapshot = state.epochs[0]
    keys = [bytes([index]) * 32 for index in range(VOTES_MAX + 3)]
    many = tuple(
        replace(snapshot.candidates[0], account=key, vote=key, weight=100, delegated=int(key in keys[-3:]))
        for key in keys
    )
    validators = get_validators(replace(state, epochs={0: replace(snapshot, candidates=many)}))
    assert [item.account for item in validators] == [*keys[: VOTES_MAX - 3], *keys[-3:]]


@given(weights=st.lists(st.integers(1, 10**15), min_size=5, max_size=12))
def test_from_five_validators_on_none_has_more_than_a_quarter_of_the_stake(weights: list[int]) -> None:
    snapshot = TWELVE.epochs[0]
    candidates = tuple(
        replace(item, weight=weight // 2, delegated=weight - weight // 2)
        for item, weight in zip(snapshot.candidates, weights, strict=False)
    )
    heavy = replace(TWELVE, epochs={0: replace(snapshot, candidates=candidates)})
    assert sorted(item.weight for item in get_validators(heavy)) == sorted(
        min(weight, sum(weights) // 4) for weight in weights
    )


def test_unbonding_outlasts_all_evidence_or_there_is_no_such_ledger() -> None:
    needs = PARAMS.epoch_ms * PARAMS.epochs_kept
    verify_params(replace(PARAMS, unbonding_ms=needs))
    with pytest.raises(ValueError, match=f"unbonding_ms is {needs - 1}, evidence is accepted for {needs}"):
        verify_params(replace(PARAMS, unbonding_ms=needs - 1))
    with pytest.raises(ValueError, match="evidence is accepted for"):
        verify_params(replace(PARAMS, evidence_epochs=30))


def _weigh(state: State, account: bytes) -> int:
    return next(item.weight for item in get_validators(state) if item.account == account)


def _delegator(index: int) -> bytes:
    return PrivateKey.from_seed(bytes([index + 1]) * 32).public


def _draft_with(bond: int, stakes: list[int]) -> tuple[Draft, bytes]:
    ledger = Ledger()
    validator = ledger.account("validator-0").public
    draft = Draft(ledger.state, 1, ledger.state.time_ms + 1)
    draft.nodes.put(validator, replace(ledger.state.nodes[validator], bond=bond))
    for index, stake in enumerate(stakes):
        change_delegation(draft, validator, _delegator(index), stake)
        assert draft.delegations.get(compute_delegation_key(validator, _delegator(index))) is not None
    return draft, validator
