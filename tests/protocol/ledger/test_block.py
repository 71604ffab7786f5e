"""Certificates, header times and the tables extensions add to."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from protocol.errors import InvalidBlock, LocalError
from protocol.keys import PrivateKey
from protocol.ledger import due
from protocol.ledger.apply import register_rule
from protocol.ledger.block import (
    Certificate,
    InvalidCertificate,
    VoteKind,
    VoteSignature,
    check_header_time,
    get_validators,
    is_quorum,
    verify_certificate,
)
from protocol.ledger.context import TransactionContext
from protocol.ledger.dispute_records import DisputePhase
from protocol.ledger.draft import Draft
from protocol.ledger.due import register_due_kind
from protocol.ledger.flows import Source
from protocol.ledger.transactions import Transfer, get_transaction_kind, transaction
from protocol.types import Grains
from tests.support.certificates import certify
from tests.support.ledgers import Ledger


def test_the_validators_own_vote_certifies_a_block() -> None:
    ledger = Ledger()
    before = ledger.state
    ledger.block()
    block, certificate, _ = ledger.blocks[0]
    verify_certificate(certificate, block.header, before)


def change_ballot(certificate: Certificate, **changes: Any) -> Certificate:
    return replace(certificate, ballot=replace(certificate.ballot, **changes))


CHANGES: dict[str, Callable[[Certificate], Certificate]] = {
    "height": lambda c: change_ballot(c, height=2),
    "view": lambda c: change_ballot(c, view=c.ballot.view + 1),
    "view zero": lambda c: change_ballot(c, view=0),
    "kind": lambda c: change_ballot(c, kind=VoteKind.NOTARISE),
    "block": lambda c: change_ballot(c, block_id=bytes(32)),
    "another spelling": lambda c: change_ballot(c, justification=b"\x01" * 32),
    "no vote": lambda c: replace(c, votes=()),
    "one vote twice": lambda c: replace(c, votes=c.votes * 2),
    "a stranger's vote": lambda c: replace(
        c, votes=(VoteSignature(PrivateKey.from_seed(b"x" * 32).public, c.votes[0].signature),)
    ),
    "a forged vote": lambda c: replace(c, votes=(replace(c.votes[0], signature=bytes(64)),)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_certificate_with_one_thing_changed_certifies_nothing(name: str) -> None:
    ledger = Ledger()
    before = ledger.state
    ledger.block()
    block, certificate, _ = ledger.blocks[0]
    with pytest.raises(InvalidCertificate):
        verify_certificate(CHANGES[name](certificate), block.header, before)
    with pytest.raises(InvalidCertificate):
        verify_certificate(certificate, replace(block.header, time_ms=block.header.time_ms + 1), before)
    with pytest.raises(InvalidCertificate):
        verify_certificate(certificate, block.header, ledger.state)


def test_with_several_validators_more_than_two_thirds_must_have_voted() -> None:
    ledger = Ledger({"validator": 4})
    before = ledger.state
    ledger.block()
    header = ledger.blocks[0][0].header
    seeds = [ledger.foundation.nodes[f"validator-{index}"].vote or b"" for index in range(4)]
    signers = [PrivateKey.from_seed(seed) for seed in seeds]
    certificate = certify(header, *signers)
    votes = certificate.votes
    verify_certificate(certificate, header, before)
    verify_certificate(replace(certificate, votes=votes[1:]), header, before)
    with pytest.raises(InvalidCertificate, match="no quorum"):
        verify_certificate(replace(certificate, votes=votes[2:]), header, before)
    with pytest.raises(InvalidCertificate, match="out of order"):
        verify_certificate(replace(certificate, votes=votes[::-1]), header, before)
    with pytest.raises(InvalidCertificate, match="no quorum"):
        verify_certificate(certify(header, signers[0]), header, before)


def test_from_five_validators_on_none_weighs_more_than_a_quarter() -> None:
    four, five = Ledger({"validator": 4}).state, Ledger({"validator": 5}).state
    bond = four.params.get_bond_min("validator")
    assert {item.weight for item in get_validators(four)} == {bond}
    richest = get_validators(five)[0].account
    candidates = tuple(
        replace(item, weight=100 * bond) if item.account == richest else item for item in five.epochs[0].candidates
    )
    richer = replace(five, epochs={0: replace(five.epochs[0], candidates=candidates)})
    assert max(item.weight for item in get_validators(richer)) == 104 * bond // 4


def test_a_quorum_is_more_than_two_thirds() -> None:
    assert [is_quorum(weight, 3) for weight in range(4)] == [False, False, False, True]
    assert is_quorum(67, 100)
    assert not is_quorum(66, 99)


def test_a_voter_takes_a_header_close_to_its_own_clock_and_after_its_parent() -> None:
    ledger = Ledger()
    state = ledger.state
    ledger.block(after_ms=1_000)
    header = ledger.blocks[0][0].header
    check_header_time(state, header, header.time_ms)
    check_header_time(state, header, header.time_ms - 500)
    check_header_time(state, header, header.time_ms + 10_000)
    for now_ms in (header.time_ms - 501, header.time_ms + 10_001):
        with pytest.raises(InvalidBlock):
            check_header_time(state, header, now_ms)
    with pytest.raises(InvalidBlock):
        check_header_time(state, replace(header, time_ms=state.time_ms), state.time_ms)


@transaction(0x8777)
@dataclass(frozen=True)
class Burn:
    """A user's own transaction."""

    amount: Grains


def _apply_burn(draft: Draft, context: TransactionContext, body: Burn) -> None:
    draft.debit(context.account, body.amount)
    draft.burn(Source.TRANSACTION, body.amount)


register_rule(Burn, _apply_burn)


def test_a_users_transaction_is_applied_by_its_own_rule() -> None:
    register_rule(Burn, _apply_burn)  # a module imported twice
    ledger = Ledger()
    before = ledger.state.burned
    ledger.do(ledger.spare(), Burn(77))
    assert ledger.state.burned == before + 77 + 40_000


def test_kinds_and_rules_do_not_clash() -> None:
    with pytest.raises(LocalError):
        transaction(get_transaction_kind(Transfer))(Burn)
    with pytest.raises(LocalError):
        register_rule(Transfer, _apply_burn)
    with pytest.raises(LocalError):
        get_transaction_kind(int)
    with pytest.raises(LocalError):
        register_due_kind(1, lambda draft, item: None)


def test_every_kind_of_due_item_has_a_number_of_its_own() -> None:
    kinds = {name: number for name, number in vars(due).items() if name.endswith("_KIND")}
    first = kinds.pop("DISPUTE_KIND")
    numbers = [*kinds.values(), *(first + phase for phase in DisputePhase)]
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) <= set(due.HANDLERS)
