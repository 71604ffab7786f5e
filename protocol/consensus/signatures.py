"""Ballots signed with Ed25519 keys, each byte string a domain of its own."""

import hashlib

from protocol.codec import encode
from protocol.consensus.messages import Justification
from protocol.fast_dataclass import fast_dataclass
from protocol.keys import Signer, verify
from protocol.ledger.block import Ballot, VoteKind, compute_vote_bytes
from protocol.signing import compute_domain_prefix
from protocol.types import ChainId, Digest, Whole

_PROPOSAL_PREFIX = compute_domain_prefix("proposal")


@fast_dataclass(frozen=True)
class _Subject:
    chain: ChainId
    height: Whole
    view: Whole
    parent: Whole
    block_id: Digest
    justification: Digest


class KeySignatures:
    """Signs with a vote key; without one it can only check."""

    def __init__(self, chain: bytes, signer: Signer | None) -> None:
        self._chain = chain
        self._signer = signer

    def sign_vote(self, ballot: Ballot) -> bytes:
        assert self._signer is not None
        return self._signer.sign(compute_ballot_bytes(self._chain, ballot))

    def sign_proposal(self, ballot: Ballot) -> bytes:
        assert self._signer is not None
        return self._signer.sign(compute_proposal_id(self._chain, ballot))

    def is_vote(self, voter: bytes, ballot: Ballot, signature: bytes) -> bool:
        return verify(voter, compute_ballot_bytes(self._chain, ballot), signature)

    def is_proposal(self, leader: bytes, ballot: Ballot, signature: bytes) -> bool:
        return verify(leader, compute_proposal_id(self._chain, ballot), signature)

    def digest(self, why: Justification) -> bytes:
        return hashlib.sha256(encode(why)).digest()


def compute_proposal_id(chain: bytes, ballot: Ballot) -> bytes:
    """What a leader signs, and what a vote to notarise is about."""
    subject = _Subject(chain, ballot.height, ballot.view, ballot.parent, ballot.block_id, ballot.justification)
    return hashlib.sha256(_PROPOSAL_PREFIX + encode(subject)).digest()


def compute_ballot_bytes(chain: bytes, ballot: Ballot) -> bytes:
    """What a vote key signs to vote for a ballot."""
    value = compute_proposal_id(chain, ballot) if ballot.kind == VoteKind.NOTARISE else ballot.block_id
    return compute_vote_bytes(chain, ballot.height, ballot.view, ballot.kind, value)
