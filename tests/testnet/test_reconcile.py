"""What clients hold is held against the ledger: paid, given back, open, and what must never be."""

from collections.abc import Sequence
from dataclasses import replace

from protocol.codec import encode
from protocol.jobs import Mode, PaidRequest, Receipt, compute_claim_id
from protocol.ledger.batches import BatchLeaf, BatchSettle, RunOfBatch, SettlePrivate, make_batch_leaf
from protocol.ledger.genesis import build_state
from protocol.ledger.transactions import CloseChannel, ZeroReason
from protocol.merkle_sum import SumTree
from protocol.proofs.receipt_file import VERSION, ReceiptFile
from roles.workbook import JournalEntry
from testnet.papers import Papers, find_lapsed
from testnet.reconcile import End, Reconciliation, reconcile
from testnet.vouchers import Vouchers
from tests.support.jobs import OUTPUT, make_receipt, make_request, pay
from tests.support.ledgers import Ledger

Held = tuple[PaidRequest, Receipt]


def do_work(ledger: Ledger, channel: bytes, seq: int, mode: Mode) -> Held:
    request = make_request(ledger.state, ledger.foundation, seq, mode=mode)
    item = pay(request, ledger.foundation, channel, seq)
    return item, make_receipt(item, ledger.node("inference-0"))


def hold(ledger: Ledger, *held: Held, journal: Sequence[Held] = ()) -> Reconciliation:
    """Reconcile a client that holds these, and a worker with this journal, with all blocks of the ledger."""
    vouchers, state = Vouchers(), build_state(ledger.foundation.genesis)
    for block, _, after in ledger.blocks:
        vouchers.on_block(state, block, after)
        state = after
    files = {
        f"{at}".encode(): encode(ReceiptFile(VERSION, item.request, item.voucher, receipt, (OUTPUT,), ()))
        for at, (item, receipt) in enumerate(held)
    }
    jobs = {
        f"{at}".encode(): encode(JournalEntry(item, (receipt,), (), (), 0))
        for at, (item, receipt) in enumerate(journal)
    }
    return reconcile(vouchers, {"client-0": Papers(receipts=files), "inference-0": Papers(jobs=jobs)})


def make_run(channel: bytes, held: list[Held | ZeroReason]) -> tuple[tuple[RunOfBatch, ...], bytes]:
    """The run and the root over these leaves; the last one earns."""
    leaves = []
    for seq, job in enumerate(held, 1):
        if isinstance(job, ZeroReason):
            leaves.append(BatchLeaf(channel, seq, job, 0, bytes(32)))
        else:
            leaves.append(BatchLeaf(channel, seq, 0, job[0].voucher.amount, compute_claim_id(job[1].claim)))
    root = SumTree([make_batch_leaf(leaf) for leaf in leaves]).root
    last = held[-1]
    assert not isinstance(last, ZeroReason)
    return (RunOfBatch(1, root.total, last[0].voucher),), root.root


def test_individual_leaves_are_paid_zero_or_still_open():
    ledger = Ledger()
    channel = ledger.open_channel()
    receipt, _, work = ledger.work(channel, seq=1)
    paid = PaidRequest(make_request(ledger.state, ledger.foundation, 1), work.voucher), receipt
    others = [do_work(ledger, channel, seq, Mode.INDIVIDUAL) for seq in (2, 3)]
    ledger.do(ledger.account("inference-0"), ledger.settle(channel, work, ZeroReason.UNATTESTED))

    found = hold(ledger, paid, *others)

    assert found.ends == {End.PAID: 1, End.ZERO_LEAF: 1, End.OPEN: 1}
    assert found.zero_leaves == {"unattested": 1}
    assert (found.acknowledged, found.refunded, found.unaccounted) == (3, 1, 1)
    assert not found.findings
    assert not found.holds


def test_a_root_tells_which_receipts_it_pays_for():
    ledger = Ledger()
    channel = ledger.open_channel(mode=Mode.PRIVATE)
    held = [do_work(ledger, channel, seq, Mode.PRIVATE) for seq in (1, 2, 3, 4)]
    # The client holds a receipt for the second voucher, whose leaf says that the run failed, and none for the third.
    runs, root = make_run(channel, [held[0], ZeroReason.FAILED, held[2], held[3]])
    ledger.do(ledger.account("inference-0"), SettlePrivate(runs, root))

    found = hold(ledger, held[0], held[1], held[3], journal=[held[2]])

    assert found.ends == {End.PAID: 2, End.ZERO_LEAF: 1}
    assert found.zero_leaves == {"failed": 1}
    assert found.unheard == held[2][0].voucher.amount
    assert found.holds


def test_where_nobody_knows_all_leaves_the_amounts_tell_how_many_receipts_are_not_paid():
    ledger = Ledger()
    channel = ledger.open_channel(mode=Mode.PRIVATE)
    held = [do_work(ledger, channel, seq, Mode.PRIVATE) for seq in (1, 2, 3, 4)]
    runs, root = make_run(channel, [ZeroReason.FAILED, ZeroReason.FAILED, held[2], held[3]])
    ledger.do(ledger.account("inference-0"), SettlePrivate(runs, root))

    found = hold(ledger, held[0], held[1], held[3])

    assert found.ends == {End.PAID: 2, End.ZERO_LEAF: 1}


def test_a_batch_is_open_until_it_is_over_and_forfeit_when_its_worker_is_silent():
    ledger = Ledger()
    channel = ledger.open_channel(mode=Mode.BATCH)
    held = [do_work(ledger, channel, seq, Mode.BATCH) for seq in (1, 2)]
    runs, root = make_run(channel, list(held))
    ledger.do(ledger.account("inference-0"), BatchSettle(runs, root))
    assert hold(ledger, *held).ends == {End.OPEN: 2}
    while ledger.state.batches:
        ledger.block(after_ms=5_000)
    assert hold(ledger, *held).ends == {End.FORFEIT: 2}


def test_what_is_left_in_a_closed_channel_or_has_run_out_is_the_clients_again():
    ledger = Ledger()
    one, other = ledger.open_channel(), ledger.open_channel()
    held = [do_work(ledger, channel, 1, Mode.INDIVIDUAL) for channel in (one, other)]
    ledger.do(ledger.account("client-0"), CloseChannel(one))
    while one in ledger.state.channels:
        ledger.block(after_ms=60_000)
    assert hold(ledger, *held).ends == {End.CLOSED: 1, End.OPEN: 1}
    ledger.block(after_ms=200_000)
    assert hold(ledger, *held).ends == {End.CLOSED: 1, End.EXPIRED: 1}


def test_a_job_is_under_way_while_any_voucher_of_its_channel_is_good():
    ledger = Ledger()
    one, other = ledger.open_channel(), ledger.open_channel()
    early, late, alone = (
        do_work(ledger, channel, seq, Mode.BATCH) for channel, seq in ((one, 1), (one, 2), (other, 1))
    )
    over_ms = early[0].voucher.expiry_ms
    later = replace(late[0], voucher=replace(late[0].voucher, expiry_ms=over_ms + 60_000)), late[1]
    jobs = [JournalEntry(item, (receipt,), (), (), 0) for item, receipt in (early, later, alone)]

    assert find_lapsed(jobs, over_ms) == set()
    assert find_lapsed(jobs, over_ms + 1) == {other}
    assert find_lapsed(jobs, over_ms + 60_001) == {one, other}

    def count() -> int:
        return hold(ledger, journal=(early, later, alone)).under_way

    assert count() == 3
    ledger.block(after_ms=over_ms - ledger.state.time_ms + 1)
    assert count() == 2
    ledger.block(after_ms=60_000)
    assert count() == 0


def test_two_receipts_for_one_voucher_are_found_out():
    ledger = Ledger()
    channel = ledger.open_channel()
    first = do_work(ledger, channel, 1, Mode.INDIVIDUAL)
    second = first[0], make_receipt(first[0], ledger.node("inference-1"))
    found = hold(ledger, first, second)
    assert found.findings == [f"client-0: two receipts for voucher 1 of channel {channel.hex()[:16]}"]


def test_a_voucher_that_is_paid_for_another_receipt_is_found_out():
    ledger = Ledger()
    channel = ledger.open_channel()
    _, _, work = ledger.work(channel, seq=1)
    ledger.do(ledger.account("inference-0"), ledger.settle(channel, work))
    request = make_request(ledger.state, ledger.foundation, 77)
    item = pay(request, ledger.foundation, channel, 1)
    found = hold(ledger, (item, make_receipt(item, ledger.node("inference-0"))))
    assert len(found.findings) == 1
