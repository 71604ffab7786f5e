"""What blocks say a network is used for: by mode and model, and in memory that does not grow with the blocks."""

from collections.abc import Sized

from protocol.ledger.flows import Party, Source
from protocol.ledger.transactions import Transfer
from testnet.activity import BATCH, INDIVIDUAL, Activity
from testnet.stats import find_differences
from tests.protocol.ledger.test_batches import PARAMS, SEVERAL, Batch
from tests.support.activity import sum_up, verify_activity
from tests.support.jobs import PRICE, find_model
from tests.support.ledgers import Ledger


def test_receipts_are_counted_in_their_mode_when_they_are_paid_and_by_model_where_the_ledger_sees_it() -> None:
    ledger = Ledger(SEVERAL)
    first = ledger.state
    channel = ledger.open_channel()
    ledger.do(ledger.account("inference-0"), ledger.settle(channel, ledger.work(channel, 1)[2]))
    Batch(ledger, [PRICE] * 20).check_all()
    ledger.block(after_ms=PARAMS.dispute_window_ms)
    lost = Batch(ledger, [PRICE] * 3).settle()
    lost.draw()
    under_way = sum_up(first, ledger.blocks)[0]
    assert under_way.settled == {INDIVIDUAL: 1, BATCH: 20}
    for _ in range(4):  # nobody opens what was drawn
        ledger.block(after_ms=10**6)
    activity, state = sum_up(first, ledger.blocks)
    assert (activity.settled, activity.forfeit) == ({INDIVIDUAL: 1, BATCH: 20}, 3)
    assert activity.checked == {INDIVIDUAL: 1, BATCH: 2}
    assert {digest: use.receipts for digest, use in activity.models.items()} == {find_model(state).digest: 1}
    assert (activity.in_batches.receipts, activity.in_batches.fees) == (20, 20 * PRICE)
    fees = {party: activity.flows[Source.INFERENCE, party] for party in Party}
    assert sum(fees.values()) == 21 * PRICE
    assert activity.earners[Party.INFERENCE] == {ledger.account("inference-0").public}
    assert find_differences(activity, state) == []
    verify_activity(first, ledger.blocks)


def count_held(activity: Activity) -> int:
    """How many things an activity remembers."""
    cohorts = (activity.accounts.masks, activity.customers.masks)
    held = [value for value in vars(activity).values() if isinstance(value, Sized)]
    return sum(map(len, (*held, *cohorts, *activity.earners.values(), activity.payments.newest)))


def test_more_blocks_of_the_same_accounts_are_remembered_in_no_more_memory() -> None:
    ledger = Ledger()
    first = ledger.state
    for _ in range(3):
        ledger.do(ledger.account("client-0"), Transfer(ledger.spare(0).public, 1))
    few = count_held(sum_up(first, ledger.blocks)[0])
    for _ in range(60):
        ledger.do(ledger.account("client-0"), Transfer(ledger.spare(0).public, 1), after_ms=30_000)
    many, state = sum_up(first, ledger.blocks)
    assert state.epoch > 50
    assert (count_held(many), many.blocks) == (few, 63)
    assert many.accounts.returned == 1
