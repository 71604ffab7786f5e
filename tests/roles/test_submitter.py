"""Transactions of one account reach the ledger in order, once, whatever gossip loses."""

from protocol.codec import decode, encode
from protocol.envelope import decode_body, decode_envelope
from protocol.ledger.disputes import PostTrace
from protocol.ledger.transactions import Transaction, Transfer
from protocol.messages import Refused
from roles.core_effects import NetPublish, NetRequest, Wake
from roles.courier import ToRoles
from roles.role import Submitted
from roles.submitter import IN_FLIGHT_MAX, REPEAT_MS, WAITING_MAX, Submitter
from tests.support.core_parts import GENESIS_MS, Parts, make_parts

NOW_MS = GENESIS_MS + 1_000
VALIDATOR = bytes([7]) * 32


def make_submitter(parts: Parts, listeners: tuple[int, ...] = ()) -> Submitter:
    return Submitter(parts.account, parts.node.public, parts.state.chain, parts.courier, listeners)


def read_published(parts: Parts, effects: list) -> list[Transaction]:
    sent = [effect for effect in effects if isinstance(effect, NetPublish)]
    messages = [decode_body(decode_envelope(item.data, parts.state.chain, 65_536)) for item in sent]
    return [decode(Transaction, data) for message in messages for data in message.items]


def get_submitted(effects: list) -> list[Submitted]:
    return [item.event for item in effects if isinstance(item, ToRoles) and isinstance(item.event, Submitted)]


def count_messages(effects: list) -> int:
    return sum(isinstance(effect, NetPublish) for effect in effects)


def transfer(amount: int) -> Transfer:
    return Transfer(bytes([9]) * 32, amount)


def test_transactions_sent_side_by_side_get_consecutive_nonces():
    parts = make_parts()
    submitter = make_submitter(parts)

    effects = [
        effect for amount in (1, 2, 3) for effect in submitter.submit(transfer(amount), 0, "t", parts.state, NOW_MS)
    ]

    assert [item.nonce for item in read_published(parts, effects)] == [0, 1, 2]
    block, _ = parts.build(read_published(parts, effects))
    assert len(block.transactions) == 3


def test_a_validator_on_the_same_node_hears_what_gossip_would_not_bring_back():
    parts = make_parts()
    submitter = make_submitter(parts, listeners=(2,))

    effects = submitter.submit(transfer(1), 0, "t", parts.state, NOW_MS)
    again = submitter.on_timer(parts.state, True, (), NOW_MS + REPEAT_MS)

    for heard in (effects, again):
        (to_role,) = [item for item in heard if isinstance(item, ToRoles)]
        assert (to_role.role, to_role.event.sender, to_role.event.topic) == (2, parts.node.public, "txs")
        assert [decode(Transaction, data) for data in to_role.event.message.items] == read_published(parts, heard)


def test_a_role_hears_when_its_transaction_is_in_a_block():
    parts = make_parts()
    submitter = make_submitter(parts)
    sent = read_published(parts, submitter.submit(transfer(5), 3, "mine", parts.state, NOW_MS))
    _, state = parts.build(sent)

    effects = submitter.on_ledger(state, tuple(sent), NOW_MS)

    assert [(item.token, item.height, item.error) for item in get_submitted(effects)] == [("mine", 1, "")]


def test_what_is_not_in_a_block_is_gossiped_again_and_then_a_validator_is_asked():
    parts = make_parts()
    submitter = make_submitter(parts)
    first = read_published(parts, submitter.submit(transfer(5), 0, "t", parts.state, NOW_MS))

    turns = [submitter.on_timer(parts.state, True, (VALIDATOR,), NOW_MS + turn * REPEAT_MS) for turn in (1, 2, 3)]

    assert all(read_published(parts, turn) == first for turn in turns)
    asked = [[item.peer for item in turn if isinstance(item, NetRequest)] for turn in turns]
    assert asked == [[], [], [VALIDATOR]]
    assert all(any(isinstance(item, Wake) for item in turn) for turn in turns)


def test_a_refused_transaction_is_reported_and_those_behind_it_move_up():
    parts = make_parts()
    submitter = make_submitter(parts)
    submitter.submit(transfer(2**62), 0, "too much", parts.state, NOW_MS)
    submitter.submit(transfer(1), 0, "fine", parts.state, NOW_MS)
    for turn in (1, 2, 3):
        submitter.on_timer(parts.state, False, (VALIDATOR,), NOW_MS + turn * REPEAT_MS)

    effects = submitter.on_answer(Refused("InsufficientBalance: has 1, needs 2"), parts.state, NOW_MS)

    assert [(item.token, item.height) for item in get_submitted(effects)] == [("too much", None)]
    assert "InsufficientBalance" in get_submitted(effects)[0].error
    assert [item.nonce for item in read_published(parts, effects)] == [0]


def test_what_our_own_ledger_refuses_by_now_does_not_hold_up_the_rest():
    parts = make_parts()
    submitter = make_submitter(parts)
    stale = 3 * IN_FLIGHT_MAX  # of a dispute that is over
    for number in range(stale):
        submitter.submit(PostTrace(bytes([number]) * 32, b""), 0, str(number), parts.state, NOW_MS)
    submitter.submit(transfer(5), 0, "good", parts.state, NOW_MS)

    assert get_submitted(submitter.on_timer(parts.state, False, (), NOW_MS + REPEAT_MS)) == []
    effects = submitter.on_timer(parts.state, True, (), NOW_MS + 2 * REPEAT_MS)

    refused = get_submitted(effects)
    assert [item.token for item in refused] == [str(number) for number in range(stale)]
    assert all("UnknownDispute" in item.error for item in refused)
    last = read_published(parts, effects)[-1]
    assert (last.nonce, last.body) == (0, encode(transfer(5)))
    parts.build([last])


def test_another_process_spending_from_the_account_makes_ours_go_again_with_a_later_number():
    parts = make_parts()
    ours, other = make_submitter(parts), make_submitter(parts)
    ours.submit(transfer(1), 0, "ours", parts.state, NOW_MS)
    theirs = read_published(parts, other.submit(transfer(2), 0, "theirs", parts.state, NOW_MS))
    _, state = parts.build(theirs)

    effects = ours.on_ledger(state, tuple(theirs), NOW_MS)

    assert get_submitted(effects) == []
    assert [item.nonce for item in read_published(parts, effects)] == [1]


def test_what_expires_before_it_is_decided_is_signed_anew_under_the_same_nonce():
    parts = make_parts()
    submitter = make_submitter(parts)
    first = read_published(parts, submitter.submit(transfer(1), 0, "t", parts.state, NOW_MS))[0]

    later = read_published(parts, submitter.on_timer(parts.state, True, (), first.valid_until_ms))[0]

    assert later.nonce == first.nonce
    assert later.body == first.body
    assert later.valid_until_ms > first.valid_until_ms


def test_only_so_many_are_in_flight_and_only_so_many_wait():
    parts = make_parts()
    submitter = make_submitter(parts)
    effects = []
    for _ in range(IN_FLIGHT_MAX + WAITING_MAX + 1):
        effects += submitter.submit(transfer(1), 0, "t", parts.state, NOW_MS)

    assert len(read_published(parts, effects)) == IN_FLIGHT_MAX
    assert [item.height for item in get_submitted(effects)] == [None]


def test_what_is_repeated_travels_in_one_message():
    parts = make_parts()
    submitter = make_submitter(parts)
    for amount in range(1, 11):
        submitter.submit(transfer(amount), 0, "t", parts.state, NOW_MS)

    effects = submitter.on_timer(parts.state, True, (), NOW_MS + REPEAT_MS)

    assert [item.nonce for item in read_published(parts, effects)] == list(range(10))
    assert count_messages(effects) == 1
