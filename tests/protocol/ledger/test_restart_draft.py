"""Whoever has the same files comes to the same restart, in whatever order they came; files of two are told apart."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ledger.restart import InvalidRestart, apply_restart, make_terms, verify_restart
from protocol.ledger.restart_draft import (
    DraftsDiffer,
    MissingSignatures,
    RestartDraft,
    TooManyRestarts,
    complete_draft,
    decode_draft,
    encode_draft,
    merge_drafts,
    offer_seat,
    sign_draft,
)
from protocol.ledger.restart_terms import RESTARTS_MAX, Restart, SeatSignatures
from tests.protocol.ledger.test_restart import NAMES, make_key, make_ledger, make_restart
from tests.support.other_signature import OtherSigner


def offer(name: str, generation: int = 1, number: int = 0) -> RestartDraft:
    ledger = make_ledger()
    vote = make_key(name, number).public
    return offer_seat(ledger.state, (), generation, ledger.account(name).public, vote)


def sign(draft: RestartDraft, name: str) -> RestartDraft:
    return sign_draft(draft, make_ledger().account(name), make_key(name))


@given(st.permutations(NAMES[:3]), st.permutations(NAMES[:3]))
def test_files_come_together_in_any_order_and_as_often_as_they_like(offers: list[str], signers: list[str]) -> None:
    made = [sign(merge_drafts([offer(name) for name in (*offers, offers[0])]), name) for name in signers]
    merged = merge_drafts([*made, made[0], offer(signers[0])])
    assert decode_draft(encode_draft(merged)) == merged
    restart = complete_draft(merged)
    verify_restart(restart, make_ledger().state)
    assert restart == complete_draft(merge_drafts(made[::-1]))


def test_who_has_not_signed_is_named() -> None:
    draft = merge_drafts([offer(name) for name in NAMES])
    for name in NAMES[:2]:
        draft = sign(draft, name)
    with pytest.raises(MissingSignatures) as caught:
        complete_draft(draft)
    missing = sorted(make_ledger().account(name).public for name in NAMES[2:])
    assert list(caught.value.accounts) == missing
    first, second = draft.signed
    forged = replace(draft, signed=(first, replace(second, signatures=first.signatures)))
    with pytest.raises(MissingSignatures) as caught:
        complete_draft(forged)
    assert list(caught.value.accounts) == sorted([*missing, second.account])


def test_files_of_two_restarts_are_told_apart() -> None:
    both = [offer(name) for name in NAMES[:2]]
    with pytest.raises(DraftsDiffer, match="generation: 1 and 2"):
        merge_drafts([*both, offer(NAMES[2], generation=2)])
    with pytest.raises(DraftsDiffer, match="offers two vote keys"):
        merge_drafts([*both, offer(NAMES[0], number=1)])
    elsewhere = replace(both[0], terms=replace(both[0].terms, block_id=bytes(32)))
    with pytest.raises(DraftsDiffer, match="differ in block_id"):
        merge_drafts([both[1], elsewhere])


def test_once_somebody_has_signed_nobody_is_added() -> None:
    signed = sign(merge_drafts([offer(name) for name in NAMES[:3]]), NAMES[0])
    with pytest.raises(DraftsDiffer, match="the same seats"):
        merge_drafts([signed, offer(NAMES[3])])
    fewer = sign(merge_drafts([offer(name) for name in NAMES[:2]]), NAMES[1])
    with pytest.raises(DraftsDiffer, match="the same seats"):
        merge_drafts([signed, fewer])


def test_only_who_has_a_seat_signs() -> None:
    draft = merge_drafts([offer(name) for name in NAMES[:2]])
    with pytest.raises(InvalidRestart, match="has no seat"):
        sign(draft, NAMES[2])
    with pytest.raises(InvalidRestart, match="has no seat"):
        sign_draft(draft, make_ledger().account(NAMES[0]), make_key(NAMES[1]))


def test_a_broken_signature_takes_no_good_ones_place() -> None:
    merged = merge_drafts([offer(name) for name in NAMES[:3]])
    signed = [sign(merged, name) for name in NAMES[:3]]
    [mine] = signed[0].signed
    for broken in (SeatSignatures(bytes(64), bytes(64)), signed[1].signed[0].signatures):
        bad = replace(merged, signed=(replace(mine, signatures=broken),))
        for files in ([bad, *signed], [*signed, bad]):
            verify_restart(complete_draft(merge_drafts(files)), make_ledger().state)


def test_whoever_signs_twice_makes_no_two_restarts_of_it() -> None:
    """Another nonce, another signature: the same files give the same restart all the same."""
    merged = merge_drafts([offer(name) for name in NAMES[:3]])
    signed = [sign(merged, name) for name in NAMES[:3]]
    account, vote = OtherSigner(make_ledger().account(NAMES[0])), OtherSigner(make_key(NAMES[0]))
    [mine], [other] = signed[0].signed, sign_draft(merged, account, vote).signed
    assert mine != other
    twice = replace(signed[0], signed=(other,))
    made = {complete_draft(merge_drafts(files)) for files in ([twice, *signed], [*signed, twice])}
    assert len(made) == 1

    # The same of what a later one stands on.
    first = complete_draft(merge_drafts(signed))
    again = complete_draft(merge_drafts([twice, *signed[1:]]))
    state = apply_restart(make_ledger().state, first)
    offers = [
        offer_seat(state, (before,), 2, make_ledger().account(name).public, make_key(name, 2).public)
        for name, before in zip(NAMES, (first, again, first), strict=False)
    ]
    assert merge_drafts(offers) == merge_drafts(offers[::-1])


def test_after_one_block_there_are_so_many_restarts_and_no_more() -> None:
    state, before = make_ledger().state, tuple[Restart, ...]()
    for generation in range(1, RESTARTS_MAX + 1):
        before = (*before, make_restart(make_ledger(), *NAMES, generation=generation, number=generation, state=state))
        state = apply_restart(state, before[-1])
    account, vote = make_ledger().account(NAMES[0]).public, make_key("one more").public
    with pytest.raises(TooManyRestarts, match="4 restarts after one block"):
        offer_seat(state, before, RESTARTS_MAX + 1, account, vote)
    handed_in = RestartDraft(before, make_terms(state, RESTARTS_MAX + 1, {account: vote}), ())
    with pytest.raises(TooManyRestarts):
        merge_drafts([handed_in])
