"""A ledger whose holders vote: two validators, one with delegators, and others with stake."""

from collections.abc import Sequence
from dataclasses import replace

from protocol.keys import PrivateKey
from protocol.ledger.genesis import GenesisVesting, build_state
from protocol.ledger.governance import Propose
from protocol.ledger.governance_records import Choice, Motion, ParameterChange, Proposal, ProposalPhase
from protocol.ledger.governance_votes import CastVote, build_votes
from protocol.ledger.params import Params
from protocol.ledger.state import State
from protocol.ledger.transactions import Delegate
from protocol.types import GRAINS_PER_ROLE
from tests.support.ledgers import Ledger

ROLES = {"validator": 2, "inference": 1, "client": 1}
TREASURY = 5_000 * GRAINS_PER_ROLE
FEE = ParameterChange("base_fee_min", 150_000)
CHANGE = Motion(parameter=(FEE,))
DELEGATED = 300 * GRAINS_PER_ROLE


class Assembly:
    """`delegators` are spare accounts that have delegated DELEGATED each to the first validator."""

    def __init__(
        self,
        delegators: int = 2,
        params: Params | None = None,
        treasury: int = TREASURY,
        vesting: tuple[GenesisVesting, ...] = (),
    ) -> None:
        self.ledger = Ledger(ROLES, params, check_signatures=False)
        self.ledger.state = build_state(replace(self.ledger.foundation.genesis, vesting=vesting))
        self.params = self.ledger.state.params
        first = self.ledger.account("validator-0").public
        self.ledger.state = self._with_treasury(self.ledger.state, treasury)
        self.ledger.block()
        self.delegators = [self.ledger.spare(index) for index in range(delegators)]
        for delegator in self.delegators:
            self.ledger.do(delegator, Delegate(first, DELEGATED))

    @staticmethod
    def _with_treasury(state: State, treasury: int) -> State:
        return replace(state, treasury=state.treasury + treasury, supply=state.supply + treasury)

    def account(self, name: str) -> PrivateKey:
        return self.ledger.account(name)

    def propose(self, motion: Motion = CHANGE, by: str = "client-0", title: str = "a change") -> bytes:
        """Put a motion to the vote; the proposal's id."""
        transaction = self.ledger.sign(self.account(by), Propose(title, motion))
        assert self.ledger.block(transaction) == []
        return transaction.id

    def find(self, proposal: bytes) -> Proposal:
        return self.ledger.state.proposals[proposal]

    def get_snapshot(self, proposal: bytes) -> State:
        height = self.find(proposal).height
        return next(state for _, _, state in self.ledger.blocks if state.height == height)

    def vote(self, proposal: bytes, voter: PrivateKey, choice: Choice) -> CastVote:
        """All stake of an account that fits one vote."""
        return build_votes(self.get_snapshot(proposal), voter.public, proposal, choice)[0]

    def cast(self, proposal: bytes, *votes: tuple[PrivateKey, Choice]) -> None:
        for voter, choice in votes:
            self.ledger.do(voter, self.vote(proposal, voter, choice))

    def end_vote(self) -> None:
        """Let the time to vote pass, and the grace after it."""
        self.ledger.block(after_ms=self.params.proposal_voting_ms)
        self.ledger.block(after_ms=self.params.grace_ms)

    def carry(self, motion: Motion, voters: Sequence[str] = ("validator-0", "validator-1")) -> bytes:
        """Propose, have it passed, and let its delay pass; the proposal's id."""
        proposal = self.propose(motion)
        self.cast(proposal, *((self.account(name), Choice.YES) for name in voters))
        self.end_vote()
        assert self.find(proposal).phase == ProposalPhase.PASSED
        self.ledger.block(after_ms=self.params.proposal_delay_ms)
        return proposal
