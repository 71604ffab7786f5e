"""Thousands of decided blocks, made as fast as they can be: for whoever has to catch up with them."""

from collections.abc import Iterator

from protocol.keys import PrivateKey
from protocol.ledger.apply import build_block
from protocol.ledger.block import (
    Certificate,
    Header,
    VoteSignature,
    compute_block_id,
    compute_vote_bytes,
    get_validators,
    make_final_ballot,
)
from protocol.ledger.genesis import build_state
from protocol.ledger.randomness import find_reveal
from protocol.ledger.transactions import Transfer
from roles.core_effects import Commit
from testnet.genesis import Foundation
from tests.support.jobs import sign_transaction

STEP_MS = 100
PAYEE = bytes([7]) * 32


def make_commits(foundation: Foundation, heights: int, certified: int = 3) -> Iterator[Commit]:
    """Blocks of one transfer each, built by the validators in turn; so many of them have voted for each."""
    keys = [(PrivateKey.from_seed(seeds.account), PrivateKey.from_seed(seeds.vote))
            for seeds in foundation.nodes.values() if seeds.vote is not None]  # fmt: skip
    payers = [PrivateKey.from_seed(seed) for seed in foundation.spare]
    state = build_state(foundation.genesis)
    for height in range(1, heights + 1):
        account, vote = keys[height % len(keys)]
        payment = sign_transaction(state, payers[height % len(payers)], Transfer(PAYEE, height))
        reveal = find_reveal(state, account.public, vote)
        time_ms = state.time_ms + STEP_MS
        votes = [item.vote for item in get_validators(state)]
        block, state, dropped = build_block(state, [payment], time_ms, account.public, False, reveal)
        assert not dropped, dropped
        signers = sorted((key for _, key in keys if key.public in votes), key=lambda key: key.public)[:certified]
        yield Commit(block, _certify(block.header, signers), state)


def _certify(header: Header, signers: list[PrivateKey]) -> Certificate:
    ballot = make_final_ballot(header.height, 1, compute_block_id(header))
    data = compute_vote_bytes(header.chain, ballot.height, ballot.view, ballot.kind, ballot.block_id)
    return Certificate(ballot, tuple(VoteSignature(key.public, key.sign(data)) for key in signers))
