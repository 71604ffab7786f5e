"""Proposals and votes: what can be moved, whose stake counts for how much, how a vote ends and what follows."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InsufficientBalance
from protocol.ledger.apply import next_due_ms
from protocol.ledger.errors import LimitReached
from protocol.ledger.feed_errors import UnknownFeed
from protocol.ledger.feed_records import FeedTerms
from protocol.ledger.fees import count_units
from protocol.ledger.governance import KEPT_MAX, OPEN_MAX, Propose, compute_outcome
from protocol.ledger.governance_errors import (
    AlreadyVoted,
    InvalidProposal,
    InvalidStakeProof,
    UnknownProposal,
    VotingOver,
)
from protocol.ledger.governance_params import RANGES, change_parameter
from protocol.ledger.governance_records import (
    Choice,
    Enclave,
    EnclaveListing,
    Motion,
    ParameterChange,
    ProposalPhase,
    Tally,
    TreasuryGrant,
)
from protocol.ledger.governance_votes import DELEGATIONS_MAX, CastVote, NodeStake, build_votes
from protocol.ledger.params import Params, verify_params
from protocol.ledger.rows import encode_frame, list_state_rows, restore_state
from protocol.ledger.state import compute_enclave_key, compute_state_root, compute_tree_key
from protocol.ledger.transactions import Delegate, Stake, Transfer, Undelegate, Unstake
from protocol.ledger.tree import prove
from protocol.types import BP, GRAINS_PER_ROLE
from tests.support.feeds import TERMS
from tests.support.governance import CHANGE, DELEGATED, FEE, TREASURY, Assembly
from tests.support.ledgers import Ledger

PARAMS = Params()
BOND = PARAMS.get_bond_min("validator")
WORKER_BOND = PARAMS.get_bond_min("inference")
ENCLAVE = Enclave(b"\x01" * 48, b"\x02" * 48, b"\x03" * 48)
HOLDER = b"\x09" * 32
FEED = FeedTerms(owner=b"", deposit=0, **vars(replace(TERMS, name="rain")))


def grant(amount: int, parts: int = 1, part_ms: int = 0, to: bytes = HOLDER) -> Motion:
    return Motion(grant=(TreasuryGrant(to, amount, parts, part_ms),))


# Parameters


def test_what_is_open_to_a_vote_is_a_parameter_and_its_default_lies_in_its_range() -> None:
    assert set(RANGES) <= {item.name for item in fields(Params)}
    for name, allowed in RANGES.items():
        assert allowed.least <= getattr(PARAMS, name) <= allowed.most, name


@given(name=st.sampled_from([item.name for item in fields(Params)]), value=st.integers(0, 2**63 - 1))
def test_a_changed_parameter_is_in_its_range_and_a_ledger_can_run_with_it(name: str, value: int) -> None:
    try:
        changed = change_parameter(PARAMS, name, value)
    except InvalidProposal:
        return
    assert RANGES[name].least <= value <= RANGES[name].most
    assert changed == replace(PARAMS, **{name: value})
    verify_params(changed)


@pytest.mark.parametrize("name", RANGES)
def test_a_parameter_does_not_leave_its_range(name: str) -> None:
    for value in (RANGES[name].least - 1, RANGES[name].most + 1):
        with pytest.raises(InvalidProposal, match=name):
            change_parameter(PARAMS, name, value)


def test_a_parameter_is_changed_for_every_transaction_from_one_header_on() -> None:
    net = Assembly()
    net.propose()
    proposal = net.propose()
    net.cast(proposal, (net.account("validator-0"), Choice.YES))
    net.end_vote()
    due_ms = net.find(proposal).due_ms
    assert due_ms == net.ledger.state.time_ms + PARAMS.proposal_delay_ms == next_due_ms(net.ledger.state)
    net.ledger.block(after_ms=PARAMS.proposal_delay_ms - 1)
    assert net.ledger.state.params == PARAMS
    before = net.ledger.state
    spare, other = net.ledger.spare(5), net.ledger.spare(6)
    high_fee, low_fee = (net.ledger.sign(account, Transfer(HOLDER, 1)) for account in (other, spare))
    low_fee = replace(low_fee, fee=PARAMS.base_fee_min * count_units(len(low_fee.wire)))
    [error] = net.ledger.block(high_fee, low_fee, after_ms=1)
    assert type(error).__name__ == "FeeTooLow"
    assert before.get_balance(other.public) - net.ledger.state.get_balance(other.public) == FEE.value + 1
    after = net.ledger.state
    assert after.params == replace(PARAMS, base_fee_min=FEE.value)
    assert net.find(proposal).phase == ProposalPhase.IN_FORCE
    assert compute_state_root(before) != compute_state_root(after)
    again = restore_state(encode_frame(after), list_state_rows(after))
    assert again == after
    assert compute_state_root(again) == compute_state_root(after)


# Proposing


@pytest.mark.parametrize(
    ("motion", "reason"),
    [
        (Motion(), "exactly one"),
        (replace(CHANGE, feed_end=("GOOG",)), "exactly one"),
        (Motion(parameter=(ParameterChange("epoch_ms", 10_000),)), "no vote changes"),
        (Motion(parameter=(ParameterChange("no_such", 1),)), "no vote changes"),
        (Motion(parameter=(ParameterChange("fee_treasury_bp", 9_000),)), "shares of a transaction fee"),
        (grant(TREASURY * 2), "treasury has"),
        (grant(0), "parts"),
        (grant(10, parts=11, part_ms=1_000), "parts"),
        (grant(10, parts=2), "single one at once"),
        (grant(10, parts=2, part_ms=999), "single one at once"),
        (grant(10, parts=1, part_ms=1_000), "single one at once"),
        (Motion(enclave=(EnclaveListing(ENCLAVE, 0),)), "says so already"),
        (Motion(feed=(replace(FEED, owner=HOLDER),)), "nobody's"),
        (Motion(feed=(replace(FEED, deposit=1),)), "nobody's"),
        (Motion(feed=(replace(FEED, heartbeat_ms=1),)), "heartbeat"),
        (Motion(feed=(replace(FEED, name="GOOG"),)), "already"),
    ],
)
def test_what_cannot_be_carried_out_cannot_be_proposed(motion: Motion, reason: str) -> None:
    net = Assembly(delegators=0)
    error = net.ledger.refuse(net.account("client-0"), Propose("a change", motion))
    assert isinstance(error, InvalidProposal)
    assert reason in str(error)


def test_a_proposal_has_a_title_and_ends_only_feeds_that_are_there() -> None:
    net = Assembly(delegators=0)
    for title in ("", "  ", "two\nlines", "\x1b[2J"):
        assert isinstance(net.ledger.refuse(net.account("client-0"), Propose(title, CHANGE)), InvalidProposal)
    error = net.ledger.refuse(net.account("client-0"), Propose("no rain", Motion(feed_end=("rain",))))
    assert isinstance(error, UnknownFeed)


def test_a_deposit_is_held_and_who_has_none_proposes_nothing() -> None:
    net = Assembly(delegators=0)
    client = net.account("client-0")
    before = net.ledger.state.get_balance(client.public)
    proposal = net.propose()
    assert net.find(proposal).deposit == PARAMS.proposal_deposit
    assert net.ledger.state.get_balance(client.public) < before - PARAMS.proposal_deposit
    rest = net.ledger.state.get_balance(client.public) - PARAMS.proposal_deposit // 2
    net.ledger.do(client, Transfer(HOLDER, rest))
    assert isinstance(net.ledger.refuse(client, Propose("one more", CHANGE)), InsufficientBalance)


def test_so_many_proposals_are_open_at_a_time() -> None:
    net = Assembly(delegators=0)
    for _ in range(OPEN_MAX):
        net.propose()
    error = net.ledger.refuse(net.account("client-0"), Propose("one more", CHANGE))
    assert isinstance(error, LimitReached)
    net.end_vote()
    net.propose()


def test_what_has_been_over_for_longest_is_forgotten_but_no_vote_that_still_pays() -> None:
    net = Assembly(delegators=0, params=replace(PARAMS, proposal_deposit=1))
    paying = net.carry(grant(1_000, parts=1_000, part_ms=10**9))
    first = net.propose()
    while len(net.ledger.state.proposals) < KEPT_MAX:
        net.ledger.do(net.account("client-0"), Propose("a change", CHANGE), after_ms=PARAMS.proposal_voting_ms)
    assert first in net.ledger.state.proposals
    net.propose()
    assert len(net.ledger.state.proposals) == KEPT_MAX
    assert first not in net.ledger.state.proposals
    assert paying in net.ledger.state.proposals


# Voting


def test_a_validator_votes_for_what_is_delegated_to_it_and_a_node_for_its_bond() -> None:
    net = Assembly()
    proposal = net.propose()
    assert net.find(proposal).stake == 2 * BOND + WORKER_BOND + 2 * DELEGATED
    net.cast(proposal, (net.account("validator-0"), Choice.YES), (net.account("inference-0"), Choice.ABSTAIN))
    assert net.find(proposal).tally == Tally(yes=BOND + 2 * DELEGATED, abstain=WORKER_BOND)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_delegators_vote_subtracts_from_what_its_validator_inherits_before_it_or_after(is_first: bool) -> None:
    net = Assembly()
    proposal = net.propose()
    votes = [(net.account("validator-0"), Choice.YES), (net.delegators[0], Choice.NO)]
    net.cast(proposal, *(reversed(votes) if is_first else votes))
    assert net.find(proposal).tally == Tally(yes=BOND + DELEGATED, no=DELEGATED)
    net.cast(proposal, (net.delegators[1], Choice.VETO))
    assert net.find(proposal).tally == Tally(yes=BOND, no=DELEGATED, veto=DELEGATED)


def test_stake_votes_once() -> None:
    net = Assembly()
    proposal = net.propose()
    for voter in (net.account("validator-0"), net.delegators[0]):
        net.cast(proposal, (voter, Choice.YES))
        for choice in Choice:
            assert isinstance(net.ledger.refuse(voter, net.vote(proposal, voter, choice)), AlreadyVoted)
    vote = net.vote(proposal, net.delegators[1], Choice.NO)
    twice = replace(vote, delegated=vote.delegated * 2)
    assert isinstance(net.ledger.refuse(net.delegators[1], twice), AlreadyVoted)
    assert net.find(proposal).tally == Tally(yes=BOND + 2 * DELEGATED)


def test_stake_that_moves_meanwhile_votes_where_it_was_and_nowhere_else() -> None:
    net = Assembly()
    proposal = net.propose()
    mover, other = net.delegators[0], net.ledger.spare(6)
    net.cast(proposal, (mover, Choice.NO))
    net.ledger.do(mover, Undelegate(net.account("validator-0").public, DELEGATED))
    net.ledger.do(mover, Delegate(net.account("validator-1").public, DELEGATED))
    net.ledger.do(mover, Transfer(other.public, DELEGATED))
    net.ledger.do(other, Delegate(net.account("validator-1").public, DELEGATED))
    net.ledger.do(net.account("validator-1"), Stake(GRAINS_PER_ROLE))
    net.ledger.do(net.account("inference-0"), Unstake(GRAINS_PER_ROLE))
    assert build_votes(net.get_snapshot(proposal), other.public, proposal, Choice.NO) == ()
    late = build_votes(net.ledger.state, other.public, proposal, Choice.NO)[0]
    assert isinstance(net.ledger.refuse(other, late), InvalidStakeProof)
    names = ("validator-0", "validator-1", "inference-0")
    net.cast(proposal, *((net.account(name), Choice.YES) for name in names))
    tally = net.find(proposal).tally
    assert tally == Tally(yes=2 * BOND + WORKER_BOND + DELEGATED, no=DELEGATED)
    assert tally.total == net.find(proposal).stake


def test_a_proof_is_good_for_its_account_record_and_proposal_alone() -> None:
    net = Assembly()
    earlier = net.propose()
    proposal = net.propose()
    validator, delegator, worker = net.account("validator-0"), net.delegators[0], net.account("inference-0")
    own, delegated = net.vote(proposal, validator, Choice.NO), net.vote(proposal, delegator, Choice.NO)
    node = replace(own.own[0].node, bond=own.own[0].node.bond + 1)
    delegation = replace(delegated.delegated[0].delegation, amount=DELEGATED + 1)
    forged: list[tuple[object, CastVote]] = [
        (worker, own),  # another's stake
        (worker, delegated),
        (validator, replace(own, own=(replace(own.own[0], node=node),))),
        (validator, replace(own, own=(replace(own.own[0], pool=()),))),  # as if it inherited nothing
        (delegator, replace(delegated, delegated=(replace(delegated.delegated[0], delegation=delegation),))),
        (validator, replace(own, params=bytes(32))),
        (validator, replace(own, head=replace(own.head, height=1))),
        (validator, replace(own, proposal=earlier)),  # at another snapshot
        (validator, replace(own, own=())),
        (validator, replace(own, choice=0)),
    ]
    for voter, vote in forged:
        assert isinstance(net.ledger.refuse(voter, vote), InvalidStakeProof)  # type: ignore[arg-type]
    assert isinstance(net.ledger.refuse(validator, replace(own, proposal=bytes(32))), UnknownProposal)


def test_a_node_without_stake_has_no_vote() -> None:
    net = Assembly()
    proposal = net.propose()
    client = net.account("client-0")
    snapshot = net.get_snapshot(proposal)
    assert build_votes(snapshot, client.public, proposal, Choice.YES) == ()
    own = NodeStake(
        snapshot.nodes[client.public],
        prove(snapshot.tree, compute_tree_key("nodes", client.public)),
        (),
        prove(snapshot.tree, compute_tree_key("pools", client.public)),
    )
    vote = replace(net.vote(proposal, net.account("validator-1"), Choice.YES), own=(own,))
    assert isinstance(net.ledger.refuse(client, vote), InvalidStakeProof)


def test_who_has_delegated_to_many_votes_in_parts() -> None:
    count = DELEGATIONS_MAX + 1
    ledger = Ledger({"validator": count, "client": 1}, check_signatures=False)
    holder = ledger.spare()
    for number in range(count):
        ledger.do(holder, Delegate(ledger.account(f"validator-{number}").public, PARAMS.delegation_min))
    snapshot = ledger.state
    transaction = ledger.sign(ledger.account("client-0"), Propose("a change", CHANGE))
    assert ledger.block(transaction) == []
    votes = build_votes(snapshot, holder.public, transaction.id, Choice.YES)
    assert [len(vote.delegated) for vote in votes] == [DELEGATIONS_MAX, 1]
    for vote in votes:
        ledger.do(holder, vote)
    assert ledger.state.proposals[transaction.id].tally == Tally(yes=count * PARAMS.delegation_min)


# How a vote ends

shares = st.integers(0, 2**61)


@given(yes=shares, no=shares, abstain=shares, veto=shares, silent=shares)
def test_an_outcome_is_one_and_follows_the_shares(yes: int, no: int, abstain: int, veto: int, silent: int) -> None:
    tally, stake = Tally(yes, no, abstain, veto), yes + no + abstain + veto + silent
    outcome = compute_outcome(tally, stake, PARAMS)
    has_quorum = tally.total > 0 and tally.total * BP >= PARAMS.proposal_quorum_bp * stake
    is_vetoed = veto * BP > PARAMS.proposal_veto_bp * tally.total
    assert (outcome == ProposalPhase.NO_QUORUM) == (not has_quorum)
    assert (outcome == ProposalPhase.VETOED) == (has_quorum and is_vetoed)
    assert (outcome == ProposalPhase.PASSED) == (has_quorum and not is_vetoed and yes > no + veto)


@pytest.mark.parametrize(
    ("choice", "phase", "is_returned"),
    [
        (Choice.YES, ProposalPhase.PASSED, True),
        (Choice.NO, ProposalPhase.REJECTED, True),
        (Choice.ABSTAIN, ProposalPhase.REJECTED, True),
        (Choice.VETO, ProposalPhase.VETOED, False),
        (None, ProposalPhase.NO_QUORUM, False),
    ],
)
def test_a_deposit_comes_back_or_burns(choice: Choice | None, phase: ProposalPhase, is_returned: bool) -> None:
    net = Assembly()
    proposal = net.propose()
    if choice is not None:
        net.cast(proposal, (net.account("validator-0"), choice))
    client = net.account("client-0").public
    before, burned = net.ledger.state.get_balance(client), net.ledger.state.burned
    net.end_vote()
    assert net.find(proposal).phase == phase
    assert net.ledger.state.get_balance(client) - before == PARAMS.proposal_deposit * is_returned
    assert net.ledger.state.burned - burned == PARAMS.proposal_deposit * (not is_returned)
    assert not net.ledger.state.ballots
    voter = net.account("validator-1")
    assert isinstance(net.ledger.refuse(voter, net.vote(proposal, voter, Choice.YES)), VotingOver)
    net.ledger.block(after_ms=PARAMS.proposal_delay_ms)
    assert (net.ledger.state.params.base_fee_min == FEE.value) == (choice == Choice.YES)


def test_a_ledger_that_slept_through_the_end_of_a_vote_still_takes_votes_for_a_while() -> None:
    net = Assembly()
    proposal = net.propose()
    net.ledger.block(after_ms=10 * PARAMS.proposal_voting_ms)
    net.cast(proposal, (net.account("validator-0"), Choice.YES))
    net.ledger.block(after_ms=PARAMS.grace_ms)
    assert net.find(proposal).phase == ProposalPhase.PASSED


# What follows


def test_a_grant_is_paid_out_of_the_treasury_at_once() -> None:
    net = Assembly()
    before = net.ledger.state.treasury
    proposal = net.carry(grant(1_000 * GRAINS_PER_ROLE))
    assert net.find(proposal).phase == ProposalPhase.IN_FORCE
    assert net.ledger.state.get_balance(HOLDER) == 1_000 * GRAINS_PER_ROLE
    assert before - 1_000 * GRAINS_PER_ROLE <= net.ledger.state.treasury < before
    assert not net.ledger.state.vesting


def test_a_streamed_grant_is_set_aside_and_flows_under_the_id_of_its_vote() -> None:
    net = Assembly()
    proposal = net.carry(grant(1_001, parts=3, part_ms=2_000))
    balances = [net.ledger.state.get_balance(HOLDER)]
    assert list(net.ledger.state.vesting) == [proposal]
    for _ in range(2):
        net.ledger.block(after_ms=2_000)
        balances.append(net.ledger.state.get_balance(HOLDER))
    assert balances == [333, 667, 1_001]
    assert not net.ledger.state.vesting


def test_what_cannot_be_carried_out_any_more_fails_whole_and_says_why() -> None:
    net = Assembly()
    half = TREASURY * 2 // 3
    proposals = [net.propose(grant(half)) for _ in range(2)]
    for proposal in proposals:
        net.cast(proposal, (net.account("validator-0"), Choice.YES))
    net.end_vote()
    net.ledger.block(after_ms=PARAMS.proposal_delay_ms)
    phases = {net.find(proposal).phase for proposal in proposals}
    assert phases == {ProposalPhase.IN_FORCE, ProposalPhase.FAILED}
    failed = next(net.find(proposal) for proposal in proposals if net.find(proposal).phase == ProposalPhase.FAILED)
    assert "the treasury has" in failed.reason
    assert net.ledger.state.get_balance(HOLDER) == half


def test_two_changes_that_do_not_fit_together_leave_what_a_ledger_can_run_with() -> None:
    net = Assembly()
    motions = [Motion(parameter=(ParameterChange(f"fee_{who}_bp", 7_000),)) for who in ("validators", "treasury")]
    proposals = [net.propose(motion) for motion in motions]
    for proposal in proposals:
        net.cast(proposal, (net.account("validator-0"), Choice.YES))
    net.end_vote()
    net.ledger.block(after_ms=PARAMS.proposal_delay_ms)
    assert sorted(net.find(proposal).phase for proposal in proposals) == ["failed", "in force"]
    verify_params(net.ledger.state.params)


def test_a_grant_that_finds_no_room_for_its_account_stays_in_the_treasury() -> None:
    net = Assembly(delegators=0)
    accounts = len(net.ledger.state.accounts)
    net = Assembly(delegators=0, params=replace(PARAMS, accounts_max=accounts))
    proposal = net.carry(grant(5))
    assert net.find(proposal).phase == ProposalPhase.FAILED
    assert net.ledger.state.treasury >= TREASURY
    assert not net.ledger.state.vesting


def test_enclaves_are_trusted_and_trusted_no_more_by_vote() -> None:
    net = Assembly()
    net.carry(Motion(enclave=(EnclaveListing(ENCLAVE, 1),)))
    assert net.ledger.state.enclaves == {compute_enclave_key(ENCLAVE): ENCLAVE}
    again = Propose("again", Motion(enclave=(EnclaveListing(ENCLAVE, 1),)))
    assert isinstance(net.ledger.refuse(net.account("client-0"), again), InvalidProposal)
    net.carry(Motion(enclave=(EnclaveListing(ENCLAVE, 0),)))
    assert net.ledger.state.enclaves == {}


def test_feeds_begin_and_end_by_vote_and_are_nobodys() -> None:
    net = Assembly()
    net.carry(Motion(feed=(FEED,)))
    assert net.ledger.state.feed_terms["rain"] == FEED
    net.carry(Motion(feed_end=("rain",)))
    assert net.ledger.state.feed_terms["rain"].retired_ms == net.ledger.state.time_ms
    net.carry(Motion(feed_end=("GOOG",)))
    assert net.ledger.state.feed_terms["GOOG"].retired_ms
