"""A light client follows changes of validators, in order, and is led astray by nobody."""

from dataclasses import replace

import pytest

from protocol.ledger.block import InvalidCertificate, ValidatorSet, get_validators
from protocol.ledger.light import Handover, Trusted, follow, trust_genesis, verify_header
from protocol.ledger.transactions import Stake, Transfer
from tests.support.certificates import certify
from tests.support.jobs import get_keys
from tests.support.ledgers import Ledger


def make_story() -> tuple[Ledger, list[Handover]]:
    """A validator that bonds more twice, each time with an epoch that makes it count, and a block afterwards."""
    ledger = Ledger({"validator": 1})
    handovers = []
    for _ in range(2):
        ledger.do(ledger.account("validator-0"), Stake(5))
        ledger.do(ledger.spare(), Transfer(bytes(32), 1), after_ms=25_000)
        block, certificate, state = ledger.blocks[-1]
        handovers.append(Handover(block.header, certificate, ValidatorSet(get_validators(state))))
    ledger.do(ledger.spare(), Transfer(bytes(32), 1))
    return ledger, handovers


def test_a_client_that_follows_every_change_knows_who_decides() -> None:
    ledger, handovers = make_story()
    trusted = trust_genesis(ledger.foundation.genesis)
    for handover in handovers:
        before, trusted = trusted, follow(trusted, handover)
        assert trusted.validators != before.validators
    assert trusted == Trusted(ledger.state.chain, handovers[-1].header.height, get_validators(ledger.state))
    verify_header(trusted, ledger.blocks[-1][0].header, ledger.blocks[-1][1])


def test_headers_between_changes_need_not_be_seen() -> None:
    ledger, handovers = make_story()
    trusted = trust_genesis(ledger.foundation.genesis)
    verify_header(trusted, handovers[0].header, handovers[0].certificate)
    for _ in range(5):
        ledger.do(ledger.spare(), Transfer(bytes(32), 1))
    trusted = follow(follow(trusted, handovers[0]), handovers[1])
    verify_header(trusted, ledger.blocks[-1][0].header, ledger.blocks[-1][1])


def test_a_header_that_is_older_or_of_another_chain_is_refused() -> None:
    ledger, handovers = make_story()
    trusted = follow(trust_genesis(ledger.foundation.genesis), handovers[0])
    with pytest.raises(InvalidCertificate, match="does not follow"):
        follow(trusted, handovers[0])
    block, certificate, _ = ledger.blocks[-1]
    with pytest.raises(InvalidCertificate, match="of this chain"):
        verify_header(replace(trusted, chain=b"another1"), block.header, certificate)


def test_new_validators_are_those_the_header_names_and_only_old_ones_hand_over() -> None:
    ledger, handovers = make_story()
    trusted = trust_genesis(ledger.foundation.genesis)
    stranger = ledger.spare(1)
    theirs = ValidatorSet((replace(trusted.validators[0], vote=stranger.public),))
    with pytest.raises(InvalidCertificate, match="other validators"):
        follow(trusted, replace(handovers[0], validators=theirs))
    forged = replace(handovers[0], certificate=certify(handovers[0].header, stranger))
    with pytest.raises(InvalidCertificate, match="no validator's"):
        follow(trusted, forged)
    with pytest.raises(InvalidCertificate, match="decides another block"):
        follow(trusted, replace(handovers[0], header=replace(handovers[0].header, state_root=bytes(32))))
    assert get_keys(ledger.foundation, "validator-0")[1] != stranger


def test_a_block_that_names_other_validators_than_its_state_does_is_invalid() -> None:
    from protocol.errors import InvalidBlock
    from protocol.ledger.apply import apply_block

    ledger, _ = make_story()
    before, (block, _, _) = ledger.blocks[-2][2], ledger.blocks[-1]
    with pytest.raises(InvalidBlock, match="other validators"):
        apply_block(before, replace(block, header=replace(block.header, next_validators=bytes(32))))
