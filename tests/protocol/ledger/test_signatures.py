"""What is signed in a transaction is found out once, wherever it is asked about, and junk is asked about every time."""

from dataclasses import replace

import pytest

from protocol import signing
from protocol.check import check_transaction_message
from protocol.codec import encode
from protocol.errors import BadSignature
from protocol.ledger.apply import apply_block, build_block, can_hold, check_transaction
from protocol.ledger.errors import InvalidSignature
from protocol.ledger.signatures import forget_verified, verify_transaction
from protocol.ledger.transactions import Transfer
from protocol.messages import Transactions
from protocol.types import Verdict
from tests.support.ledgers import Ledger


@pytest.fixture
def asked(monkeypatch):
    """How often Ed25519 was asked about anything."""
    forget_verified()
    calls = []
    real = signing.verify

    def counting(public, data, signature):
        calls.append(signature)
        return real(public, data, signature)

    monkeypatch.setattr(signing, "verify", counting)
    return calls


def make_transfers(count):
    ledger = Ledger()
    payer = ledger.spare()
    transfers = [ledger.sign(payer, Transfer(bytes([9]) * 32, number + 1), nonce=number) for number in range(count)]
    return ledger, transfers


def test_gossip_pool_and_blocks_ask_once_between_them(asked):
    ledger, (transfer,) = make_transfers(1)
    now_ms = ledger.state.time_ms + 100
    message = Transactions((encode(transfer),))

    assert check_transaction_message("txs", b"", message, ledger.state, now_ms)[0] is Verdict.ACCEPT
    check_transaction(ledger.state, transfer, time_ms=now_ms)
    block, _, dropped = build_block(ledger.state, (transfer,), now_ms, ledger.account("validator-0").public)
    apply_block(ledger.state, block)

    assert dropped == []
    assert len(block.transactions) == 1
    assert len(asked) == 1


def test_a_signature_that_does_not_hold_is_refused_each_time_and_its_copy_that_does_is_not(asked):
    ledger, (transfer,) = make_transfers(1)
    spoiled = replace(transfer, signature=bytes([transfer.signature[0] ^ 1]) + transfer.signature[1:])
    verify_transaction(transfer)

    for _ in range(2):
        with pytest.raises(BadSignature):
            verify_transaction(spoiled)
        with pytest.raises(InvalidSignature):
            check_transaction(ledger.state, spoiled)
    verify_transaction(transfer)

    assert len(asked) == 1 + 4


def test_a_signature_is_good_for_its_own_transaction_alone(asked):
    _, (first, second) = make_transfers(2)
    verify_transaction(first)

    with pytest.raises(BadSignature):
        verify_transaction(replace(second, signature=first.signature))


def test_pool_and_blocks_ask_once_between_them_about_what_a_settlement_shows(asked):
    ledger = Ledger()
    channel = ledger.open_channel()
    works = [ledger.work(channel, seq)[2] for seq in (1, 2, 3)]
    settlement = ledger.sign(ledger.account("inference-0"), ledger.settle(channel, *works))
    now_ms = ledger.state.time_ms + 100
    asked.clear()

    check_transaction(ledger.state, settlement, time_ms=now_ms)
    assert can_hold(ledger.state, settlement, now_ms)
    block, _, dropped = build_block(ledger.state, (settlement,), now_ms, ledger.account("validator-0").public)
    apply_block(ledger.state, block)

    assert dropped == []
    assert len(block.transactions) == 1
    assert len(asked) == 1 + 3 * 4, "voucher, claim and two attestations of each job, and who sends them"


@pytest.mark.parametrize("part", ["voucher", "claim", "attestation"])
def test_what_a_settlement_shows_with_another_signature_is_refused_each_time(asked, part):
    ledger = Ledger()
    channel = ledger.open_channel()
    _, _, work = ledger.work(channel)
    good = ledger.settle(channel, work)
    statement = work.attestations[1] if part == "attestation" else getattr(work, part)
    spoiled = replace(statement, signature=statement.signature[:-1] + bytes([statement.signature[-1] ^ 1]))
    shown = {"attestations": (work.attestations[0], spoiled)} if part == "attestation" else {part: spoiled}
    bad = ledger.settle(channel, replace(work, **shown))
    worker = ledger.account("inference-0")

    check_transaction(ledger.state, ledger.sign(worker, good))
    for _ in range(2):
        with pytest.raises(InvalidSignature):
            check_transaction(ledger.state, ledger.sign(worker, bad))
        assert asked[-1] == spoiled.signature
