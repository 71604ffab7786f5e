"""What a worker puts into its next batch, and what its bond lets it."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import decode
from protocol.jobs import Mode
from protocol.ledger.batches import BatchSettle, compute_pending_max
from protocol.ledger.transactions import ZeroReason
from roles.batcher import Batcher
from roles.role import Store, Submit
from roles.workbook import Job, JournalEntry, Workbook
from tests.support.jobs import PRICE, make_receipt, make_request, pay
from tests.support.ledgers import Ledger

LEDGER = Ledger()
CHANNEL = LEDGER.open_channel(mode=Mode.BATCH)
WORKER = LEDGER.account("inference-0").public


LONG_MS = 100_000  # every request is over by then, no voucher has run out


def fill(amounts: list[int | None]) -> Workbook:
    """Finished jobs over these amounts; None for a voucher that never came."""
    book = Workbook()
    for seq, amount in enumerate(amounts, 1):
        if amount is not None:
            finish(book, seq, amount=amount)
    return book


def finish(book: Workbook, seq: int, **voucher: object) -> None:
    request = make_request(LEDGER.state, LEDGER.foundation, seq, mode=Mode.BATCH)
    item = pay(request, LEDGER.foundation, CHANNEL, seq, **voucher)
    job = Job(item, rows=1)
    book.add(job)
    book.claim(job, make_receipt(item, LEDGER.node("inference-0")), (), now_ms=0)


def settle(book: Workbook, wait_ms: int = LONG_MS) -> tuple[list[tuple[int, int, int]], list[Store]]:
    """Of each run that is settled after a while: first voucher, last, and what they come to. And what is kept."""
    batcher = Batcher(book, WORKER, batch_ms=0)
    effects = batcher.on_tick(LEDGER.state, LEDGER.state.time_ms + wait_ms)
    bodies = [effect.item for effect in effects if isinstance(effect, Submit)]
    runs = [(run.seq_first, run.last.seq, run.amount) for body in bodies for run in body.runs]
    return runs, [effect for effect in effects if isinstance(effect, Store)]


@settings(deadline=None)
@given(amounts=st.lists(st.one_of(st.none(), st.integers(0, PRICE)), max_size=8), covered=st.integers(0, 4 * PRICE))
def test_as_many_leaves_are_settled_as_the_bond_covers_and_the_last_has_its_voucher(
    amounts: list[int | None], covered: int
) -> None:
    state = LEDGER.state
    params = replace(state.params, slash_bp=10_000, sample_bp=5_000)  # what may be pending is the bond then
    node = replace(state.nodes[WORKER], bond=covered)
    state = replace(state, params=params, nodes={**state.nodes, WORKER: node})
    assert compute_pending_max(covered, params.sample_bp, params) == covered
    long_after_ms = state.time_ms + LONG_MS

    batcher = Batcher(fill(amounts), WORKER, batch_ms=0)
    sent = [effect.item for effect in batcher.on_tick(state, long_after_ms) if isinstance(effect, Submit)]

    # A leaf that alone is over the bond would hold up those behind it for ever: it earns nothing.
    earned = [amount if amount is not None and amount <= covered else 0 for amount in amounts]
    fitting = [n for n in range(1, len(amounts) + 1) if sum(earned[:n]) <= covered]
    fitting = [n for n in fitting if amounts[n - 1] is not None]
    if not fitting:
        assert not sent
        return
    (body,) = sent
    assert isinstance(body, BatchSettle)
    (run,) = body.runs
    assert (run.seq_first, run.last.seq) == (1, fitting[-1])
    assert run.amount == sum(earned[: fitting[-1]])
    assert not batcher.on_tick(state, long_after_ms + 1)  # one at a time


def test_what_a_voucher_does_not_cover_earns_nothing_and_holds_up_nobody():
    book = Workbook()
    finish(book, 1)
    finish(book, 2, cumulative=PRICE)  # as much as the first had promised by itself
    finish(book, 3)
    runs, kept = settle(book)
    assert runs == [(1, 3, 2 * PRICE)]
    # A restarted worker builds the same tree.
    (entry,) = kept
    assert decode(JournalEntry, entry.value or b"").zero_reason == ZeroReason.UNPAYABLE


def test_a_run_ends_where_its_last_voucher_covers_it():
    book = Workbook()
    finish(book, 1)
    finish(book, 2)
    finish(book, 3, cumulative=PRICE)
    assert settle(book)[0] == [(1, 2, 2 * PRICE)]


def test_vouchers_that_have_run_out_wait_for_a_later_one_and_hold_up_nobody():
    book = Workbook()
    finish(book, 1)
    finish(book, 2)
    beyond_ms = 10 * LONG_MS
    assert settle(book, beyond_ms) == ([], [])
    finish(book, 3, expiry_ms=LEDGER.state.time_ms + beyond_ms)
    assert settle(book, beyond_ms) == ([(1, 3, 3 * PRICE)], [])
