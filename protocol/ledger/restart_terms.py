"""What the accounts of validators sign to restart a ledger, and who has signed. See `restart` for the rule."""

import hashlib
from collections.abc import Sequence
from typing import Annotated

from protocol.codec import decode, encode
from protocol.fast_dataclass import fast_dataclass
from protocol.keys import Signer, verify
from protocol.ledger.block import VOTES_MAX
from protocol.signing import compute_domain_prefix
from protocol.types import AtMost, ChainId, Digest, PublicKey, Signature, Whole

RESTARTS_MAX = 4  # after one block: the next stands on the one before it
_PREFIX = compute_domain_prefix("restart")
_KEY_PREFIX = compute_domain_prefix("restart-key")


@fast_dataclass(frozen=True)
class RestartSeat:
    """The vote key that a validator's account votes by from now on."""

    account: PublicKey
    vote: PublicKey


@fast_dataclass(frozen=True)
class RestartTerms:
    """What is signed. Seats are in strict order of account.

    `block_id` is that of the last decided block, or the id of an earlier restart that follows it. Of two terms with one
    generation an account signs one (`find_double_signers`).
    """

    chain: ChainId
    generation: Whole
    height: Whole
    block_id: Digest
    state_root: Digest
    seats: Annotated[tuple[RestartSeat, ...], AtMost(VOTES_MAX)]


@fast_dataclass(frozen=True)
class SeatSignatures:
    """By a seat's account, and by its new vote key: whoever signs has it."""

    account: Signature
    vote: Signature


@fast_dataclass(frozen=True)
class Restart:
    """`signatures` are those of the seats, in their order."""

    terms: RestartTerms
    signatures: Annotated[tuple[SeatSignatures, ...], AtMost(VOTES_MAX)]


Restarts = Annotated[tuple[Restart, ...], AtMost(RESTARTS_MAX)]


@fast_dataclass(frozen=True)
class RestartList:
    """Each stands on the one before it."""

    items: Restarts


def encode_restarts(items: tuple[Restart, ...]) -> bytes:
    """As they are kept beside a block; empty for none."""
    return encode(RestartList(items)) if items else b""


def decode_restarts(data: bytes) -> tuple[Restart, ...]:
    """MalformedMessage for anything but what `encode_restarts` writes."""
    return decode(RestartList, data).items if data else ()


def compute_restart_id(terms: RestartTerms) -> bytes:
    """What the block after a restart names as its parent."""
    return hashlib.sha256(_PREFIX + encode(terms)).digest()


def sign_seat(terms: RestartTerms, account: Signer, vote: Signer) -> SeatSignatures:
    """What one validator adds to a restart."""
    account_bytes, vote_bytes = _compute_signed(terms)
    return SeatSignatures(account.sign(account_bytes), vote.sign(vote_bytes))


def is_signed(terms: RestartTerms, seat: RestartSeat, signatures: SeatSignatures) -> bool:
    """Whether both keys of a seat have signed."""
    account_bytes, vote_bytes = _compute_signed(terms)
    return verify(seat.account, account_bytes, signatures.account) and verify(seat.vote, vote_bytes, signatures.vote)


def find_double_signers(first: Restart, second: Restart) -> tuple[bytes, ...]:
    """The accounts that have signed two different restarts of one generation, which no honest one does."""
    terms, other = first.terms, second.terms
    if terms == other or (terms.chain, terms.generation) != (other.chain, other.generation):
        return ()
    signed = [
        {seat.account for seat, signatures in pair_seats(item) if is_signed(item.terms, seat, signatures)}
        for item in (first, second)
    ]
    return tuple(sorted(signed[0] & signed[1]))


def are_same(first: Sequence[Restart], second: Sequence[Restart]) -> bool:
    """Whether these are the same restarts, whichever of a seat's signatures each holds."""
    return [restart.terms for restart in first] == [restart.terms for restart in second]


def pair_seats(restart: Restart) -> list[tuple[RestartSeat, SeatSignatures]]:
    """Seats with their signatures."""
    return list(zip(restart.terms.seats, restart.signatures, strict=False))


def _compute_signed(terms: RestartTerms) -> tuple[bytes, bytes]:
    restart_id = compute_restart_id(terms)
    return _PREFIX + restart_id, _KEY_PREFIX + restart_id
