"""Escrowed jobs: locked, and ended exactly once."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.jobs import compute_request_id
from protocol.keys import PrivateKey
from protocol.ledger.apply import next_due_ms
from protocol.ledger.errors import InvalidAmount, InvalidSignature, LimitReached, SelfPayment, UnknownNode
from protocol.ledger.escrow import OpenJob, RefuseJob, SettleJob
from protocol.ledger.job_errors import InvalidDeadline, InvalidJobWork, InvalidPolicy, NotYourJob, UnknownJob
from protocol.ledger.params import Params
from protocol.ledger.transactions import compute_transaction_id
from protocol.signing import sign
from tests.support.jobs import PRICE, attest, make_receipt, make_request, pay
from tests.support.ledgers import Ledger

PARAMS = Params()
FEE = PARAMS.base_fee_min


def order(ledger: Ledger, amount: int = 2 * PRICE, **changes: object) -> OpenJob:
    request = make_request(ledger.state, ledger.foundation)
    deadline_ms = ledger.state.time_ms + 20_000
    worker = ledger.account("inference-0").public
    return replace(OpenJob(worker, amount, compute_request_id(request), 2, deadline_ms), **changes)  # type: ignore[arg-type]


def open_job(ledger: Ledger, **changes: object) -> bytes:
    transaction = ledger.sign(ledger.account("client-0"), order(ledger, **changes))
    assert ledger.block(transaction) == []
    return compute_transaction_id(transaction)


def finish(ledger: Ledger, job: bytes, fee: int = PRICE, worker: str = "inference-0", **changes: object) -> SettleJob:
    """The worker's settlement of a job, attested by everyone drawn."""
    request = make_request(ledger.state, ledger.foundation)
    receipt = make_receipt(pay(request, ledger.foundation, job, 0, amount=fee), ledger.node(worker))
    claim = sign(replace(receipt.claim, request_id=ledger.state.jobs[job].request_id, **changes), ledger.node(worker))  # type: ignore[arg-type]
    receipt = replace(receipt, claim=claim)
    attestations = attest(ledger.state, ledger.foundation, receipt, receipt.output_digest)
    return SettleJob(job, claim, receipt.salt, receipt.output_digest, attestations)


def test_a_finished_job_pays_what_was_claimed_and_gives_back_the_rest() -> None:
    ledger = Ledger()
    worker, payer = ledger.account("inference-0"), ledger.account("client-0")
    before = ledger.state
    job = open_job(ledger)
    assert ledger.state.jobs[job].amount == 2 * PRICE
    ledger.do(worker, finish(ledger, job))
    assert not ledger.state.jobs
    assert before.get_balance(payer.public) - ledger.state.get_balance(payer.public) == PRICE + FEE
    settled = ledger.state
    ledger.block(after_ms=PARAMS.settle_window_ms)
    assert next_due_ms(ledger.state) is None  # the job's deadline has nothing left to wake anybody for
    assert ledger.state.get_balance(worker.public) - settled.get_balance(worker.public) == PRICE * 8 // 10
    assert ledger.state.treasury - settled.treasury == PRICE // 10
    assert ledger.state.work[worker.public].earned == PRICE
    ledger.block(after_ms=10**6)
    assert ledger.state.get_balance(payer.public) == settled.get_balance(payer.public)


def test_a_job_nobody_does_is_refunded_after_deadline_and_grace() -> None:
    ledger = Ledger()
    payer = ledger.account("client-0")
    job = open_job(ledger)
    before = ledger.state
    assert next_due_ms(before) == before.time_ms - 100 + 20_000
    ledger.block(after_ms=20_000)
    assert job in ledger.state.jobs
    ledger.block(after_ms=PARAMS.grace_ms)
    assert not ledger.state.jobs
    assert ledger.state.get_balance(payer.public) == before.get_balance(payer.public) + 2 * PRICE
    assert ledger.account("inference-0").public not in ledger.state.work


def test_a_worker_that_refuses_gives_the_money_back_at_once() -> None:
    ledger = Ledger()
    worker, payer = ledger.account("inference-0"), ledger.account("client-0")
    job = open_job(ledger)
    before = ledger.state.get_balance(payer.public)
    ledger.do(worker, RefuseJob(job))
    assert ledger.state.get_balance(payer.public) == before + 2 * PRICE
    assert not ledger.state.jobs
    assert next_due_ms(ledger.state) is None


@settings(max_examples=30, deadline=None)
@given(ends=st.lists(st.sampled_from(("settle", "refuse", "wait")), min_size=2, max_size=5))
def test_a_job_has_exactly_one_end(ends: list[str]) -> None:
    ledger = Ledger()
    worker = ledger.account("inference-0")
    job = open_job(ledger)
    settlement = finish(ledger, job)
    ended = 0
    for end in ends:
        was_open = job in ledger.state.jobs
        if end == "wait":
            ledger.block(after_ms=20_000)
            ledger.block(after_ms=PARAMS.grace_ms)
        else:
            errors = ledger.block(ledger.sign(worker, settlement if end == "settle" else RefuseJob(job)))
            assert bool(errors) is not was_open
            assert was_open or isinstance(errors[0], UnknownJob)
        ended += was_open and job not in ledger.state.jobs
    assert ended == 1
    assert (ledger.state.work.get(worker.public) is not None) == (ends[0] == "settle")


def test_a_job_follows_its_rules() -> None:
    ledger = Ledger(params=replace(PARAMS, jobs_max=1))
    payer, now_ms = ledger.account("client-0"), ledger.state.time_ms + 1
    assert isinstance(ledger.refuse(payer, order(ledger, amount=0)), InvalidAmount)
    assert isinstance(ledger.refuse(payer, order(ledger, payee=payer.public)), SelfPayment)
    assert isinstance(ledger.refuse(payer, order(ledger, payee=bytes(32))), UnknownNode)
    few = ledger.refuse(payer, order(ledger, verifiers=1))
    assert isinstance(few, InvalidPolicy)
    assert (few.verifiers, few.least, few.most) == (1, 2, 7)
    assert isinstance(ledger.refuse(payer, order(ledger, verifiers=8)), InvalidPolicy)
    for deadline_ms in (now_ms, now_ms + PARAMS.job_ms_max + 1):
        late = ledger.refuse(payer, order(ledger, deadline_ms=deadline_ms))
        assert isinstance(late, InvalidDeadline)
        assert (late.earliest_ms, late.latest_ms) == (now_ms + 1, now_ms + PARAMS.job_ms_max)
    job = open_job(ledger)
    full = ledger.refuse(payer, order(ledger))
    assert isinstance(full, LimitReached)
    assert (full.have, full.limit) == (1, 1)
    assert isinstance(ledger.refuse(payer, RefuseJob(job)), NotYourJob)
    assert isinstance(ledger.refuse(payer, RefuseJob(bytes(32))), UnknownJob)


CHANGES: dict[str, dict[str, object]] = {
    "another request": {"request_id": bytes(32)},
    "a voucher's number": {"seq": 1},
    "a channel's": {"channel": bytes(32)},
    "more than locked": {"fee": 2 * PRICE + 1},
    "more verifiers": {"verifiers": 3},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_claim_with_one_part_changed_ends_no_job(name: str) -> None:
    ledger = Ledger({"validator": 1, "inference": 2, "verifier": 3, "client": 1})
    job = open_job(ledger)
    good = finish(ledger, job)
    claim = sign(replace(good.claim, **CHANGES[name]), ledger.node("inference-0"))  # type: ignore[arg-type]
    error = ledger.refuse(ledger.account("inference-0"), replace(good, claim=claim))
    assert isinstance(error, InvalidJobWork)
    assert error.job == job


def test_work_that_is_not_attested_signed_or_the_workers_own_ends_no_job() -> None:
    ledger = Ledger()
    worker: PrivateKey = ledger.account("inference-0")
    job = open_job(ledger)
    good = finish(ledger, job)
    for bad in (
        replace(good, attestations=good.attestations[:1]),
        replace(good, salt=bytes(32)),
        replace(good, output_digest=bytes(32)),
        finish(ledger, job, worker="inference-1"),
        finish(ledger, job, fee=2 * PRICE + 1),
    ):
        assert isinstance(ledger.refuse(worker, bad), InvalidJobWork)
    unsigned = replace(good, claim=replace(good.claim, signature=bytes(64)))
    assert isinstance(ledger.refuse(worker, unsigned), InvalidSignature)
    assert isinstance(ledger.refuse(ledger.account("inference-1"), good), NotYourJob)
    ledger.do(worker, good)
