"""Evidence: what a validator has signed and no honest one does. It convicts by itself, whoever brings it.

Five faults: two proposals in a view, two votes to notarise or two to finalise other things in it, votes to finalise
and to nullify it, and a vote for a proposal that cannot be justified. A proposal's signature is over its ballot, so
evidence holds ballots alone; only the last fault needs the justification the ballot names. Source: facts on consensus,
section 4.
"""

from typing import Annotated

from protocol.consensus.events import Accuse
from protocol.consensus.messages import (
    Justification,
    Proposal,
    Vote,
    verify_ballot,
    verify_binding,
    verify_certified,
    verify_justification,
)
from protocol.consensus.signatures import KeySignatures
from protocol.errors import RemoteError
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.block import InvalidVote, Validator, VoteKind
from protocol.types import AtMost

_CLASH = frozenset((VoteKind.FINALISE, VoteKind.NULLIFY))


class NoFault(RemoteError):
    """What was brought as evidence convicts nobody."""


@fast_dataclass(frozen=True)
class Evidence:
    """Two votes, or two proposals as the ballots their leader signed, or one vote and the justification it names."""

    votes: Annotated[tuple[Vote, ...], AtMost(2)]
    proposals: Annotated[tuple[Vote, ...], AtMost(2)]
    why: Annotated[tuple[Justification, ...], AtMost(1)]


def make_evidence(accused: Accuse) -> Evidence:
    """What the core has found, as evidence."""
    match accused.first, accused.second:
        case Vote() as first, Vote() as second:
            return Evidence((first, second), (), ())
        case (Vote() as vote, Proposal() as proposal) | (Proposal() as proposal, Vote() as vote):
            return Evidence((vote,), (), (proposal.why,))
        case first, second:
            ballots = (Vote(item.ballot, _get_signer(item), item.signature) for item in (first, second))
            return Evidence((), tuple(ballots), ())


def _get_signer(signed: Vote | Proposal) -> bytes:
    return signed.voter if isinstance(signed, Vote) else signed.leader


def get_height(evidence: Evidence) -> int:
    """The height the fault was at. NoFault when it is about none."""
    heights = {item.ballot.height for item in (*evidence.votes, *evidence.proposals)}
    if len(heights) != 1:
        raise NoFault(f"evidence is of one height, not of {len(heights)}")
    return heights.pop()


def verify_evidence(evidence: Evidence, validators: tuple[Validator, ...], chain: bytes) -> bytes:
    """The vote key of whoever is guilty. NoFault when nobody is.

    `validators` are those who decide the evidence's height.
    """
    weights = {item.vote: item.weight for item in validators}
    signed = (*evidence.votes, *evidence.proposals)
    signers = {item.voter for item in signed}
    if len(signers) != 1 or len({(item.ballot.height, item.ballot.view) for item in signed}) != 1:
        raise NoFault("evidence is of one validator, height and view")
    guilty = signed[0].voter
    if guilty not in weights:
        raise NoFault(f"{guilty.hex()} did not validate at height {signed[0].ballot.height}")
    _verify_spelling(evidence)
    keys = KeySignatures(chain, None)
    for vote in evidence.votes:
        if not keys.is_vote(guilty, vote.ballot, vote.signature):
            raise NoFault(f"a vote is not signed by {guilty.hex()}")
    for proposal in evidence.proposals:
        if not keys.is_proposal(guilty, proposal.ballot, proposal.signature):
            raise NoFault(f"a proposal is not signed by {guilty.hex()}")
    match len(evidence.votes), len(evidence.proposals), len(evidence.why):
        case 2, 0, 0:
            is_fault = _do_clash(*evidence.votes)
        case 0, 2, 0:
            is_fault = evidence.proposals[0].ballot != evidence.proposals[1].ballot
        case 1, 0, 1:
            is_fault = _is_unjustified(evidence.votes[0], evidence.why[0], weights, keys)
        case _:
            is_fault = False
    if not is_fault:
        raise NoFault("an honest validator may have signed this")
    return guilty


def _verify_spelling(evidence: Evidence) -> None:
    """Signatures do not cover what a ballot's kind leaves empty: written otherwise, one vote would look like two."""
    try:
        for item in (*evidence.votes, *evidence.proposals):
            verify_ballot(item.ballot)
    except InvalidVote as error:
        raise NoFault(str(error)) from error
    if any(item.ballot.kind != VoteKind.NOTARISE for item in evidence.proposals):
        raise NoFault("a proposal is a ballot to notarise")


def _do_clash(first: Vote, second: Vote) -> bool:
    kinds = {first.ballot.kind, second.ballot.kind}
    return kinds == _CLASH or (len(kinds) == 1 and first.ballot != second.ballot)


def _is_unjustified(vote: Vote, why: Justification, weights: dict[bytes, int], keys: KeySignatures) -> bool:
    """Honest validators vote to notarise what is justified. Another justification than the ballot's shows nothing."""
    ballot = vote.ballot
    if ballot.kind != VoteKind.NOTARISE or keys.digest(why) != ballot.justification:
        return False
    try:
        proposal = Proposal(ballot, why, vote.voter, vote.signature)
        verify_binding(proposal, keys)
        verify_justification(proposal)
        for item in (*why.notarised, *why.nullified):
            verify_certified(item, weights, keys)
    except InvalidVote:
        return True
    return False
