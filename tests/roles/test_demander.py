"""A verifier demands what stays unsettled, a few claims at a time, and none that somebody else has demanded."""

from dataclasses import replace

from protocol.jobs import Receipt, compute_claim_id
from protocol.ledger.job_errors import AlreadyDemanded
from protocol.ledger.job_records import Demand
from protocol.ledger.state import State
from roles.demander import AFTER_MS, DEMANDED_MAX, LOOK_MS, Demander
from roles.role import Effect, SetTimer, Submit
from tests.roles.test_admission import make_ledger
from tests.roles.test_workbook import make_job
from tests.support.jobs import get_keys, make_receipt

VERIFIER = bytes([7]) * 32


def make_receipts(count: int) -> tuple[State, dict[bytes, Receipt]]:
    """Receipts of vouchers that nobody settles, by the ids of their claims."""
    parts, state, channel, _ = make_ledger()
    node, _ = get_keys(parts.foundation, "inference-0")
    receipts = [make_receipt(make_job(parts, state, channel, seq).item, node) for seq in range(1, count + 1)]
    return state, {compute_claim_id(receipt.claim): receipt for receipt in receipts}


def watch(receipts: dict[bytes, Receipt]) -> tuple[Demander, int]:
    """A verifier that has attested all of them, and when all are overdue."""
    demander = Demander(VERIFIER)
    for claim_id, receipt in receipts.items():
        demander.add(claim_id, receipt.claim)
    return demander, max(receipt.claim.deadline_ms for receipt in receipts.values()) + AFTER_MS


def list_demanded(effects: list[Effect]) -> list[bytes]:
    return [compute_claim_id(effect.item.claim) for effect in effects if isinstance(effect, Submit)]


def test_few_are_demanded_at_a_time_and_the_next_once_these_are_settled_with():
    state, receipts = make_receipts(3 * DEMANDED_MAX)
    demander, late_ms = watch(receipts)
    ids = list(receipts)

    assert list_demanded(demander.look(state, late_ms)) == ids[:DEMANDED_MAX]
    assert not list_demanded(demander.look(state, late_ms))
    demander.on_submitted(f"demand|{ids[0].hex()}", "InvalidDemand: it has been settled")
    assert list_demanded(demander.look(state, late_ms)) == [ids[DEMANDED_MAX]]


def test_what_another_has_demanded_is_waited_for_and_not_demanded_again():
    state, receipts = make_receipts(2)
    demander, late_ms = watch(receipts)
    first, second = receipts
    demand = Demand(receipts[first].claim, bytes(32), bytes(32), 1, late_ms)
    demanded = replace(state, demands={first: demand})

    assert list_demanded(demander.look(demanded, late_ms)) == [second]
    assert not demander.take_opened(demanded)
    opened = replace(state, demands={first: replace(demand, fee=0, receipt=(receipts[first],))})
    assert demander.take_opened(opened) == [receipts[first]]
    assert not demander.take_opened(opened)


def test_claims_are_not_looked_through_more_often_than_now_and_then_however_many_are_overdue():
    state, receipts = make_receipts(2 * DEMANDED_MAX)
    demander, late_ms = watch(receipts)

    (timer,) = (effect for effect in demander.on_timer(state, late_ms) if isinstance(effect, SetTimer))

    assert timer.at_ms == late_ms + LOOK_MS


def test_whoever_demands_a_moment_later_than_another_still_hears_what_is_opened():
    state, receipts = make_receipts(1)
    demander, late_ms = watch(receipts)
    ((claim_id, receipt),) = receipts.items()
    demander.look(state, late_ms)

    demander.on_submitted(f"demand|{claim_id.hex()}", f"AlreadyDemanded: {AlreadyDemanded(claim_id)}")

    opened = Demand(receipt.claim, bytes(32), bytes(32), 0, late_ms, (receipt,))
    assert demander.take_opened(replace(state, demands={claim_id: opened})) == [receipt]


def test_a_demand_that_comes_to_nothing_is_not_made_again():
    state, receipts = make_receipts(1)
    demander, late_ms = watch(receipts)
    (claim_id,) = receipts
    demander.look(state, late_ms)

    demander.on_submitted(f"demand|{claim_id.hex()}", "InvalidDemand: it has been settled")

    assert not demander.look(state, late_ms + 1)
