"""Votes of one height as they come: counted by ballot, and held against each other for faults."""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.consensus.events import Accuse, Effect
from protocol.consensus.messages import Proposal, Vote
from protocol.ledger.block import Ballot, Certificate, VoteKind, VoteSignature

BAD_PROPOSALS_MAX = 32
NOTARISE, FINALISE, NULLIFY = VoteKind.NOTARISE, VoteKind.FINALISE, VoteKind.NULLIFY
Cast = tuple[Vote, ...]  # two at most


@dataclass(slots=True)
class Count:
    """The votes for one ballot, by voter, and their weight together."""

    weight: int
    votes: dict[bytes, Vote]


class Tally:
    """`weights` by vote key. Keeps two ballots of a voter, view and kind at most: more would show nothing new.

    `counts` has the ballots with votes: one that is in it is spelt right.
    """

    def __init__(self, weights: Mapping[bytes, int]) -> None:
        self._weights = weights
        self._total = sum(weights.values())
        self.counts: dict[Ballot, Count] = {}
        self._by_voter: dict[tuple[bytes, int, int], Cast] = {}  # and view and kind
        self._bad: dict[Ballot, Proposal] = {}
        self._heard: set[bytes] = set()
        self._weight_heard = 0

    def add(self, vote: Vote, count: Count | None, found: list[Effect]) -> Certificate | None:
        """Count a vote whose signature holds, into what `counts` has of its ballot, which must not have it yet.

        What its voter is guilty of by it goes to `found`. A certificate if the ballot has a quorum by this very vote.
        """
        if not self.note(vote, count, found):
            return None
        ballot, limit = vote.ballot, 2 * self._total
        if count is None:
            count = self.counts[ballot]
        if 3 * count.weight <= limit or 3 * (count.weight - self._weights[vote.voter]) > limit:
            return None
        return _certify(ballot, count)

    def note(self, vote: Vote, count: Count | None, found: list[Effect]) -> bool:
        """As `add`, for a vote whose ballot is certified already; False when the voter is known for two others."""
        ballot, voter = vote.ballot, vote.voter
        kind = ballot.kind
        key = voter, ballot.view, kind
        before = self._by_voter.get(key)
        if before is None:
            self._by_voter[key] = (vote,)
        elif len(before) > 1:
            return False
        else:
            self._by_voter[key] = (*before, vote)
            found.append(Accuse("two votes of one kind in a view", before[0], vote))
        weight = self._weights[voter]
        if count is None:
            self.counts[ballot] = Count(weight, {voter: vote})
        else:
            count.votes[voter] = vote
            count.weight += weight
        if voter not in self._heard:
            self._heard.add(voter)
            self._weight_heard += weight
        if kind != NOTARISE:
            others = self._by_voter.get((voter, ballot.view, NULLIFY if kind == FINALISE else FINALISE))
            if others is not None:
                found += [Accuse("finalised and nullified one view", other, vote) for other in others]
        elif self._bad and (bad := self._bad.get(ballot)) is not None:
            found.append(Accuse("a vote for a proposal that cannot be justified", vote, bad))
        return True

    def is_certified(self, ballot: Ballot) -> bool:
        """Whether a quorum for it has been counted."""
        count = self.counts.get(ballot)
        return count is not None and 3 * count.weight > 2 * self._total

    def clashes(self, vote: Vote) -> bool:
        """Whether its voter would be guilty of something by it, if its signature held."""
        ballot, voter = vote.ballot, vote.voter
        before = self._by_voter.get((voter, ballot.view, ballot.kind))
        if before is not None:
            return len(before) == 1 and before[0].signature != vote.signature and before[0].ballot != ballot
        opposite = NULLIFY if ballot.kind == FINALISE else FINALISE
        return ballot.kind != NOTARISE and (voter, ballot.view, opposite) in self._by_voter

    def note_bad(self, proposal: Proposal, found: list[Effect]) -> None:
        """A signed proposal that no honest validator votes for; who has done so already goes to `found`."""
        if proposal.ballot in self._bad or len(self._bad) >= BAD_PROPOSALS_MAX:
            return
        self._bad[proposal.ballot] = proposal
        count = self.counts.get(proposal.ballot)
        votes = count.votes.values() if count is not None else ()
        found += [Accuse("a vote for a proposal that cannot be justified", vote, proposal) for vote in votes]

    @property
    def is_more_than_a_third_heard(self) -> bool:
        return 3 * self._weight_heard > self._total


def _certify(ballot: Ballot, count: Count) -> Certificate:
    votes = count.votes
    return Certificate(ballot, tuple([VoteSignature(voter, votes[voter].signature) for voter in sorted(votes)]))
