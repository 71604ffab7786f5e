"""What a validator has signed at one height, and what it may still sign: all that safety rests on."""

from protocol.consensus.messages import Justification, Proposal, Signatures, Vote
from protocol.ledger.block import Ballot, Certificate, VoteKind

NOTARISE, FINALISE, NULLIFY = VoteKind.NOTARISE, VoteKind.FINALISE, VoteKind.NULLIFY


class Signed:
    """As the vote log remembers it. `votes` by kind and view, `proposals` by view.

    Without `may_sign` it signs nothing more: it is no validator at this height, has lost its log, or has seen its key
    used by another process.
    """

    def __init__(self, voter: bytes | None, signatures: Signatures) -> None:
        self._voter = voter
        self._signatures = signatures
        self.begin(may_sign=False)

    def begin(self, may_sign: bool) -> None:
        """A height at which nothing is signed yet."""
        self.may_sign = may_sign
        self.proposals: dict[int, Proposal] = {}
        self.votes: dict[int, dict[int, Vote]] = {NOTARISE: {}, FINALISE: {}, NULLIFY: {}}

    def restore(self, log: tuple[Vote | Proposal | Certificate, ...]) -> None:
        """What the process before this one has signed at this height."""
        for record in log:
            if isinstance(record, Proposal):
                self.proposals[record.ballot.view] = record
            elif isinstance(record, Vote):
                self.votes[record.ballot.kind][record.ballot.view] = record

    def list_votes(self) -> list[Vote]:
        return [vote for votes in self.votes.values() for vote in votes.values()]

    def list_said(self, view: int) -> list[Vote | Proposal]:
        """All votes, and the proposal of a view: what others may have missed."""
        proposal = self.proposals.get(view)
        return [*self.list_votes(), *([proposal] if proposal is not None else [])]

    def has_cast(self, ballot: Ballot) -> bool:
        vote = self.votes[ballot.kind].get(ballot.view)
        return vote is not None and vote.ballot == ballot

    # One vote of a kind in a view, and never both one to finalise and one to nullify it

    def may_propose(self, view: int) -> bool:
        """Whoever has voted in a view has nothing more to propose in it, not even what it has proposed."""
        return self.may_sign and view not in self.votes[NOTARISE] and view not in self.votes[NULLIFY]

    def may_notarise(self, view: int) -> bool:
        return self.may_sign and view not in self.votes[NOTARISE]

    def may_finalise(self, view: int) -> bool:
        return self.may_sign and view not in self.votes[NULLIFY] and view not in self.votes[FINALISE]

    def may_nullify(self, view: int) -> bool:
        return self.may_sign and view not in self.votes[FINALISE] and view not in self.votes[NULLIFY]

    # Signing: what comes of it has to be kept before it leaves

    def vote(self, ballot: Ballot) -> Vote:
        assert self._voter is not None
        vote = self.votes[ballot.kind][ballot.view] = Vote(ballot, self._voter, self._signatures.sign_vote(ballot))
        return vote

    def propose(self, height: int, view: int, parent: int, block_id: bytes, why: Justification) -> Proposal:
        assert self._voter is not None
        ballot = Ballot(height, view, NOTARISE, parent, block_id, self._signatures.digest(why))
        proposal = Proposal(ballot, why, self._voter, self._signatures.sign_proposal(ballot))
        self.proposals[view] = proposal
        return proposal
