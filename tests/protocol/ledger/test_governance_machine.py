"""Proposals and votes in any order while stake moves: what must always hold.

No grain comes or goes, no parameter leaves its range, no stake votes twice wherever it goes meanwhile, what genesis
allocates comes free by the clock alone, and what leaves the treasury is what votes have granted.
"""

from collections import Counter
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.keys import PrivateKey
from protocol.ledger.genesis import GenesisVesting
from protocol.ledger.governance import FORCE_KIND, VOTE_END_KIND, Propose, compute_outcome
from protocol.ledger.governance_params import RANGES
from protocol.ledger.governance_records import (
    Choice,
    Motion,
    ParameterChange,
    Proposal,
    ProposalPhase,
    Tally,
    TreasuryGrant,
)
from protocol.ledger.governance_votes import build_votes
from protocol.ledger.params import verify_params
from protocol.ledger.state import State, compute_supply
from protocol.ledger.transactions import Delegate, Stake, Transfer, Undelegate, Unstake
from protocol.ledger.vesting import compute_vested
from protocol.types import GRAINS_PER_ROLE
from tests.support.activity import verify_activity
from tests.support.governance import Assembly

NODES = ("validator-0", "validator-1", "inference-0")
HOLDERS = 3  # without a node
VOTERS = len(NODES) + HOLDERS
PAID = b"\x0a" * 32
HOLDER = b"\x0b" * 32
VESTING = (
    GenesisVesting(b"", 3_000 * GRAINS_PER_ROLE + 1, cliff_ms=20_000, part_ms=15_000, parts=7),
    GenesisVesting(HOLDER, 1_001, cliff_ms=30_000, part_ms=10_000, parts=5),
)
voters = st.integers(0, VOTERS - 1)
numbers = st.integers(0, 9)


@st.composite
def motions(draw: st.DrawFn) -> Motion:
    """Changes to the edges of a range and beyond, and grants small and too large."""
    if draw(st.booleans()):
        name = draw(st.sampled_from(sorted(RANGES)))
        low, high = RANGES[name]
        return Motion(
            parameter=(ParameterChange(name, draw(st.sampled_from((low, (low + high) // 2, high, high + 1)))),)
        )
    parts = draw(st.sampled_from((1, 3)))
    amount = draw(st.sampled_from((2, 3, 1_000, 4_000 * GRAINS_PER_ROLE)))
    return Motion(grant=(TreasuryGrant(PAID, amount, parts, 2_000 if parts > 1 else 0),))


class GovernanceMachine(RuleBasedStateMachine):
    """One block a step, with one transaction or none."""

    @initialize()
    def found(self) -> None:
        self.net = Assembly(HOLDERS - 1, vesting=VESTING)
        self.holders = [*self.net.delegators, self.net.ledger.spare(HOLDERS - 1)]
        self.first = self.net.ledger.state
        self.allocated = dict(self.first.vesting)  # whole: nothing is due so early
        self.count = len(self.net.ledger.blocks)
        self.said: dict[tuple[bytes, bytes], int] = {}  # the choice of each account, by proposal

    def get_voter(self, number: int) -> PrivateKey:
        return self.net.account(NODES[number]) if number < len(NODES) else self.holders[number - len(NODES)]

    @property
    def state(self) -> State:
        return self.net.ledger.state

    def list_proposals(self, *phases: ProposalPhase) -> list[tuple[bytes, Proposal]]:
        return [item for item in sorted(self.state.proposals.items()) if item[1].phase in phases]

    def send(self, account: PrivateKey, body: object) -> bool:
        return not self.net.ledger.block(self.net.ledger.sign(account, body))

    @rule(motion=motions(), by=voters)
    def propose(self, motion: Motion, by: int) -> None:
        self.send(self.get_voter(by), Propose("a change", motion))

    @precondition(lambda self: self.list_proposals(ProposalPhase.VOTING))
    @rule(number=numbers, by=voters, choice=st.sampled_from(Choice))
    def vote(self, number: int, by: int, choice: Choice) -> None:
        """With all stake an account had; again and again, of which only the first counts."""
        open_ = self.list_proposals(ProposalPhase.VOTING)
        key, _ = open_[number % len(open_)]
        voter = self.get_voter(by)
        for vote in build_votes(self.net.get_snapshot(key), voter.public, key, choice):
            if self.send(voter, vote):
                assert (key, voter.public) not in self.said
                self.said[key, voter.public] = choice

    @precondition(lambda self: self.list_proposals(ProposalPhase.VOTING))
    @rule(number=numbers, choice=st.sampled_from((Choice.YES, Choice.VETO)))
    def agree(self, number: int, choice: Choice) -> None:
        """Both validators, so that something comes of it."""
        for by in range(2):
            self.vote(number, by, choice)

    @precondition(lambda self: self.list_proposals(ProposalPhase.VOTING))
    @rule(number=numbers, by=voters)
    def vote_with_the_stake_of_today(self, number: int, by: int) -> None:
        """It is the snapshot's that counts."""
        open_ = self.list_proposals(ProposalPhase.VOTING)
        key, proposal = open_[number % len(open_)]
        assert self.state.height > proposal.height
        for vote in build_votes(self.state, self.get_voter(by).public, key, Choice.YES):
            assert not self.send(self.get_voter(by), vote)

    @rule(by=voters, to=st.integers(0, 1), roles=st.sampled_from((10, 200)), takes=st.booleans())
    def move_stake(self, by: int, to: int, roles: int, takes: bool) -> None:
        amount = roles * GRAINS_PER_ROLE
        if by < len(NODES):
            account = self.get_voter(by)
            left = self.state.nodes[account.public].bond - amount
            if not takes:
                self.send(account, Stake(amount))
            elif by == len(NODES) - 1 or left >= self.state.params.get_bond_min("validator"):  # blocks go on
                self.send(account, Unstake(amount))
        else:
            validator = self.net.account(NODES[to]).public
            self.send(self.get_voter(by), (Undelegate if takes else Delegate)(validator, amount))

    @rule(by=voters, to=voters)
    def move_money(self, by: int, to: int) -> None:
        self.send(self.get_voter(by), Transfer(self.get_voter(to).public, 200 * GRAINS_PER_ROLE))

    @rule(after_ms=st.sampled_from((1, 2_000, 5_000, 10_000, 15_000, 40_000)))
    def wait(self, after_ms: int) -> None:
        self.net.ledger.block(after_ms=after_ms)

    def teardown(self) -> None:
        if not hasattr(self, "net"):
            return
        for _ in range(4):
            self.net.ledger.block(after_ms=2**31)
        assert not self.list_proposals(ProposalPhase.VOTING, ProposalPhase.PASSED)
        self.what_is_granted_is_what_is_paid()
        assert not self.state.vesting
        verify_activity(self.first, self.net.ledger.blocks[self.count :])

    @invariant()
    def no_grain_comes_or_goes(self) -> None:
        assert compute_supply(self.state) == self.first.supply

    @invariant()
    def parameters_stay_in_their_ranges_and_change_by_votes_alone(self) -> None:
        params, wanted = self.state.params, vars(self.first.params).copy()
        verify_params(params)
        for name, (low, high) in RANGES.items():
            assert low <= getattr(params, name) <= high
        in_force = self.list_proposals(ProposalPhase.IN_FORCE)
        for _, proposal in sorted(in_force, key=lambda item: (item[1].due_ms, item[0])):
            wanted |= {change.name: change.value for change in proposal.motion.parameter}
        assert {name: getattr(params, name) for name in RANGES} == {name: wanted[name] for name in RANGES}

    @invariant()
    def every_stake_counts_once_by_its_own_choice_or_else_its_validators(self) -> None:
        for key, proposal in self.list_proposals(ProposalPhase.VOTING):
            snapshot = self.net.get_snapshot(key)
            told: Counter[int] = Counter()
            for account, node in snapshot.nodes.items():
                told[self.said.get((key, account), 0)] += node.bond
            for item in snapshot.delegations.values():
                choice = self.said.get((key, item.delegator)) or self.said.get((key, item.validator), 0)
                told[choice] += item.amount
            assert proposal.tally == Tally(*(told[choice] for choice in Choice))
            assert sum(told.values()) == proposal.stake

    @invariant()
    def what_is_granted_is_what_is_paid(self) -> None:
        """Of the treasury nothing else has become: it only grows, by the fees' share and by what vests for it."""
        passed = self.list_proposals(ProposalPhase.IN_FORCE)
        granted = sum(grant.amount for _, proposal in passed for grant in proposal.motion.grant)
        flowing = {key: entry for key, entry in self.state.vesting.items() if key not in self.allocated}
        assert self.state.get_balance(PAID) == granted - sum(item.amount - item.released for item in flowing.values())
        assert set(flowing) <= {key for key, _ in passed}
        blocks = self.net.ledger.blocks[self.count - 1 :]
        grown = [after.treasury - before.treasury for (_, _, before), (_, _, after) in pairwise(blocks)]
        assert -sum(min(change, 0) for change in grown) <= granted

    @invariant()
    def what_is_allocated_comes_free_by_the_clock_alone(self) -> None:
        for key, whole in self.allocated.items():
            held = self.state.vesting.get(key)
            released = whole.amount if held is None else held.released
            assert released == compute_vested(whole, self.state.time_ms)
            assert held is None or (held.account, held.amount) == (whole.account, whole.amount)
            if whole.account:
                assert self.state.get_balance(whole.account) == released

    @invariant()
    def every_open_proposal_has_its_next_step_before_it(self) -> None:
        steps = {item.id: item.kind for item in self.state.due.values() if item.kind in (VOTE_END_KIND, FORCE_KIND)}
        kinds = {ProposalPhase.VOTING: VOTE_END_KIND, ProposalPhase.PASSED: FORCE_KIND}
        assert steps == {
            key: kinds[ProposalPhase(item.phase)] for key, item in self.state.proposals.items() if item.is_open
        }
        held = sum(item.deposit for _, item in self.list_proposals(*ProposalPhase))
        assert held == sum(item.deposit for _, item in self.list_proposals(ProposalPhase.VOTING))


GovernanceMachine.TestCase.settings = settings(max_examples=8, stateful_step_count=25, deadline=None)
TestGovernanceMachine = GovernanceMachine.TestCase


def test_the_machine_gets_around() -> None:
    """What it is about does happen in it: changes come into force, money is paid, vetoes burn."""
    machine = GovernanceMachine()
    machine.found()
    for motion in (
        Motion(parameter=(ParameterChange("slash_bp", 10_000),)),
        Motion(grant=(TreasuryGrant(PAID, 1_000, 3, 2_000),)),
        Motion(grant=(TreasuryGrant(PAID, 3, 1, 0),)),
    ):
        machine.propose(motion, 0)
    machine.vote(0, 3, Choice.NO)
    machine.agree(0, Choice.YES)
    machine.agree(1, Choice.YES)
    machine.agree(2, Choice.VETO)
    machine.move_stake(3, 0, 10, takes=True)
    machine.every_stake_counts_once_by_its_own_choice_or_else_its_validators()
    machine.wait(15_000)
    machine.wait(10_000)
    assert Counter(item.phase for item in machine.state.proposals.values()) == {"passed": 2, "vetoed": 1}
    machine.wait(5_000)
    assert len(machine.list_proposals(ProposalPhase.IN_FORCE)) == 2
    machine.parameters_stay_in_their_ranges_and_change_by_votes_alone()
    machine.what_is_granted_is_what_is_paid()
    machine.teardown()
    assert compute_outcome(Tally(), 0, machine.state.params) == ProposalPhase.NO_QUORUM
