"""A restart gives validators other vote keys, once, if more than two thirds of the stake say so, and undoes nothing."""

import hashlib
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import decode, encode
from protocol.errors import InvalidBlock, RemoteError
from protocol.keys import PrivateKey
from protocol.ledger.apply import apply_block, build_block
from protocol.ledger.block import Block, Certificate, InvalidCertificate, get_validators
from protocol.ledger.errors import InvalidEvidence
from protocol.ledger.light import follow_restart, trust_genesis, verify_header
from protocol.ledger.params import Params
from protocol.ledger.restart import (
    InvalidRestart,
    NoRestartQuorum,
    RestartTooOld,
    StandsElsewhere,
    apply_decided,
    apply_restart,
    get_restart,
    make_terms,
    verify_restart,
)
from protocol.ledger.restart_terms import Restart, RestartSeat, compute_restart_id, find_double_signers, sign_seat
from protocol.ledger.rows import list_state_rows, update_tree
from protocol.ledger.state import State, compute_state_root, compute_supply
from protocol.ledger.transactions import RotateKeys, Transfer, prove_possession
from tests.protocol.ledger.test_evidence import equivocate
from tests.support.certificates import certify
from tests.support.ledgers import Ledger

NAMES = tuple(f"validator-{index}" for index in range(4))
EPOCH_MS = Params().epoch_ms


@cache
def make_ledger() -> Ledger:
    """Four validators and two blocks; the same one for every test that changes nothing."""
    ledger = Ledger({"validator": 4})
    for _ in range(2):
        ledger.do(ledger.spare(), Transfer(bytes(32), 1))
    return ledger


def make_key(name: str, number: int = 0) -> PrivateKey:
    return PrivateKey.from_seed(hashlib.sha256(f"{name}/{number}".encode()).digest())


def make_restart(
    ledger: Ledger, *names: str, generation: int = 1, number: int = 0, state: State | None = None
) -> Restart:
    accounts = {ledger.account(name).public: name for name in names}
    keys = {account: make_key(name, number).public for account, name in accounts.items()}
    return sign(ledger, make_restart_unsigned(state or ledger.state, generation, keys), number)


def make_restart_unsigned(state: State, generation: int, keys: dict[bytes, bytes]) -> Restart:
    return Restart(make_terms(state, generation, keys), ())


def sign(ledger: Ledger, restart: Restart, number: int = 0) -> Restart:
    accounts = {ledger.account(name).public: name for name in NAMES}
    named = [accounts[seat.account] for seat in restart.terms.seats]
    signatures = tuple(sign_seat(restart.terms, ledger.account(name), make_key(name, number)) for name in named)
    return replace(restart, signatures=signatures)


def build_after(ledger: Ledger, state: State, *names: str, number: int = 0) -> tuple[Block, Certificate, State]:
    """A block on a state, with a certificate by the new keys of these validators."""
    body = ledger.sign(ledger.spare(), Transfer(bytes(32), 1))
    block, after, dropped = build_block(state, [body], state.time_ms + 100, ledger.account(NAMES[0]).public)
    assert not dropped
    return block, certify(block.header, *(make_key(name, number) for name in names)), after


def test_a_restart_changes_vote_keys_and_nothing_else() -> None:
    ledger = make_ledger()
    before = ledger.state
    after = apply_restart(before, make_restart(ledger, *NAMES))
    assert {item.vote for item in get_validators(after)} == {make_key(name).public for name in NAMES}
    assert [(item.account, item.weight) for item in sorted(get_validators(after), key=lambda item: item.account)] == [
        (item.account, item.weight) for item in sorted(get_validators(before), key=lambda item: item.account)
    ]
    assert {name for name, _, _ in after.changes} == {"nodes", "vote_owners", "restarts", "epochs"}
    assert (after.height, after.time_ms, after.seed, after.accounts) == (
        before.height,
        before.time_ms,
        before.seed,
        before.accounts,
    )
    assert compute_supply(after) == before.supply
    assert get_restart(before) is None
    assert get_restart(after) == after.restarts[1]


def test_the_block_after_a_restart_is_decided_by_the_new_keys_and_names_the_restart() -> None:
    ledger = make_ledger()
    restart = make_restart(ledger, *NAMES[:3])
    restarted = apply_restart(ledger.state, restart)
    block, certificate, _ = build_after(ledger, restarted, *NAMES[:3])
    assert block.header.parent == compute_restart_id(restart.terms)
    after = apply_decided(ledger.state, block, certificate, (restart,))
    assert after == apply_block(restarted, block)
    assert get_restart(after) is None
    # What a node keeps on disk is what has changed since the block before.
    rows = {(table, key): record for table, key, record in list_state_rows(ledger.state)}
    for table, key, record in after.changes:
        if record is None:
            del rows[table, key]
        else:
            rows[table, key] = record
    assert update_tree(None, [(*key, record) for key, record in rows.items()]) == after.tree
    with pytest.raises(InvalidBlock, match="parent"):
        apply_block(ledger.state, block)


def test_votes_of_former_keys_decide_nothing_after_a_restart() -> None:
    ledger = make_ledger()
    restart = make_restart(ledger, *NAMES[:3])
    block, _, _ = build_after(ledger, apply_restart(ledger.state, restart))
    former = [PrivateKey.from_seed(ledger.foundation.nodes[name].vote or b"") for name in NAMES]
    with pytest.raises(InvalidCertificate, match="no validator's"):
        apply_decided(ledger.state, block, certify(block.header, *former), (restart,))
    last = certify(block.header, former[3], make_key(NAMES[0]), make_key(NAMES[1]))
    assert apply_decided(ledger.state, block, last, (restart,)).height == ledger.state.height + 1
    with pytest.raises(InvalidCertificate, match="no quorum"):
        apply_decided(ledger.state, block, certify(block.header, former[3], make_key(NAMES[0])), (restart,))


@given(st.sets(st.sampled_from(NAMES), max_size=2))
def test_accounts_with_no_more_than_two_thirds_of_the_stake_restart_nothing(names: set[str]) -> None:
    ledger = make_ledger()
    with pytest.raises(NoRestartQuorum) as caught:
        verify_restart(make_restart(ledger, *names), ledger.state)
    assert caught.value.signed * 4 == caught.value.total * len(names)


def test_stake_counts_as_it_is_and_as_it_votes() -> None:
    """Of twelve validators two have 35 % each: the weight of one and all others is a quorum, their stake is not."""
    names = tuple(f"validator-{index}" for index in range(12))
    ledger = Ledger({"validator": 12})
    bond = ledger.state.nodes[ledger.account(names[0]).public].bond
    snapshot = ledger.state.epochs[0]
    rich = {ledger.account(name).public for name in names[:2]}
    more = 350 * bond // 30
    candidates = tuple(
        replace(item, delegated=more - bond if item.account in rich else 0) for item in snapshot.candidates
    )
    changed = replace(ledger.state, epochs={0: replace(snapshot, candidates=candidates)})
    ledger.state = replace(changed, tree=update_tree(None, list_state_rows(changed)))
    signed = names[1:]
    keys = {ledger.account(name).public: make_key(name).public for name in signed}
    terms = make_terms(ledger.state, 1, keys)
    by_account = {ledger.account(name).public: name for name in names}
    seats = [by_account[seat.account] for seat in terms.seats]
    restart = Restart(terms, tuple(sign_seat(terms, ledger.account(name), make_key(name)) for name in seats))
    with pytest.raises(NoRestartQuorum, match="a stake of"):
        verify_restart(restart, ledger.state)


@settings(max_examples=200)
@given(st.data())
def test_a_restart_with_any_bit_flipped_is_refused(data: st.DataObject) -> None:
    ledger = make_ledger()
    wire = encode(make_restart(ledger, *NAMES[:3]))
    bit = data.draw(st.integers(0, 8 * len(wire) - 1))
    changed = bytearray(wire)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RemoteError):
        verify_restart(decode(Restart, bytes(changed)), ledger.state)


def test_a_restart_is_used_once_and_an_older_one_never() -> None:
    ledger = make_ledger()
    first, second = make_restart(ledger, *NAMES), make_restart(ledger, *NAMES[1:], generation=2, number=1)
    restarted = apply_restart(ledger.state, second)
    for restart in (first, second):
        with pytest.raises(StandsElsewhere, match="block"):
            apply_restart(restarted, restart)
    block, certificate, _ = build_after(ledger, restarted, *NAMES[1:], number=1)
    after = apply_decided(ledger.state, block, certificate, (second,))
    with pytest.raises(StandsElsewhere, match="height 2, the ledger on 3"):
        apply_restart(after, first)
    stale = make_restart(ledger, *NAMES, generation=2, number=2, state=after)
    with pytest.raises(RestartTooOld) as caught:
        apply_restart(after, stale)
    assert (caught.value.generation, caught.value.newest) == (2, 2)


def test_decided_blocks_are_not_taken_back() -> None:
    ledger = Ledger({"validator": 4})
    ledger.do(ledger.spare(), Transfer(bytes(32), 1))
    restart = make_restart(ledger, *NAMES)
    ledger.do(ledger.spare(), Transfer(bytes(32), 1))
    with pytest.raises(StandsElsewhere) as caught:
        verify_restart(restart, ledger.state)
    assert (caught.value.stands_on, caught.value.ledger) == (1, 2)


def test_whoever_signs_two_restarts_of_one_generation_is_named() -> None:
    ledger = make_ledger()
    first = make_restart(ledger, *NAMES[:3])
    second = make_restart(ledger, *NAMES[1:], number=1)
    both = sorted(ledger.account(name).public for name in NAMES[1:3])
    assert list(find_double_signers(first, second)) == both
    assert find_double_signers(first, first) == ()
    assert find_double_signers(first, make_restart(ledger, *NAMES, generation=2)) == ()
    forged = replace(second, signatures=first.signatures)
    assert find_double_signers(first, forged) == ()


def test_a_second_restart_stands_on_the_first() -> None:
    """The new keys are lost again before they have decided anything."""
    ledger = make_ledger()
    first = make_restart(ledger, *NAMES[:3])
    restarted = apply_restart(ledger.state, first)
    second = make_restart(ledger, *NAMES[1:], generation=2, number=1, state=restarted)
    again = apply_restart(restarted, second)
    block, certificate, _ = build_after(ledger, again, *NAMES[1:], number=1)
    after = apply_decided(ledger.state, block, certificate, (first, second))
    assert after == apply_block(again, block)
    assert sorted(after.restarts) == [1, 2]


def test_a_vote_key_of_a_restart_is_new_and_in_nobody_elses_hands() -> None:
    ledger = make_ledger()
    accounts = [ledger.account(name).public for name in NAMES]
    votes = {item.account: item.vote for item in get_validators(ledger.state)}
    keys = {account: make_key(name).public for account, name in zip(accounts, NAMES, strict=True)}
    for wrong, why in ((votes[accounts[0]], "in force before"), (votes[accounts[1]], "belongs to")):
        bad = make_restart_unsigned(ledger.state, 1, {**keys, accounts[0]: wrong})
        with pytest.raises(InvalidRestart, match=why):
            verify_restart(bad, ledger.state)
    twice = make_restart_unsigned(ledger.state, 1, {**keys, accounts[0]: keys[accounts[1]]})
    with pytest.raises(InvalidRestart, match="twice"):
        verify_restart(sign(ledger, twice), ledger.state)
    stranger = make_restart_unsigned(ledger.state, 1, {**keys, ledger.spare().public: make_key("x").public})
    signatures = sign(ledger, make_restart_unsigned(ledger.state, 1, keys)).signatures
    with pytest.raises(InvalidRestart, match="does not validate"):
        verify_restart(replace(stranger, signatures=(*signatures, signatures[0])), ledger.state)


def test_seats_are_in_order_and_each_has_its_signatures() -> None:
    ledger = make_ledger()
    good = make_restart(ledger, *NAMES)
    seats = good.terms.seats
    twice = (*seats[:3], RestartSeat(seats[2].account, seats[3].vote))
    for bad in (seats[::-1], twice):
        with pytest.raises(InvalidRestart, match="strict order"):
            verify_restart(replace(good, terms=replace(good.terms, seats=bad)), ledger.state)
    for signatures in (good.signatures[:3], (*good.signatures, good.signatures[0])):
        with pytest.raises(InvalidRestart, match="signatures for 4 seats"):
            verify_restart(replace(good, signatures=signatures), ledger.state)


def test_a_key_that_was_to_follow_by_rotation_may_be_the_new_one_or_gives_way() -> None:
    for follows in (False, True):
        ledger = Ledger({"validator": 4})
        account = ledger.account(NAMES[0])
        planned = make_key(NAMES[0]) if follows else make_key("planned")
        node = ledger.state.nodes[account.public].node
        body = RotateKeys(node, planned.public, bytes(64), b"")
        ledger.do(account, prove_possession(body, account.public, ledger.node(NAMES[0]), planned))
        ledger.state = apply_restart(ledger.state, make_restart(ledger, *NAMES))
        assert ledger.state.nodes[account.public].vote == make_key(NAMES[0]).public
        left = {
            key: item.left_epoch for key, item in ledger.state.vote_owners.items() if item.account == account.public
        }
        assert left.pop(make_key(NAMES[0]).public) == 0
        assert set(left.values()) == {1}


def test_who_has_no_seat_keeps_its_stake_and_its_key() -> None:
    ledger = make_ledger()
    after = apply_restart(ledger.state, make_restart(ledger, *NAMES[:3]))
    last = ledger.account(NAMES[3]).public
    assert [item for item in get_validators(after) if item.account == last] == [
        item for item in get_validators(ledger.state) if item.account == last
    ]


def test_new_keys_stay_when_the_epoch_ends() -> None:
    ledger = Ledger({"validator": 4})
    ledger.state = apply_restart(ledger.state, make_restart(ledger, *NAMES))
    ledger.block(after_ms=EPOCH_MS)
    assert ledger.state.epoch == 1
    assert {item.vote for item in get_validators(ledger.state)} == {make_key(name).public for name in NAMES}


@pytest.mark.parametrize("height", [1, 2])
def test_what_former_keys_have_signed_up_to_the_restart_still_convicts(height: int) -> None:
    """Height 2 is the one the restart is for: both sets answer for what they signed at it."""
    ledger = Ledger({"validator": 4})
    ledger.block()
    proof = equivocate(ledger, NAMES[1], height)
    ledger.state = apply_restart(ledger.state, make_restart(ledger, *NAMES))
    ledger.block()
    ledger.do(ledger.spare(), proof)
    stone = ledger.state.tombstones[ledger.account(NAMES[1]).public]
    assert (stone.vote, stone.height) == (proof.evidence.votes[0].voter, height)


def test_a_former_key_answers_for_no_height_after_the_restarts() -> None:
    ledger = Ledger({"validator": 4})
    ledger.block()
    proof = equivocate(ledger, NAMES[1], 3)
    ledger.state = apply_restart(ledger.state, make_restart(ledger, *NAMES))
    ledger.block()
    ledger.block()
    assert isinstance(ledger.refuse(ledger.spare(), proof), InvalidEvidence)


def test_a_light_client_follows_across_a_restart() -> None:
    ledger = make_ledger()
    trusted = trust_genesis(ledger.foundation.genesis)
    restart = make_restart(ledger, *NAMES[:3])
    block, certificate, _ = build_after(ledger, apply_restart(ledger.state, restart), *NAMES[:3])
    with pytest.raises(InvalidCertificate, match="no validator's"):
        verify_header(trusted, block.header, certificate)
    followed = follow_restart(trusted, restart)
    verify_header(followed, block.header, certificate)
    with pytest.raises(RestartTooOld):
        follow_restart(followed, restart)
    with pytest.raises(NoRestartQuorum):
        follow_restart(trusted, make_restart(ledger, *NAMES[:2]))
    with pytest.raises(StandsElsewhere, match="height 2, the ledger on 3"):
        follow_restart(replace(trusted, height=3), restart)


def test_a_restart_is_for_one_chain_and_one_state() -> None:
    ledger = make_ledger()
    state = ledger.state
    for other, what in (
        (replace(state, block_id=bytes(32)), "block"),
        (replace(state, treasury=state.treasury + 1), "state root"),
    ):
        with pytest.raises(StandsElsewhere, match=what):
            verify_restart(make_restart(ledger, *NAMES, state=other), state)
    elsewhere = make_restart(ledger, *NAMES, state=replace(state, chain=b"another1"))
    with pytest.raises(StandsElsewhere):
        verify_restart(elsewhere, state)
    with pytest.raises(StandsElsewhere, match="chain"):
        follow_restart(trust_genesis(ledger.foundation.genesis), elsewhere)
    assert compute_state_root(state) == ledger.blocks[-1][0].header.state_root
