"""Certificates made by hand: votes to finalise a header, by whoever is asked."""

from protocol.keys import PrivateKey
from protocol.ledger.block import (
    Certificate,
    Header,
    VoteSignature,
    compute_block_id,
    compute_vote_bytes,
    make_final_ballot,
)


def certify(header: Header, *signers: PrivateKey, view: int = 1) -> Certificate:
    """A certificate with the votes of these keys, in the order a certificate has them."""
    ballot = make_final_ballot(header.height, view, compute_block_id(header))
    data = compute_vote_bytes(header.chain, ballot.height, ballot.view, ballot.kind, ballot.block_id)
    keys = sorted(signers, key=lambda key: key.public)
    return Certificate(ballot, tuple(VoteSignature(key.public, key.sign(data)) for key in keys))
