"""Settlement leaf by leaf."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from protocol.ledger.apply import decode_transactions, next_due_ms
from protocol.ledger.block import get_validators
from protocol.ledger.epochs import take_snapshot
from protocol.ledger.errors import AlreadyProven, InvalidSignature, UnknownEpoch
from protocol.ledger.flows import Source
from protocol.ledger.job_errors import (
    ExpiredVoucher,
    InvalidLeaf,
    NotYourChannel,
    SequenceMismatch,
    UnknownChannel,
    VoucherExceeded,
)
from protocol.ledger.params import Params
from protocol.ledger.settlement import collect_leaves
from protocol.ledger.transactions import (
    ChannelRun,
    CloseChannel,
    Leaf,
    SettleIndividual,
    Transfer,
    Work,
    ZeroReason,
)
from protocol.signing import sign
from tests.support.disputes import Quarrel
from tests.support.jobs import PRICE
from tests.support.ledgers import Ledger

PARAMS = Params()
FEE = PARAMS.base_fee_min


def test_an_attested_leaf_pays_worker_verifiers_treasury_and_fire_after_the_window() -> None:
    ledger = Ledger()
    channel = ledger.open_channel()
    _, attestations, work = ledger.work(channel)
    worker = ledger.account("inference-0")
    before = ledger.state
    ledger.do(worker, ledger.settle(channel, work))
    settled = ledger.state
    assert (settled.channels[channel].paid, settled.channels[channel].settled_seq) == (PRICE, 1)
    assert settled.get_balance(worker.public) == before.get_balance(worker.public) - 2 * FEE  # two KiB begun
    assert next_due_ms(settled) == settled.time_ms + PARAMS.settle_window_ms

    ledger.block(after_ms=PARAMS.settle_window_ms)
    paid = ledger.state
    assert paid.get_balance(worker.public) - settled.get_balance(worker.public) == 800_000
    for item in attestations:
        account = paid.find_node(item.verifier)
        assert account is not None
        assert paid.get_balance(account.account) - settled.get_balance(account.account) == 40_000
    assert paid.treasury - settled.treasury == 100_000
    assert paid.burned - settled.burned == 20_000
    assert not paid.pending
    assert (paid.work[worker.public].paid, paid.work[worker.public].earned) == (1, PRICE)


def test_nothing_is_paid_before_the_window_is_over() -> None:
    ledger = Ledger()
    channel = ledger.open_channel()
    worker = ledger.account("inference-0")
    ledger.do(worker, ledger.settle(channel, ledger.work(channel)[2]))
    ledger.block(after_ms=PARAMS.settle_window_ms - 1)
    assert len(ledger.state.pending) == 1
    ledger.block(after_ms=1)
    assert not ledger.state.pending


def test_zero_leaves_pay_nothing_and_are_counted() -> None:
    ledger = Ledger()
    channel = ledger.open_channel()
    worker = ledger.account("inference-0")
    zeros = len(ZeroReason)
    ledger.do(worker, ledger.settle(channel, *ZeroReason, ledger.work(channel, seq=zeros + 1)[2]))
    assert ledger.state.channels[channel].settled_seq == zeros + 1
    assert ledger.state.channels[channel].paid == PRICE
    count = ledger.state.work[worker.public]
    assert (count.paid, count.void, count.wrong) == (1, zeros, 0)
    leaves = collect_leaves(decode_transactions(ledger.blocks[-1][0]), ledger.state.height)
    assert [(leaf.seq, leaf.reason, leaf.amount) for leaf in leaves][-2:] == [(zeros, zeros, 0), (zeros + 1, 0, PRICE)]


def test_each_leaf_settles_once_and_none_is_left_out() -> None:
    ledger = Ledger()
    channel = ledger.open_channel()
    worker = ledger.account("inference-0")
    first, third = ledger.work(channel, 1)[2], ledger.work(channel, 3)[2]
    ledger.do(worker, ledger.settle(channel, first))
    again = ledger.refuse(worker, ledger.settle(channel, first, first=1))
    assert isinstance(again, SequenceMismatch)
    assert (again.expected, again.got) == (2, 1)
    assert isinstance(ledger.refuse(worker, ledger.settle(channel, third, first=3)), SequenceMismatch)
    assert isinstance(ledger.refuse(worker, ledger.settle(channel, third, first=2)), InvalidLeaf)
    twice = SettleIndividual((ledger.settle(channel, ZeroReason.FAILED).runs[0],) * 2)
    assert isinstance(ledger.refuse(worker, twice), SequenceMismatch)


def test_only_the_payee_settles_a_channel_that_is_there() -> None:
    ledger = Ledger()
    channel = ledger.open_channel("inference-0")
    zero = ledger.settle(channel, ZeroReason.REFUSED)
    assert isinstance(ledger.refuse(ledger.account("inference-1"), zero), NotYourChannel)
    nowhere = SettleIndividual((ChannelRun(bytes(32), 1, (Leaf(1, ()),)),))
    assert isinstance(ledger.refuse(ledger.account("inference-0"), nowhere), UnknownChannel)


def test_a_leaf_pays_no_more_than_voucher_and_deposit_cover() -> None:
    ledger = Ledger()
    worker = ledger.account("inference-0")
    small = ledger.open_channel(deposit=PRICE + 1)
    two = ledger.settle(small, ledger.work(small, 1)[2], ledger.work(small, 2)[2])
    over = ledger.refuse(worker, two)
    assert isinstance(over, VoucherExceeded)
    assert (over.limit, over.need) == (PRICE + 1, 2 * PRICE)
    wide = ledger.open_channel()
    short = ledger.settle(wide, ledger.work(wide, 1, cumulative=PRICE - 1)[2])
    assert isinstance(ledger.refuse(worker, short), VoucherExceeded)


def test_a_leaf_pays_its_own_amount_whatever_zero_leaves_left_over() -> None:
    ledger = Ledger()
    channel = ledger.open_channel()
    ledger.do(
        ledger.account("inference-0"), ledger.settle(channel, ZeroReason.NEVER_SEEN, ledger.work(channel, seq=2)[2])
    )
    assert ledger.state.channels[channel].paid == PRICE


def test_a_voucher_covers_settlement_up_to_its_expiry() -> None:
    ledger = Ledger()
    channel = ledger.open_channel()
    expiry_ms = ledger.state.time_ms + 5_000
    body = ledger.settle(channel, ledger.work(channel, expiry_ms=expiry_ms)[2])
    ledger.block(after_ms=5_000)
    error = ledger.refuse(ledger.account("inference-0"), body)
    assert isinstance(error, ExpiredVoucher)
    assert error.expiry_ms == expiry_ms


Change = Callable[[Ledger, Work], Work]
CHANGES: dict[str, Change] = {
    "another salt": lambda _, work: replace(work, salt=bytes(32)),
    "another output": lambda _, work: replace(work, output_digest=bytes(32)),
    "one attestation": lambda _, work: replace(work, attestations=work.attestations[:1]),
    "attestations of another order": lambda _, work: replace(work, attestations=work.attestations[::-1]),
    "one attestation twice": lambda _, work: replace(work, attestations=work.attestations[:1] * 2),
    "an unsigned attestation": lambda _, work: replace(
        work, attestations=(replace(work.attestations[0], signature=bytes(64)), work.attestations[1])
    ),
    "no voucher signature": lambda _, work: replace(work, voucher=replace(work.voucher, signature=bytes(64))),
    "a voucher signed by another": lambda ledger, work: replace(
        work, voucher=sign(work.voucher, ledger.account("inference-0"))
    ),
    "no claim signature": lambda _, work: replace(work, claim=replace(work.claim, signature=bytes(64))),
    "a larger fee": lambda ledger, work: replace(
        work, claim=sign(replace(work.claim, fee=PRICE + 1), ledger.node("inference-0"))
    ),
    "another attempt": lambda ledger, work: replace(
        work, claim=sign(replace(work.claim, attempt=2), ledger.node("inference-0"))
    ),
    "fewer verifiers": lambda ledger, work: replace(
        work,
        claim=sign(replace(work.claim, verifiers=1), ledger.node("inference-0")),
        attestations=work.attestations[:1],
    ),
    "another worker": lambda ledger, work: replace(
        work,
        claim=sign(replace(work.claim, worker=ledger.node("inference-1").public), ledger.node("inference-1")),
    ),
    "a model it does not serve": lambda ledger, work: replace(
        work, claim=sign(replace(work.claim, model=bytes(32)), ledger.node("inference-0"))
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_leaf_with_one_part_changed_earns_nothing(name: str) -> None:
    ledger = Ledger({**_ROLES, "verifier": 3})
    channel = ledger.open_channel()
    _, _, work = ledger.work(channel)
    error = ledger.refuse(ledger.account("inference-0"), ledger.settle(channel, CHANGES[name](ledger, work)))
    assert isinstance(error, InvalidLeaf | InvalidSignature)


def test_a_leaf_attested_by_verifiers_that_were_not_drawn_earns_nothing() -> None:
    ledger = Ledger({**_ROLES, "verifier": 5})
    channel = ledger.open_channel()
    _, _, first = ledger.work(channel)
    _, others, _ = ledger.work(channel)
    drawn = {item.verifier for item in first.attestations}
    while {item.verifier for item in others} == drawn:
        _, others, _ = ledger.work(channel)
    error = ledger.refuse(ledger.account("inference-0"), ledger.settle(channel, replace(first, attestations=others)))
    assert isinstance(error, InvalidLeaf)


def test_a_worker_is_not_paid_for_another_nodes_attested_work() -> None:
    ledger = Ledger()
    channel = ledger.open_channel("inference-0")
    body = ledger.settle(channel, ledger.work(channel, worker="inference-1")[2])
    error = ledger.refuse(ledger.account("inference-0"), body)
    assert isinstance(error, InvalidLeaf)
    assert "the claim is of node" in str(error)


def test_a_node_is_not_paid_for_attested_work_in_a_role_it_does_not_have() -> None:
    ledger = Ledger({**_ROLES, "verifier": 3})
    channel = ledger.open_channel("verifier-0")
    body = ledger.settle(channel, ledger.work(channel, worker="verifier-0")[2])
    error = ledger.refuse(ledger.account("verifier-0"), body)
    assert isinstance(error, InvalidLeaf)
    assert "did not serve model" in str(error)


@pytest.mark.parametrize("verifiers", [1, PARAMS.verifiers_max + 1])
def test_attested_work_is_not_paid_with_fewer_or_more_verifiers_than_the_policy_allows(verifiers: int) -> None:
    ledger = Ledger({**_ROLES, "verifier": PARAMS.verifiers_max + 1})
    channel = ledger.open_channel()
    body = ledger.settle(channel, ledger.work(channel, verifiers=verifiers)[2])
    error = ledger.refuse(ledger.account("inference-0"), body)
    assert isinstance(error, InvalidLeaf)
    assert f"{verifiers} verifiers; the policy wants 2 to 7" in str(error)


def test_a_claim_of_an_epoch_no_longer_kept_cannot_settle() -> None:
    ledger = Ledger(params=replace(PARAMS, epochs_kept=2))
    channel = ledger.open_channel()
    work = ledger.work(channel)[2]
    for _ in range(2):
        ledger.block(after_ms=PARAMS.epoch_ms)
    error = ledger.refuse(ledger.account("inference-0"), ledger.settle(channel, work))
    assert isinstance(error, UnknownEpoch)
    assert (error.epoch, error.oldest, error.newest) == (0, 1, 2)


def test_a_closing_channel_can_still_be_settled_until_it_is_gone() -> None:
    ledger = Ledger()
    channel = ledger.open_channel(deposit=10 * PRICE)
    payer, worker = ledger.account("client-0"), ledger.account("inference-0")
    work = ledger.work(channel)[2]
    ledger.do(payer, CloseChannel(channel))
    closing_ms = ledger.state.channels[channel].closing_ms
    assert next_due_ms(ledger.state) == closing_ms
    ledger.do(worker, ledger.settle(channel, work))
    before = ledger.state.get_balance(payer.public)
    ledger.block(after_ms=closing_ms - ledger.state.time_ms)
    ledger.block(after_ms=PARAMS.grace_ms - 1)
    assert channel in ledger.state.channels
    ledger.block(after_ms=1)
    assert channel not in ledger.state.channels
    assert ledger.state.get_balance(payer.public) == before + 9 * PRICE


def test_a_claim_found_wrong_is_not_paid() -> None:
    ledger = Ledger()
    channel = ledger.open_channel()
    receipt, _attestations, work = ledger.work(channel)
    Quarrel(ledger, "client-0", receipt).condemn()
    assert isinstance(ledger.refuse(ledger.account("inference-0"), ledger.settle(channel, work)), AlreadyProven)


def test_a_slashed_worker_is_drawn_no_more_from_the_next_snapshot_on() -> None:
    ledger = Ledger()
    Quarrel(ledger, "client-0").condemn()
    node = ledger.node("inference-0").public
    assert ledger.state.epochs[0].find_candidate(node) is not None
    ledger.block(after_ms=PARAMS.epoch_ms)
    assert ledger.state.epochs[1].find_candidate(node) is None


def test_a_chain_keeps_its_validator_even_when_a_slash_takes_it_below_its_bond() -> None:
    ledger = Ledger()
    validator = ledger.state.nodes[ledger.account("validator-0").public]
    assert [item.vote for item in get_validators(ledger.state)] == [validator.vote]
    poorer = {validator.account: replace(validator, bond=validator.bond - 1)}
    assert take_snapshot(1, bytes(32), poorer, {}, (), {}, PARAMS).get_candidates("validator")


def test_a_settlement_of_many_leaves_costs_one_transaction() -> None:
    ledger = Ledger()
    channel = ledger.open_channel()
    works = [ledger.work(channel, seq)[2] for seq in range(1, 33)]
    ledger.do(ledger.account("inference-0"), ledger.settle(channel, *works))
    assert ledger.state.channels[channel].paid == 32 * PRICE
    assert len(ledger.state.pending) == 1
    ledger.do(ledger.spare(), Transfer(ledger.spare(1).public, 1), after_ms=PARAMS.settle_window_ms)
    assert not ledger.state.pending


_ROLES = {"validator": 1, "inference": 2, "verifier": 2, "client": 1}


def test_a_settlement_that_is_refused_for_its_last_leaf_tells_of_no_pay() -> None:
    ledger = Ledger()
    channel = ledger.open_channel()
    good, other = ledger.work(channel, 1)[2], ledger.work(channel, 3)[2]
    refused = ledger.block(ledger.sign(ledger.account("inference-0"), ledger.settle(channel, good, other)))
    assert len(refused) == 1
    assert [flow for flow in ledger.state.flows if flow.source == Source.INFERENCE] == []
    ledger.do(ledger.account("inference-0"), ledger.settle(channel, good))
    assert sum(flow.amount for flow in ledger.state.flows if flow.source == Source.INFERENCE) == good.voucher.amount
