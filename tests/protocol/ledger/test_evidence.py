"""Convictions on the ledger: once, in time, by the set that decided the height."""

from dataclasses import replace

import pytest

from protocol.consensus.evidence import Evidence
from protocol.consensus.messages import NOTHING, Vote
from protocol.consensus.signatures import KeySignatures
from protocol.keys import PrivateKey
from protocol.ledger.block import get_validators
from protocol.ledger.errors import AlreadyGuilty, EvidenceTooOld, InvalidEvidence
from protocol.ledger.evidence import SubmitEvidence
from protocol.ledger.params import Params
from protocol.ledger.transactions import Delegate, Stake, Undelegate, Unstake
from tests.support.ledgers import Ledger
from tests.support.votes import make_final_ballot

PARAMS = Params()
BOND = PARAMS.get_bond_min("validator")


def equivocate(ledger: Ledger, name: str, height: int) -> SubmitEvidence:
    """Two votes of a validator to finalise two blocks in one view."""
    key = PrivateKey.from_seed(ledger.foundation.nodes[name].vote or b"")
    signs = KeySignatures(ledger.state.chain, key)
    ballots = [make_final_ballot(height, 1, bytes([number]) * 32) for number in (1, 2)]
    return SubmitEvidence(Evidence(tuple(Vote(item, key.public, signs.sign_vote(item)) for item in ballots), (), ()))


def validates(ledger: Ledger, name: str) -> bool:
    return ledger.account(name).public in {item.account for item in get_validators(ledger.state)}


def test_a_validator_that_signs_two_blocks_is_slashed_and_validates_no_more() -> None:
    ledger = Ledger({"validator": 10})
    guilty, reporter = ledger.account("validator-3"), ledger.spare()
    ledger.do(guilty, Stake(BOND))
    before = ledger.state
    ledger.do(reporter, equivocate(ledger, "validator-3", 1))
    after = ledger.state
    share_bp = 500 + 3 * 10_000 // 10  # a tenth of the stake, as the set that decided has it
    lost = 2 * BOND * share_bp // 10_000
    assert after.nodes[guilty.public].bond == 2 * BOND - lost
    assert after.tombstones[guilty.public].slashed == lost
    assert after.get_balance(reporter.public) == before.get_balance(reporter.public) - PARAMS.base_fee_min + lost // 2
    assert validates(ledger, "validator-3")
    ledger.block(after_ms=PARAMS.epoch_ms)
    assert not validates(ledger, "validator-3")
    ledger.block(after_ms=PARAMS.epoch_ms)
    assert not validates(ledger, "validator-3")


def test_the_same_validator_is_convicted_once() -> None:
    ledger = Ledger({"validator": 4})
    ledger.block()
    ledger.do(ledger.spare(), equivocate(ledger, "validator-0", 1))
    again = ledger.refuse(ledger.spare(1), equivocate(ledger, "validator-0", 1))
    assert isinstance(again, AlreadyGuilty)
    assert isinstance(ledger.refuse(ledger.spare(1), equivocate(ledger, "validator-0", 2)), AlreadyGuilty)


def test_those_who_fall_together_lose_more() -> None:
    ledger = Ledger({"validator": 10})
    for index in range(4):
        ledger.do(ledger.spare(), equivocate(ledger, f"validator-{index}", 1))
    lost = [ledger.state.tombstones[ledger.account(f"validator-{index}").public].slashed for index in range(4)]
    assert lost == [BOND * bp // 10_000 for bp in (3_500, 6_500, 9_500, 10_000)]


def test_a_validator_that_reports_itself_gets_nothing_for_it() -> None:
    ledger = Ledger({"validator": 4})
    guilty = ledger.account("validator-0")
    before = ledger.state.get_balance(guilty.public)
    ledger.block(ledger.sign(guilty, equivocate(ledger, "validator-0", 1)))
    assert ledger.state.tombstones
    fee = PARAMS.base_fee_min
    assert ledger.state.get_balance(guilty.public) == before - fee + fee * 3 // 10  # it built the block


def test_evidence_of_a_height_not_reached_or_of_nobody_convicts_nobody() -> None:
    ledger = Ledger({"validator": 4})
    assert isinstance(ledger.refuse(ledger.spare(), equivocate(ledger, "validator-0", 2)), InvalidEvidence)
    assert isinstance(ledger.refuse(ledger.spare(), equivocate(ledger, "validator-0", 0)), InvalidEvidence)
    good = equivocate(ledger, "validator-0", 1).evidence
    one = SubmitEvidence(replace(good, votes=good.votes[:1]))
    assert isinstance(ledger.refuse(ledger.spare(), one), InvalidEvidence)
    none = SubmitEvidence(Evidence((), (), ()))
    assert isinstance(ledger.refuse(ledger.spare(), none), InvalidEvidence)
    assert not ledger.state.tombstones
    assert good.votes[0].ballot.justification == NOTHING


def test_evidence_has_an_age() -> None:
    ledger = Ledger({"validator": 4})
    ledger.block()
    for _ in range(PARAMS.evidence_epochs):
        ledger.block(after_ms=PARAMS.epoch_ms)
    proof = equivocate(ledger, "validator-0", 1)
    ledger.block(after_ms=PARAMS.epoch_ms)
    late = ledger.state
    assert late.epoch == PARAMS.evidence_epochs + 1
    ledger.do(ledger.spare(), equivocate(ledger, "validator-1", 1), after_ms=1)
    ledger.state = late
    ledger.block(after_ms=PARAMS.epoch_ms)
    error = ledger.refuse(ledger.spare(), proof)
    assert isinstance(error, EvidenceTooOld)
    assert (error.until, error.oldest) == (1, 2)


def test_evidence_from_before_a_long_sleep_is_still_good_after_it() -> None:
    ledger = Ledger({"validator": 4})
    ledger.block()
    ledger.block(after_ms=50 * PARAMS.epoch_ms)
    ledger.do(ledger.spare(), equivocate(ledger, "validator-0", 2))


def test_only_those_who_decided_the_height_are_guilty_of_votes_at_it() -> None:
    ledger = Ledger({"validator": 4})
    leaver = ledger.account("validator-2")
    ledger.do(leaver, Unstake(1))
    ledger.block(after_ms=PARAMS.epoch_ms)
    ledger.block()
    assert not validates(ledger, "validator-2")
    height = ledger.state.height
    assert isinstance(ledger.refuse(ledger.spare(), equivocate(ledger, "validator-2", height)), InvalidEvidence)
    before = ledger.state
    ledger.do(ledger.spare(), equivocate(ledger, "validator-2", 1))
    assert ledger.state.burned > before.burned
    assert sum(item.amount for item in ledger.state.unbonding.values()) == 0  # one grain: each record loses some


@pytest.mark.parametrize("asleep_epochs", [0, 3, 19, 20, 500])
def test_stake_behind_votes_matures_only_when_they_can_no_longer_be_held_against_it(asleep_epochs: int) -> None:
    """A set that sleeps decides one block more, and stake taken back before the sleep answers for it."""
    ledger = Ledger({"validator": 4})
    validator, delegator = ledger.account("validator-0").public, ledger.spare()
    ledger.do(delegator, Delegate(validator, PARAMS.delegation_min))
    ledger.do(delegator, Undelegate(validator, PARAMS.delegation_min))
    ledger.block(after_ms=1 + asleep_epochs * PARAMS.epoch_ms)
    while ledger.state.unbonding:
        ledger.block(after_ms=PARAMS.epoch_ms // 2)
    last = ledger.state.epochs[min(epoch for epoch in ledger.state.epochs if epoch)].height - 1
    error = ledger.refuse(ledger.spare(1), equivocate(ledger, "validator-0", last))
    assert isinstance(error, EvidenceTooOld)


def test_when_all_validators_are_convicted_they_stay_for_there_are_no_others() -> None:
    ledger = Ledger({"validator": 2})
    for index in range(2):
        ledger.do(ledger.spare(), equivocate(ledger, f"validator-{index}", 1))
    ledger.block(after_ms=PARAMS.epoch_ms)
    assert len(get_validators(ledger.state)) == 2
