"""Following the ledger: blocks come in answers, and the next are under way while those are applied."""

import random
from dataclasses import replace

import pytest

from protocol.keys import PrivateKey, format_account
from protocol.ledger.genesis import build_state, compute_chain_id
from protocol.ledger.restart import apply_restart
from protocol.ledger.restart_terms import Restart, compute_restart_id, sign_seat
from protocol.ledger.transactions import Transfer
from protocol.messages import Blocks, CertifiedBlock, GetBlocks
from roles import core_effects as ce
from roles.courier import Courier, Out
from roles.follower import Follower
from roles.mailbox import Mailbox
from testnet.genesis import build_genesis
from tests.protocol.ledger.test_restart import NAMES, build_after, make_key, make_ledger, make_restart
from tests.support.certificates import certify
from tests.support.ledgers import Ledger
from tests.support.long_chain import make_commits
from tests.support.other_signature import OtherSigner

NOW_MS = 1_800_000_000_000
FOUNDATION = build_genesis(3, {"validator": 4}, (), now_ms=1_700_000_000_000)
CHAIN = compute_chain_id(FOUNDATION.genesis)
BLOCKS = tuple(CertifiedBlock(commit.block, commit.certificate) for commit in make_commits(FOUNDATION, 12))
PEER, OTHER = b"p" * 32, b"o" * 32


def make_follower() -> Follower:
    mailbox = Mailbox(PrivateKey.from_seed(b"m" * 32), CHAIN, 1)
    return Follower(build_state(FOUNDATION.genesis), lambda height: None, Courier(mailbox, CHAIN), random.Random(1))


def list_asked(out: list[Out]) -> list[int]:
    """The heights that are asked for from."""
    opener = Mailbox(PrivateKey.from_seed(b"n" * 32), CHAIN, 1)
    me = PrivateKey.from_seed(b"m" * 32).public
    messages = [opener.open_from(me, "sync", item.data) for item in out if isinstance(item, ce.NetRequest)]
    assert all(isinstance(message, GetBlocks) for message in messages)
    return [message.height for message in messages]


def count_commits(out: list[Out]) -> int:
    return sum(isinstance(item, ce.Commit) for item in out)


def test_the_next_blocks_are_asked_for_before_those_at_hand_are_applied() -> None:
    follower = make_follower()
    out = follower.on_answer(PEER, Blocks(12, BLOCKS[:5]), (PEER,), NOW_MS)
    assert (list_asked(out), count_commits(out)) == ([6], 0)
    assert [item.name for item in out if isinstance(item, ce.Wake)] == ["apply"]
    assert count_commits(follower.apply_held()) == 5
    assert follower.apply_held() == []

    out = follower.on_answer(PEER, Blocks(12, BLOCKS[5:10]), (PEER,), NOW_MS)
    assert (list_asked(out), follower.state.height) == ([11], 5)
    # The answer may be quicker than our own timer.
    out = follower.on_answer(PEER, Blocks(12, BLOCKS[10:]), (PEER,), NOW_MS)
    assert (list_asked(out), count_commits(out)) == ([], 7)
    assert (follower.state.height, follower.is_synced) == (12, True)


@pytest.mark.parametrize("is_voter", [False, True])
def test_only_who_votes_has_blocks_on_the_disk_before_anything_else(is_voter: bool) -> None:
    follower = make_follower()
    follower.is_voter = is_voter
    out = follower.on_answer(PEER, Blocks(5, BLOCKS[:5]), (PEER,), NOW_MS)
    assert [item.is_synced for item in out if isinstance(item, ce.Commit)] == 5 * [is_voter]


def test_blocks_that_do_not_follow_are_not_built_upon() -> None:
    follower = make_follower()
    out = follower.on_answer(PEER, Blocks(12, BLOCKS[3:5]), (PEER,), NOW_MS)
    assert (list_asked(out), count_commits(out)) == ([1], 0)
    bad = CertifiedBlock(BLOCKS[1].block, BLOCKS[2].certificate)
    follower.on_answer(PEER, Blocks(12, (BLOCKS[0], bad, BLOCKS[2])), (PEER,), NOW_MS)
    out = follower.apply_held()
    assert count_commits(out) == 1
    assert [item.peer for item in out if isinstance(item, ce.NetPenalise)] == [PEER]
    # What was asked for meanwhile does not fit; then it goes on from where we are.
    out = follower.on_answer(PEER, Blocks(12, BLOCKS[3:5]), (PEER, OTHER), NOW_MS)
    assert (list_asked(out), count_commits(out), follower.state.height) == ([2], 0, 1)


def follow_restarted(*restarts: Restart) -> Follower:
    """One whose operator has loaded these."""
    ledger = make_ledger()
    courier = Courier(Mailbox(PrivateKey.from_seed(b"m" * 32), ledger.state.chain, 1), ledger.state.chain)
    return Follower(ledger.state, lambda height: None, courier, random.Random(1), restarts)


def decide_after(restart: Restart, *names: str, number: int = 0) -> CertifiedBlock:
    ledger = make_ledger()
    block, certificate, _ = build_after(ledger, apply_restart(ledger.state, restart), *names, number=number)
    return CertifiedBlock(block, certificate, (restart,))


def test_the_block_after_a_restart_is_kept_with_it_whether_it_was_loaded_or_comes_with_the_block() -> None:
    restart = make_restart(make_ledger(), *NAMES[:3])
    item = decide_after(restart, *NAMES[:3])
    states = []
    for follower in (follow_restarted(restart), follow_restarted()):
        [commit] = (
            out for out in follower.on_answer(PEER, Blocks(3, (item,)), (), NOW_MS) if isinstance(out, ce.Commit)
        )
        assert commit.restarts == (restart,)
        assert {"restarts", "accounts"} <= {table for table, _, _ in commit.state.changes}
        states.append(follower.state)
        assert follower.get_blocks(GetBlocks(3)).items == (item,)
    assert states[0] == states[1]


def test_a_block_decided_after_another_restart_stops_the_node_and_names_who_signed_both() -> None:
    ledger = make_ledger()
    ours, theirs = make_restart(ledger, *NAMES[:3]), make_restart(ledger, *NAMES[1:], number=1)
    item = decide_after(theirs, *NAMES[1:], number=1)
    follower = follow_restarted(ours)
    [halt] = (out for out in follower.on_answer(PEER, Blocks(3, (item,)), (), NOW_MS) if isinstance(out, ce.Halt))
    for name in NAMES:
        assert (format_account(ledger.account(name).public) in halt.reason) == (name in NAMES[1:3])
    assert follower.state.block_id == compute_restart_id(ours.terms)


def test_a_block_that_nobody_has_decided_is_its_senders_fault_with_a_restart_too() -> None:
    ledger = make_ledger()
    ours, theirs = make_restart(ledger, *NAMES[:3]), make_restart(ledger, *NAMES[1:], number=1)
    good = decide_after(ours, *NAMES[:3])
    for bad in (
        decide_after(theirs, *NAMES[2:], number=1),
        replace(good, restarts=()),
        replace(good, restarts=(theirs,)),
        replace(good, restarts=(ours, theirs)),
    ):
        out = follow_restarted(ours).on_answer(PEER, Blocks(3, (bad,)), (), NOW_MS)
        assert [item.peer for item in out if isinstance(item, ce.NetPenalise)] == [PEER]
        assert not [item for item in out if isinstance(item, ce.Commit | ce.Halt)]


def test_a_later_restart_that_goes_on_from_the_loaded_one_is_followed() -> None:
    """The others lost their new keys too and restarted once more; this operator never saw the second file."""
    ledger = make_ledger()
    first = make_restart(ledger, *NAMES[:3])
    after = apply_restart(ledger.state, first)
    second = make_restart(ledger, *NAMES[1:], generation=2, number=1, state=after)
    block, certificate, _ = build_after(ledger, apply_restart(after, second), *NAMES[1:], number=1)
    item = CertifiedBlock(block, certificate, (first, second))
    out = follow_restarted(first).on_answer(PEER, Blocks(3, (item,)), (), NOW_MS)
    assert [item.restarts for item in out if isinstance(item, ce.Commit)] == [(first, second)]
    assert not [item for item in out if isinstance(item, ce.Halt)]


def test_a_seat_that_signs_the_same_restart_once_more_stops_nobody() -> None:
    """Operators may hold other signatures for one restart, all of them good: a signer can make as many as it likes."""
    restart = make_restart(make_ledger(), *NAMES[:3])
    seat = restart.terms.seats[0]
    [name] = [name for name in NAMES if make_ledger().account(name).public == seat.account]
    account, vote = OtherSigner(make_ledger().account(name)), OtherSigner(make_key(name))
    other = replace(restart, signatures=(sign_seat(restart.terms, account, vote), *restart.signatures[1:]))
    assert other != restart
    out = follow_restarted(other).on_answer(PEER, Blocks(3, (decide_after(restart, *NAMES[:3]),)), (), NOW_MS)
    assert [item.restarts for item in out if isinstance(item, ce.Commit)] == [(restart,)]
    assert not [item for item in out if isinstance(item, ce.Halt)]


def test_a_restart_that_does_not_fit_the_block_it_was_waiting_for_stops_the_node() -> None:
    ledger = make_ledger()
    other = Ledger({"validator": 4})
    for amount in (1, 2):
        other.do(other.spare(), Transfer(bytes(32), amount))
    restart = make_restart(other, *NAMES[:3])
    courier = Courier(Mailbox(PrivateKey.from_seed(b"m" * 32), ledger.state.chain, 1), ledger.state.chain)
    follower = Follower(
        build_state(ledger.foundation.genesis), lambda height: None, courier, random.Random(1), (restart,)
    )
    keys = [PrivateKey.from_seed(ledger.foundation.nodes[name].vote or b"") for name in NAMES]
    items = tuple(CertifiedBlock(block, certify(block.header, *keys)) for block, _, _ in ledger.blocks)
    out = follower.on_answer(PEER, Blocks(2, items), (), NOW_MS)
    assert [item.state.height for item in out if isinstance(item, ce.Commit)] == [1, 2]
    [halt] = (item for item in out if isinstance(item, ce.Halt))
    assert "cannot be used at height 2: the restart stands on block" in halt.reason
    assert not follower.is_synced
