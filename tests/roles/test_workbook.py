"""A worker settles its jobs in runs without gaps; what cannot earn becomes a zero leaf with its reason."""

from protocol.codec import decode, encode
from protocol.jobs import Receipt
from protocol.ledger.state import State
from protocol.ledger.transactions import ZeroReason
from roles.workbook import LEAVES_MAX, VOID_GRACE_MS, Job, JournalEntry, Workbook
from tests.roles.test_admission import make_ledger
from tests.support.core_parts import Parts
from tests.support.jobs import OUTPUT, attest, draw, get_keys, make_receipt, make_request, pay, sign_transaction


def make_job(parts: Parts, state: State, channel: bytes, seq: int) -> Job:
    return Job(pay(make_request(state, parts.foundation, seq), parts.foundation, channel, seq), rows=1)


def finish(book: Workbook, job: Job, parts: Parts, state: State) -> Receipt:
    """Claim a job and have its verifiers attest it."""
    node, _ = get_keys(parts.foundation, "inference-0")
    receipt = make_receipt(job.item, node)
    job.outputs = (OUTPUT,)
    book.claim(job, receipt, draw(state, receipt), now_ms=state.time_ms)
    job.attestations = {item.verifier: item for item in attest(state, parts.foundation, receipt, receipt.output_digest)}
    return receipt


def test_attested_jobs_settle_on_the_ledger():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    for seq in (1, 2, 3):
        job = make_job(parts, state, channel, seq)
        book.add(job)
        finish(book, job, parts, state)
    _, worker = get_keys(parts.foundation, "inference-0")

    plan = book.plan(state, set(), state.time_ms)

    assert plan is not None
    later = Parts(parts.foundation, state, parts.node, parts.account, parts.courier, parts.rng)
    _, after = later.build([sign_transaction(state, worker, plan)])
    assert after.channels[channel].settled_seq == 3
    assert len(book.forget_settled({channel: 3}, {})) == 3
    assert book.plan(after, set(), after.time_ms) is None


def test_a_job_that_is_still_open_holds_up_those_behind_it():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    first, second = make_job(parts, state, channel, 1), make_job(parts, state, channel, 2)
    book.add(first)
    book.add(second)
    finish(book, second, parts, state)

    assert book.plan(state, set(), state.time_ms) is None
    deadline_ms = first.item.request.deadline_ms + VOID_GRACE_MS + 1
    assert book.expire(deadline_ms) == [first]
    plan = book.plan(state, set(), deadline_ms)

    assert plan is not None
    assert [leaf.reason for leaf in plan.runs[0].leaves] == [ZeroReason.FAILED, 0]


def test_a_voucher_never_seen_becomes_a_zero_leaf_once_the_next_request_is_over():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    job = make_job(parts, state, channel, 2)
    book.add(job)
    finish(book, job, parts, state)

    assert book.plan(state, set(), state.time_ms) is None
    plan = book.plan(state, set(), job.item.request.deadline_ms + VOID_GRACE_MS + 1)

    assert plan is not None
    assert [leaf.reason for leaf in plan.runs[0].leaves] == [ZeroReason.NEVER_SEEN, 0]


def test_a_claim_that_nobody_attests_ends_void():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    job = make_job(parts, state, channel, 1)
    book.add(job)
    finish(book, job, parts, state)
    job.attestations.popitem()

    book.expire(job.item.request.deadline_ms + VOID_GRACE_MS + 1)

    assert job.zero_reason == ZeroReason.UNATTESTED


def test_a_channel_with_a_settlement_under_way_waits():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    job = make_job(parts, state, channel, 1)
    book.add(job)
    finish(book, job, parts, state)

    assert book.plan(state, {channel}, state.time_ms) is None


def test_a_settlement_fits_one_transaction():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    for seq in range(1, 80):
        job = make_job(parts, state, channel, seq)
        book.add(job)
        finish(book, job, parts, state)

    plan = book.plan(state, set(), state.time_ms)

    assert plan is not None
    assert len(plan.runs[0].leaves) == LEAVES_MAX
    assert len(encode(plan)) < 60_000


def test_a_restored_workbook_settles_what_the_killed_one_had_claimed():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    job = make_job(parts, state, channel, 1)
    book.add(job)
    finish(book, job, parts, state)
    journal = encode(job.to_entry())

    restored = Workbook()
    restored.restore([decode(JournalEntry, journal)], lambda receipt: draw(state, receipt))

    assert restored.plan(state, set(), state.time_ms) == book.plan(state, set(), state.time_ms)
