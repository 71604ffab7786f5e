"""A restart while operators gather it: first the new vote keys that validators offer, then their signatures.

Whoever signs signs all keys at once. So keys are gathered first, and everybody who has the same files comes to the same
terms, in whatever order they came.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from protocol.codec import decode, encode
from protocol.fast_dataclass import fast_dataclass
from protocol.keys import Signer
from protocol.ledger.block import VOTES_MAX
from protocol.ledger.restart import InvalidRestart, make_terms, verify_signed
from protocol.ledger.restart_terms import (
    RESTARTS_MAX,
    Restart,
    Restarts,
    RestartSeat,
    RestartTerms,
    SeatSignatures,
    are_same,
    encode_restarts,
    is_signed,
    sign_seat,
)
from protocol.ledger.state import State
from protocol.types import AtMost, PublicKey

DRAFT_BYTES_MAX = 64 * 1024


class DraftsDiffer(InvalidRestart):
    """Files that are not of one restart."""


class TooManyRestarts(InvalidRestart):
    """No further one fits after the same block."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} restarts after one block stand already, at most {RESTARTS_MAX} can")


class MissingSignatures(InvalidRestart):
    """Validators have a seat and have not signed."""

    def __init__(self, accounts: Sequence[bytes]) -> None:
        super().__init__(f"{len(accounts)} with a seat have not signed: {', '.join(item.hex() for item in accounts)}")
        self.accounts = tuple(accounts)


@fast_dataclass(frozen=True)
class SignedSeat:
    account: PublicKey
    signatures: SeatSignatures


@fast_dataclass(frozen=True)
class RestartDraft:
    """`before` are restarts after the same block that this one stands on; `signed` is in strict order of account."""

    before: Restarts
    terms: RestartTerms
    signed: Annotated[tuple[SignedSeat, ...], AtMost(VOTES_MAX)]


def offer_seat(state: State, before: tuple[Restart, ...], generation: int, account: bytes, vote: bytes) -> RestartDraft:
    """One validator's new key. `state` is that after the restarts `before`.

    TooManyRestarts when none may follow those.
    """
    verify_room(before)
    return RestartDraft(before, make_terms(state, generation, {account: vote}), ())


def verify_room(before: Sequence[Restart]) -> None:
    """TooManyRestarts when no further restart may follow these."""
    if len(before) >= RESTARTS_MAX:
        raise TooManyRestarts(len(before))


def encode_draft(draft: RestartDraft) -> bytes:
    return encode(draft)


def decode_draft(data: bytes) -> RestartDraft:
    """MalformedMessage for anything but the bytes of one."""
    return decode(RestartDraft, data, DRAFT_BYTES_MAX)


def merge_drafts(drafts: Sequence[RestartDraft]) -> RestartDraft:
    """All keys and signatures of some files together. DraftsDiffer when they are not of one restart.

    Once somebody has signed the seats are fixed: files with keys alone may add none. A signature that is not good
    counts as none; of several good ones, which only an odd signer makes, everybody takes the same.
    """
    first = drafts[0]
    for draft in drafts[1:]:
        for name in ("chain", "height", "generation", "block_id", "state_root"):
            ours, theirs = getattr(first.terms, name), getattr(draft.terms, name)
            if ours != theirs:
                raise DraftsDiffer(f"the files differ in {name}: {_show(ours)} and {_show(theirs)}")
        if not are_same(draft.before, first.before):
            raise DraftsDiffer("the files stand on different restarts")
    verify_room(first.before)
    signing = [draft for draft in drafts if draft.signed]
    seats = _gather_seats(drafts)
    terms = replace(first.terms, seats=tuple(RestartSeat(account, seats[account]) for account in sorted(seats)))
    if any(draft.terms != terms for draft in signing):
        raise DraftsDiffer("the files that are signed are not for the same seats: all must sign with the same files")
    good = {item for draft in signing for item in draft.signed if _is_good(terms, seats, item)}
    signed = {item.account: item for item in sorted(good, key=encode, reverse=True)}
    return RestartDraft(_pick_before(drafts), terms, tuple(signed[account] for account in sorted(signed)))


def sign_draft(draft: RestartDraft, account: Signer, vote: Signer) -> RestartDraft:
    """The draft with one validator's signatures. InvalidRestart when it has no seat by these keys."""
    if RestartSeat(account.public, vote.public) not in draft.terms.seats:
        raise InvalidRestart(f"account {account.public.hex()} has no seat with vote key {vote.public.hex()}")
    signed = {item.account: item for item in draft.signed}
    signed[account.public] = SignedSeat(account.public, sign_seat(draft.terms, account, vote))
    return replace(draft, signed=tuple(signed[each] for each in sorted(signed)))


def complete_draft(draft: RestartDraft) -> Restart:
    """The restart that a draft has become. MissingSignatures when not all with a seat have signed."""
    signed = {item.account: item.signatures for item in draft.signed}
    good = {
        seat.account: signed[seat.account]
        for seat in draft.terms.seats
        if seat.account in signed and is_signed(draft.terms, seat, signed[seat.account])
    }
    missing = [seat.account for seat in draft.terms.seats if seat.account not in good]
    if missing:
        raise MissingSignatures(missing)
    return Restart(draft.terms, tuple(good[seat.account] for seat in draft.terms.seats))


def _is_good(terms: RestartTerms, seats: Mapping[bytes, bytes], item: SignedSeat) -> bool:
    vote = seats.get(item.account)
    return vote is not None and is_signed(terms, RestartSeat(item.account, vote), item.signatures)


def _pick_before(drafts: Sequence[RestartDraft]) -> tuple[Restart, ...]:
    """Those with good signatures, if any file has them."""
    found = sorted({draft.before for draft in drafts}, key=encode_restarts)
    return next((before for before in found if all(map(_is_complete, before))), found[0])


def _is_complete(restart: Restart) -> bool:
    try:
        verify_signed(restart)
    except InvalidRestart:
        return False
    return True


def _gather_seats(drafts: Sequence[RestartDraft]) -> Mapping[bytes, bytes]:
    seats: dict[bytes, bytes] = {}
    for seat in (seat for draft in drafts for seat in draft.terms.seats):
        if seats.setdefault(seat.account, seat.vote) != seat.vote:
            raise DraftsDiffer(f"account {seat.account.hex()} offers two vote keys")
    return seats


def _show(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
