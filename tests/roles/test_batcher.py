"""What a worker puts into its next batch, and what its bond lets it."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.jobs import Mode
from protocol.ledger.batches import BatchSettle, compute_pending_max
from roles.batcher import Batcher
from roles.role import Submit
from roles.workbook import Job, Workbook
from tests.support.jobs import PRICE, make_receipt, make_request, pay
from tests.support.ledgers import Ledger

LEDGER = Ledger()
CHANNEL = LEDGER.open_channel(mode=Mode.BATCH)
WORKER = LEDGER.account("inference-0").public


def fill(amounts: list[int | None]) -> Workbook:
    """Finished jobs over these amounts; None for a voucher that never came."""
    book = Workbook()
    for seq, amount in enumerate(amounts, 1):
        if amount is not None:
            request = make_request(LEDGER.state, LEDGER.foundation, seq, mode=Mode.BATCH)
            item = pay(request, LEDGER.foundation, CHANNEL, seq, amount=amount)
            job = Job(item, rows=1)
            book.add(job)
            book.claim(job, make_receipt(item, LEDGER.node("inference-0")), (), now_ms=0)
    return book


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
    long_after_ms = state.time_ms + 10**6

    batcher = Batcher(fill(amounts), WORKER, batch_ms=0)
    sent = [effect.item for effect in batcher.on_tick(state, long_after_ms) if isinstance(effect, Submit)]

    fitting = [n for n in range(1, len(amounts) + 1) if sum(amount or 0 for amount in amounts[:n]) <= covered]
    fitting = [n for n in fitting if amounts[n - 1] is not None]
    if not fitting:
        assert not sent
        return
    (body,) = sent
    assert isinstance(body, BatchSettle)
    (run,) = body.runs
    assert (run.seq_first, run.last.seq) == (1, fitting[-1])
    assert run.amount == sum(amount or 0 for amount in amounts[: fitting[-1]])
    assert not batcher.on_tick(state, long_after_ms + 1)  # one at a time
