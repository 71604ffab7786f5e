"""Demands: who may have a claim opened, what opens it, and what silence costs."""

from dataclasses import replace

from protocol.jobs import Attestation, Claim, Mode, Receipt, compute_claim_id
from protocol.ledger.demands import DEMAND_KIND, DemandOpening, OpenClaim
from protocol.ledger.disputes import OpenDispute
from protocol.ledger.errors import InvalidSignature
from protocol.ledger.job_errors import AlreadyDemanded, InvalidDemand, InvalidLeaf, UnknownDemand
from protocol.ledger.params import Params
from protocol.ledger.state import compute_supply
from protocol.ledger.transactions import ChannelRun, Leaf, SettleIndividual, Work
from protocol.signing import sign
from tests.support.ledgers import Ledger

PARAMS = Params()
LIE = b"\x09" * 32


class Case:
    """A job of one channel whose worker has claimed it and not settled; its request is over."""

    def __init__(self, mode: Mode = Mode.INDIVIDUAL) -> None:
        self.ledger = Ledger({"validator": 1, "inference": 2, "verifier": 3, "client": 1})
        self.worker = self.ledger.account("inference-0")
        self.channel = self.ledger.open_channel(mode=mode)
        self.receipt: Receipt
        self.attestations: tuple[Attestation, ...]
        self.work: Work
        self.receipt, self.attestations, self.work = self.ledger.work(self.channel)
        drawn = {item.verifier for item in self.attestations}
        names = ["verifier-0", "verifier-1", "verifier-2"]
        self.drawn = next(self.ledger.account(name) for name in names if self.ledger.node(name).public in drawn)
        self.other = next(self.ledger.account(name) for name in names if self.ledger.node(name).public not in drawn)

    @property
    def claim(self) -> Claim:
        return self.receipt.claim

    @property
    def claim_id(self) -> bytes:
        return compute_claim_id(self.claim)

    def wait(self) -> "Case":
        self.ledger.block(after_ms=self.claim.deadline_ms - self.ledger.state.time_ms)
        return self

    def settle(self) -> SettleIndividual:
        return SettleIndividual((ChannelRun(self.channel, 1, (Leaf(0, (self.work,)),)),))

    def pass_by(self) -> None:
        self.ledger.block(after_ms=PARAMS.demand_ms)
        self.ledger.block(after_ms=PARAMS.grace_ms)


def test_a_worker_opens_what_is_demanded_and_is_paid_what_it_cost() -> None:
    case = Case().wait()
    ledger = case.ledger
    ledger.do(case.drawn, DemandOpening(case.claim))
    before = ledger.state.get_balance(case.worker.public)
    bond = ledger.state.nodes[case.worker.public].bond

    ledger.do(case.worker, OpenClaim(case.claim_id, (case.receipt,)))

    assert ledger.state.demands[case.claim_id].receipt == (case.receipt,)
    assert DEMAND_KIND not in {item.kind for item in ledger.state.due.values()}
    assert ledger.state.get_balance(case.worker.public) == before
    case.pass_by()
    assert ledger.state.nodes[case.worker.public].bond == bond
    assert compute_supply(ledger.state) == ledger.state.supply
    ledger.block(after_ms=PARAMS.challenge_ms)
    assert not ledger.state.demands


def test_silence_loses_the_leaf_and_a_fixed_part_of_the_stake_after_the_grace() -> None:
    case = Case().wait()
    ledger = case.ledger
    bond, burned = ledger.state.nodes[case.worker.public].bond, ledger.state.burned
    held = ledger.state.get_balance(case.drawn.public)
    ledger.do(case.drawn, DemandOpening(case.claim))
    ledger.block(after_ms=PARAMS.demand_ms)
    assert ledger.state.demands[case.claim_id].is_open  # put off once

    ledger.block(after_ms=PARAMS.grace_ms)

    assert ledger.state.nodes[case.worker.public].bond == bond - PARAMS.demand_penalty
    assert ledger.state.burned - burned >= PARAMS.demand_penalty
    assert ledger.state.get_balance(case.drawn.public) == held - PARAMS.base_fee_min
    count = ledger.state.work[case.worker.public]
    assert (count.void, count.wrong, count.lost) == (1, 0, PARAMS.demand_penalty)
    error = ledger.refuse(case.worker, case.settle())
    assert isinstance(error, InvalidLeaf)
    assert "did not open it" in str(error)
    assert isinstance(ledger.refuse(case.worker, OpenClaim(case.claim_id, (case.receipt,))), UnknownDemand)
    assert compute_supply(ledger.state) == ledger.state.supply


def test_a_demand_does_not_stand_in_the_way_of_a_dispute_by_a_receipt_that_turns_up() -> None:
    """Else silence would be the cheaper end for a liar."""
    case = Case().wait()
    case.ledger.do(case.drawn, DemandOpening(case.claim))

    case.ledger.do(case.drawn, OpenDispute((case.receipt,), (), LIE, case.claim.profile))

    assert len(case.ledger.state.disputes) == 1


def test_what_was_opened_can_be_disputed() -> None:
    case = Case().wait()
    case.ledger.do(case.drawn, DemandOpening(case.claim))
    case.ledger.do(case.worker, OpenClaim(case.claim_id, (case.receipt,)))
    (receipt,) = case.ledger.state.demands[case.claim_id].receipt

    case.ledger.do(case.drawn, OpenDispute((receipt,), (), LIE, case.claim.profile))

    assert len(case.ledger.state.disputes) == 1


def test_only_a_drawn_verifier_demands_and_only_what_is_overdue() -> None:
    case = Case()
    ledger, body = case.ledger, DemandOpening(case.claim)
    assert isinstance(ledger.refuse(case.drawn, body), InvalidDemand)  # too early
    case.wait()
    for account in (case.other, case.worker, ledger.account("client-0")):
        assert isinstance(ledger.refuse(account, body), InvalidDemand)
    forged = DemandOpening(replace(case.claim, signature=bytes(64)))
    assert isinstance(ledger.refuse(case.drawn, forged), InvalidSignature)
    alone = sign(replace(case.claim, verifiers=1), ledger.node("inference-0"))
    assert isinstance(ledger.refuse(case.drawn, DemandOpening(alone)), InvalidDemand)
    ledger.do(case.drawn, body)
    assert isinstance(ledger.refuse(case.drawn, body), AlreadyDemanded)

    settled = Case()
    settled.ledger.do(settled.worker, settled.settle())
    settled.wait()
    assert isinstance(settled.ledger.refuse(settled.drawn, DemandOpening(settled.claim)), InvalidDemand)
    batch = Case(Mode.BATCH).wait()
    assert isinstance(batch.ledger.refuse(batch.drawn, DemandOpening(batch.claim)), InvalidDemand)
    late = Case().wait()
    late.ledger.block(after_ms=PARAMS.challenge_ms + 1)
    assert isinstance(late.ledger.refuse(late.drawn, DemandOpening(late.claim)), InvalidDemand)


def test_nothing_but_the_worker_s_receipt_opens() -> None:
    case = Case().wait()
    ledger = case.ledger
    ledger.do(case.drawn, DemandOpening(case.claim))
    other, _, _ = ledger.work(case.channel, seq=2)
    unsigned = replace(case.receipt, claim=replace(case.claim, signature=bytes(64)))
    for receipts in ((), (other,), (replace(case.receipt, output_digest=LIE),), (unsigned,)):
        assert isinstance(ledger.refuse(case.worker, OpenClaim(case.claim_id, receipts)), InvalidDemand)
    assert isinstance(ledger.refuse(case.drawn, OpenClaim(case.claim_id, (case.receipt,))), InvalidDemand)
    assert isinstance(ledger.refuse(case.worker, OpenClaim(bytes(32), (case.receipt,))), UnknownDemand)


def test_what_was_opened_late_can_be_disputed_for_as_long_as_what_was_opened_early() -> None:
    case = Case().wait()
    ledger = case.ledger
    ledger.do(case.drawn, DemandOpening(case.claim))
    ledger.block(after_ms=PARAMS.demand_ms)
    ledger.do(case.worker, OpenClaim(case.claim_id, (case.receipt,)), after_ms=PARAMS.grace_ms - 1)
    ledger.block(after_ms=PARAMS.challenge_ms - 1_000)
    assert ledger.state.time_ms > case.claim.deadline_ms + PARAMS.challenge_ms

    ledger.do(case.drawn, OpenDispute((case.receipt,), (), LIE, case.claim.profile))

    assert len(ledger.state.disputes) == 1
