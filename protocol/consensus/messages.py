"""What validators say to each other about one height: ballots, votes, certificates of votes, proposals.

A ballot is what is voted on. All votes for one ballot sign the same bytes, so that a certificate is the ballot once and
signatures. A vote to notarise commits to the whole proposal, its justification included: a validator that votes for a
proposal with a gap convicts itself. Source: PROTOCOL, "Envelope and ids"; facts on consensus, sections 2 and 4.
"""

from collections.abc import Mapping
from typing import Annotated, Protocol

from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.block import NOTHING, Ballot, Certificate, InvalidVote, VoteKind, verify_quorum
from protocol.types import AtMost, PublicKey, Signature

GAP_MAX = 1_000  # views without a block between a proposal and the one it repeats
_KINDS = frozenset((VoteKind.NOTARISE, VoteKind.FINALISE, VoteKind.NULLIFY))


@fast_dataclass(frozen=True)
class Vote:
    ballot: Ballot
    voter: PublicKey
    signature: Signature


@fast_dataclass(frozen=True)
class Justification:
    """Why a proposal may be made: the notarisation it repeats, if any, and that all views since are void."""

    notarised: Annotated[tuple[Certificate, ...], AtMost(1)]
    nullified: Annotated[tuple[Certificate, ...], AtMost(GAP_MAX)]


@fast_dataclass(frozen=True)
class Proposal:
    """A leader's block for a view. `signature` is over the ballot to notarise it, under a domain of its own."""

    ballot: Ballot
    why: Justification
    leader: PublicKey
    signature: Signature


Message = Vote | Certificate | Proposal


class Signatures(Protocol):
    """How ballots are signed: with keys (`signatures.KeySignatures`), or in large simulations by name."""

    def sign_vote(self, ballot: Ballot) -> bytes: ...

    def sign_proposal(self, ballot: Ballot) -> bytes: ...

    def is_vote(self, voter: bytes, ballot: Ballot, signature: bytes) -> bool: ...

    def is_proposal(self, leader: bytes, ballot: Ballot, signature: bytes) -> bool: ...

    def digest(self, why: Justification) -> bytes: ...


def verify_ballot(ballot: Ballot) -> None:
    """InvalidVote for a ballot that says more or less than its kind does: each has one spelling."""
    if ballot.view < 1 or ballot.kind not in _KINDS:
        raise InvalidVote(f"no ballot is of view {ballot.view} and kind {ballot.kind}")
    if ballot.kind == VoteKind.NOTARISE:
        if ballot.parent >= ballot.view or ballot.block_id == NOTHING:
            raise InvalidVote(f"view {ballot.view} cannot repeat view {ballot.parent}")
        return
    if ballot.parent or ballot.justification != NOTHING:
        raise InvalidVote("only a vote to notarise has a parent and a justification")
    if (ballot.block_id == NOTHING) != (ballot.kind == VoteKind.NULLIFY):
        raise InvalidVote("a vote to nullify names no block, one to finalise does")


def verify_certified(item: Certificate, weights: Mapping[bytes, int], signatures: Signatures) -> None:
    """InvalidVote unless validators of a quorum of these weights, by vote key, have signed the ballot."""
    verify_ballot(item.ballot)
    verify_quorum(item, weights, signatures.is_vote)


def verify_binding(proposal: Proposal, signatures: Signatures) -> None:
    """InvalidVote unless the proposal's ballot is one to notarise and names the justification that comes with it."""
    ballot = proposal.ballot
    verify_ballot(ballot)
    if ballot.kind != VoteKind.NOTARISE or ballot.justification != signatures.digest(proposal.why):
        raise InvalidVote("a proposal's ballot names another justification")


def verify_justification(proposal: Proposal) -> None:
    """InvalidVote unless the justification is exactly the one its view and parent ask for.

    Of a proposal whose ballot names it (`verify_binding`). The votes in its certificates are not looked at:
    `verify_certified` does that.
    """
    ballot, why = proposal.ballot, proposal.why
    if ballot.view == 1 and not why.notarised and not why.nullified:
        return
    notarised = [(item.ballot.kind, item.ballot.height, item.ballot.view) for item in why.notarised]
    wanted = [(VoteKind.NOTARISE, ballot.height, ballot.parent)] if ballot.parent else []
    nullified = [(item.ballot.kind, item.ballot.height, item.ballot.view) for item in why.nullified]
    gap = [(VoteKind.NULLIFY, ballot.height, view) for view in range(ballot.parent + 1, ballot.view)]
    if notarised != wanted or nullified != gap:
        raise InvalidVote(f"view {ballot.view} after {ballot.parent} is justified by other certificates")
    if why.notarised and why.notarised[0].ballot.block_id != ballot.block_id:
        raise InvalidVote(f"view {ballot.view} repeats view {ballot.parent} with another block")
