"""Votes of one height as they come: counted by ballot, and held against each other for faults."""

from collections.abc import Mapping

from protocol.consensus.events import Accuse
from protocol.consensus.messages import Proposal, Vote
from protocol.ledger.block import Ballot, Certificate, VoteKind, VoteSignature

BAD_PROPOSALS_MAX = 32


class Tally:
    """`weights` by vote key. Keeps two ballots of a voter, view and kind at most: more would show nothing new."""

    def __init__(self, weights: Mapping[bytes, int]) -> None:
        self._weights = weights
        self._total = sum(weights.values())
        self._votes: dict[Ballot, dict[bytes, Vote]] = {}
        self._sums: dict[Ballot, int] = {}
        self._by_voter: dict[tuple[bytes, int, int], list[Vote]] = {}
        self._bad: dict[Ballot, Proposal] = {}
        self._weight_heard: dict[bytes, int] = {}

    def has(self, vote: Vote) -> bool:
        votes = self._votes.get(vote.ballot)
        return votes is not None and vote.voter in votes

    def add(self, vote: Vote) -> list[Accuse]:
        """Count a vote whose signature holds; what its voter is guilty of by it."""
        ballot, voter = vote.ballot, vote.voter
        before = self._by_voter.setdefault((voter, ballot.view, ballot.kind), [])
        if len(before) > 1:
            return []
        accusations = [Accuse("two votes of one kind in a view", other, vote) for other in before]
        before.append(vote)
        self._votes.setdefault(ballot, {})[voter] = vote
        self._sums[ballot] = self._sums.get(ballot, 0) + self._weights[voter]
        self._weight_heard[voter] = self._weights[voter]
        opposite = _OPPOSITE.get(ballot.kind)
        if opposite is not None:
            others = self._by_voter.get((voter, ballot.view, opposite), ())
            accusations += [Accuse("finalised and nullified one view", other, vote) for other in others]
        if (bad := self._bad.get(ballot)) is not None:
            accusations.append(Accuse("a vote for a proposal that cannot be justified", vote, bad))
        return accusations

    def clashes(self, vote: Vote) -> bool:
        """Whether its voter would be guilty of something by it, if its signature held."""
        ballot, voter = vote.ballot, vote.voter
        before = self._by_voter.get((voter, ballot.view, ballot.kind), ())
        opposite = _OPPOSITE.get(ballot.kind)
        against = () if opposite is None else self._by_voter.get((voter, ballot.view, opposite), ())
        return not self.has(vote) and (len(before) == 1 or (not before and bool(against)))

    def note_bad(self, proposal: Proposal) -> list[Accuse]:
        """A signed proposal that no honest validator votes for; who has done so already."""
        if proposal.ballot in self._bad or len(self._bad) >= BAD_PROPOSALS_MAX:
            return []
        self._bad[proposal.ballot] = proposal
        votes = self._votes.get(proposal.ballot, {}).values()
        return [Accuse("a vote for a proposal that cannot be justified", vote, proposal) for vote in votes]

    def certify(self, ballot: Ballot) -> Certificate | None:
        """A certificate from the votes there are; None while they are no quorum."""
        if 3 * self._sums.get(ballot, 0) <= 2 * self._total:
            return None
        votes = self._votes[ballot]
        return Certificate(ballot, tuple(VoteSignature(voter, votes[voter].signature) for voter in sorted(votes)))

    @property
    def is_more_than_a_third_heard(self) -> bool:
        return 3 * sum(self._weight_heard.values()) > self._total


_OPPOSITE: dict[int, int] = {VoteKind.FINALISE: VoteKind.NULLIFY, VoteKind.NULLIFY: VoteKind.FINALISE}
