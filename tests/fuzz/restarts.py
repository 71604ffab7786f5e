"""Restart files and what operators hand each other for them, as a target: decoded, merged, bounded, verified, applied.

An input is a mode, then parts of two bytes of length and so many bytes: one restart file, or drafts that are merged. A
fuzzer cannot sign, so in half of the modes whoever's keys are known here signs whatever was decoded.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from protocol.codec import decode, encode
from protocol.errors import RemoteError
from protocol.keys import PrivateKey
from protocol.ledger.block import get_validators
from protocol.ledger.light import Trusted, follow_restart, trust_genesis
from protocol.ledger.restart import InvalidRestart, apply_restart, get_generation, verify_terms
from protocol.ledger.restart_draft import (
    DRAFT_BYTES_MAX,
    RestartDraft,
    SignedSeat,
    complete_draft,
    decode_draft,
    encode_draft,
    merge_drafts,
    offer_seat,
    sign_draft,
)
from protocol.ledger.restart_pending import apply_pending, is_ahead, select_pending
from protocol.ledger.restart_terms import (
    Restart,
    RestartTerms,
    SeatSignatures,
    decode_restarts,
    encode_restarts,
    sign_seat,
)
from protocol.ledger.state import State
from protocol.ledger.transactions import Transfer
from tests.support.ledgers import Ledger

NAMES = tuple(f"validator-{index}" for index in range(4))
IS_FILE, IS_SIGNED, IS_LATE = 1, 2, 4  # bits of the mode
TABLES = {"nodes", "vote_owners", "restarts", "epochs"}
UNSIGNED = SeatSignatures(bytes(64), bytes(64))


def read_restarts(data: bytes) -> None:
    """Whatever is handed in ends in its own errors; what is taken changes vote keys and nothing else."""
    mode, parts = _split(data)
    state = _make_states()[1 if mode & IS_LATE else 0]
    try:
        if mode & IS_FILE:
            _read_file(parts[0] if parts else b"", state, bool(mode & IS_SIGNED))
        elif parts:
            _gather(parts, state, bool(mode & IS_SIGNED))
        decode(RestartTerms, parts[0] if parts else b"")  # what an account remembers to have signed
    except RemoteError:
        return


def _read_file(data: bytes, state: State, is_signed: bool) -> None:
    restarts = decode_restarts(data)
    assert not restarts or encode_restarts(restarts) == data
    if is_signed:
        restarts = tuple(replace(item, signatures=_sign_all(item.terms)) for item in restarts)
    pending = select_pending(state, restarts)
    assert decode_restarts(encode_restarts(pending)) == pending
    after = apply_pending(state, pending)
    assert after is state if is_ahead(state, pending) or not pending else after.block_id != state.block_id
    _check_after(state, after)


def _gather(parts: Sequence[bytes], state: State, is_signed: bool) -> None:
    drafts = [decode_draft(part) for part in parts]
    if is_signed:
        drafts = [replace(draft, signed=_sign_seats(draft.terms)) if draft.signed else draft for draft in drafts]
    merged, backwards = _merge(drafts), _merge(drafts[::-1])
    assert merged == backwards, "the order of files matters"
    if merged is None:
        return
    assert merge_drafts([merged]) == merged
    for restart in merged.before:
        state = apply_restart(state, restart)
    verify_terms(merged.terms, state)
    assert decode_draft(encode_draft(merged)) == merged
    made = complete_draft(merged)
    restarts = (*merged.before, made)
    after = apply_restart(state, made)
    _check_after(state, after)
    assert decode_restarts(encode_restarts(restarts)) == restarts
    trusted = replace(_make_trusted(), generation=get_generation(state), validators=get_validators(state))
    assert follow_restart(trusted, made).validators == get_validators(after)


def _merge(drafts: Sequence[RestartDraft]) -> RestartDraft | None:
    try:
        return merge_drafts(drafts)
    except InvalidRestart:
        return None


def _check_after(before: State, after: State) -> None:
    assert (after.accounts, after.height, after.seed) == (before.accounts, before.height, before.seed)
    weights = [sorted((item.account, item.weight) for item in get_validators(state)) for state in (before, after)]
    assert weights[0] == weights[1]
    assert after is before or {table for table, _, _ in after.changes} <= TABLES


# Keys that are known, and what was signed with them


@cache
def _make_ledger() -> Ledger:
    ledger = Ledger({"validator": 4})
    for _ in range(2):
        ledger.do(ledger.spare(), Transfer(bytes(32), 1))
    return ledger


@cache
def _make_states() -> tuple[State, State]:
    """Where seeds stand, and a block before it."""
    ledger = _make_ledger()
    return ledger.state, ledger.blocks[0][2]


@cache
def _make_trusted() -> Trusted:
    return trust_genesis(_make_ledger().foundation.genesis)


def _make_vote(name: str) -> PrivateKey:
    return PrivateKey.from_seed(hashlib.sha256(name.encode()).digest())


@cache
def _list_keys() -> dict[bytes, PrivateKey]:
    ledger = _make_ledger()
    keys = [*(ledger.account(name) for name in NAMES), *map(_make_vote, (*NAMES, *(f"{name}/2" for name in NAMES)))]
    return {key.public: key for key in keys}


def _sign_all(terms: RestartTerms) -> tuple[SeatSignatures, ...]:
    keys = _list_keys()
    return tuple(
        sign_seat(terms, keys[seat.account], keys[seat.vote])
        if seat.account in keys and seat.vote in keys
        else UNSIGNED
        for seat in terms.seats
    )


def _sign_seats(terms: RestartTerms) -> tuple[SignedSeat, ...]:
    pairs = zip(terms.seats, _sign_all(terms), strict=True)
    return tuple(SignedSeat(seat.account, signatures) for seat, signatures in pairs)


# Seeds


def make_restart_seeds() -> list[bytes]:
    """Offers, signed files, whole restart files and one that is ahead, of three validators of four."""
    ledger = _make_ledger()
    state = ledger.state
    offers = [offer_seat(state, (), 1, ledger.account(name).public, _make_vote(name).public) for name in NAMES[:3]]
    signed = [sign_draft(merge_drafts(offers), ledger.account(name), _make_vote(name)) for name in NAMES[:3]]
    made = complete_draft(merge_drafts(signed))
    first = Restart(made.terms, made.signatures)
    after = apply_restart(state, first)
    again = [
        offer_seat(after, (first,), 2, ledger.account(name).public, _make_vote(f"{name}/2").public)
        for name in NAMES[:3]
    ]
    file = encode_restarts((first,))
    whole = [merge_drafts(signed), *signed[:2]]
    drafts = [[encode_draft(draft) for draft in found] for found in (offers, signed, whole, again)]
    assert all(len(item) < DRAFT_BYTES_MAX for found in drafts for item in found)
    seeds = [_join(mode, *found) for found in drafts for mode in (0, IS_SIGNED)]
    seeds += [_join(IS_FILE | mode, file) for mode in (0, IS_SIGNED, IS_LATE, IS_LATE | IS_SIGNED)]
    return [*seeds, _join(IS_FILE, encode_restarts((first, first))), _join(0, encode(made.terms))]


def _join(mode: int, *parts: bytes) -> bytes:
    return bytes([mode]) + b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def _split(data: bytes) -> tuple[int, list[bytes]]:
    at, parts = 1, []
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        parts.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return (data[0] if data else 0), parts
