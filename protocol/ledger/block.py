"""Blocks, and the certificates that say validators have decided them.

Votes are bare: one signature by the vote key over (domain, chain, height, view, kind, value), so that all signatures of
a certificate stand under one message. Source: PROTOCOL, "Envelope and ids".
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import field
from enum import IntEnum
from functools import lru_cache
from typing import Annotated

from protocol.codec import encode
from protocol.errors import InvalidBlock, RemoteError
from protocol.fast_dataclass import fast_dataclass
from protocol.keys import verify
from protocol.ledger.records import EpochSnapshot, Tip
from protocol.ledger.state import State
from protocol.ledger.transactions import TRANSACTION_BYTES_MAX
from protocol.signing import compute_domain_prefix
from protocol.types import AtMost, ChainId, Digest, Grains, PublicKey, Signature, TimeMs, UpTo, Whole

TRANSACTIONS_MAX = 1_000
VOTES_MAX = 32
HEADER_TIME_MS_MAX = 2**61  # leaves room for every delay that may be added to it
_BLOCK_PREFIX = compute_domain_prefix("block")
_VOTE_PREFIX = compute_domain_prefix("vote")
_TRANSACTIONS_PREFIX = compute_domain_prefix("transactions")
_VALIDATORS_PREFIX = compute_domain_prefix("validators")
NOTHING = bytes(32)


class VoteKind(IntEnum):
    """What a vote does to a proposal. Source: Simplex."""

    NOTARISE = 1
    FINALISE = 2
    NULLIFY = 3


class InvalidVote(RemoteError):
    """A vote, certificate or proposal that no honest validator sends."""


class InvalidCertificate(InvalidVote):
    """The certificate does not show that the validators decided what it says they did."""


@fast_dataclass(frozen=True)
class Header:
    """`builder` is a validator's account, `reveal` empty or the next layer of its hash onion.

    `state_root` is the state's after this very block. `next_validators` is the digest of those who decide the next
    height, for clients that see headers only.
    """

    chain: ChainId
    height: Whole
    parent: Digest
    time_ms: TimeMs
    builder: PublicKey
    transactions_root: Digest
    state_root: Digest
    next_validators: Digest
    reveal: Tip  # of the builder's hash onion


@fast_dataclass(frozen=True)
class Block:
    header: Header
    transactions: Annotated[tuple[Annotated[bytes, AtMost(TRANSACTION_BYTES_MAX)], ...], AtMost(TRANSACTIONS_MAX)]


@fast_dataclass(frozen=True)
class VoteSignature:
    vote: PublicKey
    signature: Signature


@fast_dataclass(frozen=True)
class Ballot:
    """One thing to vote on in a view.

    To notarise names the block, the view whose block it repeats (`parent`, 0 for a new block) and the digest of the
    proposal's justification; to finalise names the block alone, to nullify nothing.
    """

    # The others tell nearly all apart, and nobody has more than two of one view and kind counted.
    height: Whole = field(hash=False)
    view: Whole
    kind: Annotated[int, UpTo(3)]
    parent: Whole = field(hash=False)
    block_id: Digest
    justification: Digest = field(hash=False)


@fast_dataclass(frozen=True)
class Certificate:
    """A ballot with votes of more than two thirds of the weight, in strict order of vote key."""

    ballot: Ballot
    votes: Annotated[tuple[VoteSignature, ...], AtMost(VOTES_MAX)]


@fast_dataclass(frozen=True)
class _Vote:
    chain: ChainId
    height: Whole
    view: Whole
    kind: Annotated[int, UpTo(3)]
    value: Digest


@fast_dataclass(frozen=True)
class Validator:
    """Who may vote, with what weight."""

    account: PublicKey
    vote: PublicKey
    weight: Grains


@fast_dataclass(frozen=True)
class ValidatorSet:
    """Who decides a height, by vote key."""

    validators: Annotated[tuple[Validator, ...], AtMost(VOTES_MAX)]


@lru_cache(maxsize=256)  # a validator asks for that of one header with every word that it hears of its block
def compute_block_id(header: Header) -> bytes:
    return hashlib.sha256(_BLOCK_PREFIX + encode(header)).digest()


def compute_transactions_root(transactions: tuple[bytes, ...]) -> bytes:
    """sha256 of domain, count and the sha256 of each encoded transaction, signatures included."""
    return compute_digests_root(tuple(hashlib.sha256(data).digest() for data in transactions))


def compute_digests_root(digests: tuple[bytes, ...]) -> bytes:
    """The same from the transactions' digests: all that a proof of one of them needs of the others."""
    return hashlib.sha256(_TRANSACTIONS_PREFIX + len(digests).to_bytes(4, "big") + b"".join(digests)).digest()


def compute_validators_digest(validators: tuple[Validator, ...]) -> bytes:
    return hashlib.sha256(_VALIDATORS_PREFIX + encode(ValidatorSet(validators))).digest()


def compute_vote_bytes(chain: bytes, height: int, view: int, kind: int, value: bytes) -> bytes:
    """What a vote key signs."""
    return _VOTE_PREFIX + encode(_Vote(chain, height, view, kind, value))


def get_validators(state: State) -> tuple[Validator, ...]:
    """Who decides the height after `state`: the validators of its epoch, by vote key, no weight above a quarter.

    A weight is what is bonded and delegated. Of more than VOTES_MAX the heaviest validate.
    The cap of a quarter holds from five validators on: with fewer no weights could satisfy it.
    """
    snapshot = state.get_epoch(state.epoch)
    return get_validators_of(snapshot) if snapshot is not None else ()


def get_validators_of(snapshot: EpochSnapshot) -> tuple[Validator, ...]:
    """The validators of an epoch, as `get_validators`."""
    stakes = snapshot.stakes[:VOTES_MAX]  # the sort is stable: equal stakes by account, as in the snapshot
    limit = sum(stake for stake, _ in stakes)
    if len(stakes) >= 5:
        limit //= 4
    validators = (Validator(item.account, item.vote, min(stake, limit)) for stake, item in stakes)
    return tuple(sorted(validators, key=lambda validator: validator.vote))


def verify_certificate(certificate: Certificate, header: Header, state: State, is_next: bool = True) -> None:
    """InvalidCertificate unless the validators after `state` have decided this header, which follows it.

    Without `is_next` the header may be further ahead: good only if the validators are still the same.
    """
    if header.chain != state.chain or (is_next and header.height != state.height + 1):
        raise InvalidCertificate(f"header {header.height} does not follow height {state.height} of this chain")
    verify_decided(certificate, header, get_validators(state))


def verify_decided(certificate: Certificate, header: Header, validators: tuple[Validator, ...]) -> None:
    """InvalidCertificate unless a quorum of these validators has voted for this header."""
    ballot = make_final_ballot(header.height, certificate.ballot.view, compute_block_id(header))
    if certificate.ballot != ballot or not ballot.view:
        raise InvalidCertificate(f"the certificate of height {certificate.ballot.height} decides another block")
    data = compute_vote_bytes(header.chain, ballot.height, ballot.view, ballot.kind, ballot.block_id)
    weights = {validator.vote: validator.weight for validator in validators}
    verify_quorum(certificate, weights, lambda voter, _, signature: verify(voter, data, signature))


def make_final_ballot(height: int, view: int, block_id: bytes) -> Ballot:
    """What is signed to finalise a block."""
    return Ballot(height, view, VoteKind.FINALISE, 0, block_id, NOTHING)


def verify_quorum(
    certificate: Certificate, weights: Mapping[bytes, int], is_vote: Callable[[bytes, Ballot, bytes], bool]
) -> None:
    """InvalidCertificate unless voters of a quorum of these weights, by vote key, have signed the ballot."""
    weight, before = 0, b""
    for item in certificate.votes:
        if item.vote <= before or item.vote not in weights:
            raise InvalidCertificate(f"vote key {item.vote.hex()} is no validator's, repeated or out of order")
        if not is_vote(item.vote, certificate.ballot, item.signature):
            raise InvalidCertificate(f"the vote of {item.vote.hex()} is not signed by it")
        before = item.vote
        weight += weights[item.vote]
    total = sum(weights.values())
    if not is_quorum(weight, total):
        raise InvalidCertificate(f"votes of weight {weight} out of {total} are no quorum")


def is_quorum(weight: int, total: int) -> bool:
    """More than two thirds."""
    return 3 * weight > 2 * total


def check_header_time(state: State, header: Header, now_ms: int) -> None:
    """InvalidBlock unless a voter may take a fresh header's time: after its parent, close to the voter's clock.

    Only when voting on a fresh block; replay and re-proposed blocks are not checked again. Source: PROTOCOL, "Header
    time".
    """
    earliest = max(state.time_ms + 1, now_ms - state.params.header_behind_ms)
    latest = now_ms + state.params.header_ahead_ms
    if not earliest <= header.time_ms <= latest:
        raise InvalidBlock(f"header time {header.time_ms} is not within {earliest} to {latest}")
