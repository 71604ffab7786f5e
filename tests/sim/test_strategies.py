"""The strategies give what the codec takes, for every message and every transaction there is."""

import pytest
from hypothesis import given, settings

from protocol.codec import decode, encode
from protocol.keys import PrivateKey
from protocol.ledger.block import Block
from protocol.ledger.transactions import Transaction, all_transactions, get_transaction_body
from protocol.registry import all_messages
from protocol.signing import verify_signed
from testnet.sim import simulate
from testnet.strategies import blocks, messages, schedules, seeds, transactions

OWNER = PrivateKey.from_seed(bytes(32))


@pytest.mark.parametrize("entry", all_messages(), ids=lambda entry: entry.name)
def test_every_message_has_a_strategy(entry):
    @given(messages(entry.kind))
    @settings(max_examples=5)
    def survives_the_codec(message):
        assert decode(entry.type, encode(message)) == message

    survives_the_codec()


@given(messages())
def test_any_message_is_of_a_registered_type(message):
    assert type(message) in {entry.type for entry in all_messages()}


@given(transactions(accounts=(OWNER,)))
def test_transactions_are_signed_by_their_account_and_hold_a_known_body(transaction):
    assert transaction.account == OWNER.public
    verify_signed(transaction, transaction.account)
    assert decode(Transaction, encode(transaction)) == transaction
    body = get_transaction_body(transaction.kind)
    assert body in {cls for _, cls in all_transactions()}
    decode(body, transaction.body)


@given(blocks())
def test_blocks_hold_transactions_that_can_be_read(block):
    assert decode(Block, encode(block)) == block
    for data in block.transactions:
        decode(Transaction, data)


@given(seed=seeds(), times=schedules(duration_ms=2_000, requests_max=3))
@settings(max_examples=3, deadline=None)
def test_a_schedule_of_requests_is_answered(seed, times):
    network = simulate(seed)

    asked = []
    for time_ms in times:
        network.run_until(time_ms)
        asked.append(network.request())

    assert network.run_until(lambda: all(each.is_attested for each in asked))
