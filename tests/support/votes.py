"""Ballots for tests."""

from protocol.consensus.messages import NOTHING, Ballot
from protocol.ledger.block import VoteKind


def make_final_ballot(height: int, view: int, block_id: bytes) -> Ballot:
    """What is signed to finalise a block."""
    return Ballot(height, view, VoteKind.FINALISE, 0, block_id, NOTHING)
