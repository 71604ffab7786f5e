"""A worker settles its jobs in runs without gaps; what cannot earn becomes a zero leaf with its reason."""

from dataclasses import replace

import pytest

from protocol.codec import decode, encode
from protocol.jobs import Receipt
from protocol.ledger.state import State
from protocol.ledger.transactions import SettleIndividual, ZeroReason
from roles.admission import GAP_MAX, NotAdmitted, RefusalCode
from roles.workbook import (
    LEAVES_MAX,
    RECALL_MS,
    SETTLE_BYTES_MAX,
    TURNED_AWAY_MAX,
    VOID_GRACE_MS,
    Job,
    JournalEntry,
    Workbook,
)
from tests.roles.test_admission import make_ledger
from tests.support.core_parts import Parts
from tests.support.jobs import OUTPUT, PRICE, attest, draw, get_keys, make_receipt, make_request, pay, sign_transaction


def make_job(parts: Parts, state: State, channel: bytes, seq: int, **voucher: object) -> Job:
    return Job(pay(make_request(state, parts.foundation, seq), parts.foundation, channel, seq, **voucher), rows=1)


def finish(book: Workbook, job: Job, parts: Parts, state: State) -> Receipt:
    """Claim a job and have its verifiers attest it."""
    node, _ = get_keys(parts.foundation, "inference-0")
    receipt = make_receipt(job.item, node)
    job.outputs = (OUTPUT,)
    book.claim(job, receipt, draw(state, receipt), now_ms=state.time_ms)
    job.attestations = {item.verifier: item for item in attest(state, parts.foundation, receipt, receipt.output_digest)}
    return receipt


def settle(parts: Parts, state: State, body: SettleIndividual) -> State:
    """The ledger after a block with the worker's settlement."""
    _, worker = get_keys(parts.foundation, "inference-0")
    builder = Parts(parts.foundation, state, parts.node, parts.account, parts.courier, parts.rng)
    _, after = builder.build([sign_transaction(state, worker, body)])
    return after


def test_attested_jobs_settle_on_the_ledger():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    for seq in (1, 2, 3):
        job = make_job(parts, state, channel, seq)
        book.add(job)
        finish(book, job, parts, state)

    plan = book.plan(state, {}, state.time_ms)

    assert plan is not None
    after = settle(parts, state, plan.body)
    assert after.channels[channel].settled_seq == 3
    assert len(book.forget_settled({channel: 3}, {}, 2)) == 2
    assert len(book.forget_settled({channel: 3}, {}, 2)) == 1
    assert book.plan(after, {}, after.time_ms) is None


def test_a_job_that_is_still_open_holds_up_those_behind_it():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    first, second = make_job(parts, state, channel, 1), make_job(parts, state, channel, 2)
    book.add(first)
    book.add(second)
    finish(book, second, parts, state)

    assert book.plan(state, {}, state.time_ms) is None
    deadline_ms = first.item.request.deadline_ms + VOID_GRACE_MS + 1
    assert book.expire(deadline_ms) == [first]
    plan = book.plan(state, {}, deadline_ms)

    assert plan is not None
    assert [leaf.reason for leaf in plan.body.runs[0].leaves] == [ZeroReason.FAILED, 0]


def test_a_voucher_never_seen_becomes_a_zero_leaf_once_the_next_request_is_over():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    job = make_job(parts, state, channel, 2)
    book.add(job)
    finish(book, job, parts, state)

    assert book.plan(state, {}, state.time_ms) is None
    plan = book.plan(state, {}, job.item.request.deadline_ms + VOID_GRACE_MS + 1)

    assert plan is not None
    assert [leaf.reason for leaf in plan.body.runs[0].leaves] == [ZeroReason.NEVER_SEEN, 0]


def test_a_claim_that_nobody_attests_ends_void():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    job = make_job(parts, state, channel, 1)
    book.add(job)
    finish(book, job, parts, state)
    job.attestations.popitem()

    book.expire(job.item.request.deadline_ms + VOID_GRACE_MS + 1)

    assert job.zero_reason == ZeroReason.UNATTESTED


def test_only_jobs_that_have_not_ended_are_looked_at_again_and_none_the_ledger_is_through_with():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    jobs = [make_job(parts, state, channel, seq) for seq in (1, 2, 3, 4)]
    for job in jobs:
        book.add(job)
    finish(book, jobs[0], parts, state)
    finish(book, jobs[1], parts, state)
    jobs[1].unlike.add(bytes(32))
    jobs[2].zero_reason = ZeroReason.FAILED

    assert book.list_open(state.time_ms) == [jobs[1], jobs[3]]
    assert book.forget_settled({channel: 2}, {}, 4) == jobs[:2]
    assert book.list_open(state.time_ms) == [jobs[3]]
    assert book.expire(jobs[3].item.request.deadline_ms + VOID_GRACE_MS + 1) == [jobs[3]]
    assert book.list_open(state.time_ms) == []


@pytest.mark.parametrize("is_there_soon", [False, True])
def test_what_is_planned_behind_a_settlement_under_way_fits_behind_it(
    monkeypatch: pytest.MonkeyPatch, is_there_soon: bool
):
    monkeypatch.setattr("roles.workbook.LEAVES_MAX", 3)
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    for seq in range(1, 6):
        # The fourth promises nothing beyond what the third does.
        job = make_job(parts, state, channel, seq, **({"cumulative": 3 * PRICE} if seq == 4 else {}))
        book.add(job)
        finish(book, job, parts, state)

    first = book.plan(state, {}, state.time_ms)
    assert first is not None
    after = settle(parts, state, first.body)
    second = book.plan(after if is_there_soon else state, first.after, state.time_ms)

    assert second is not None
    assert (first.is_full, second.is_full) == (True, False)
    assert [leaf.reason for leaf in second.body.runs[0].leaves] == [ZeroReason.UNPAYABLE, 0]
    last = settle(parts, after, second.body)
    assert last.channels[channel] == second.after[channel]
    assert book.plan(last, second.after, last.time_ms) is None


@pytest.mark.parametrize("leaves_max", [LEAVES_MAX, 20])
def test_a_settlement_fits_one_transaction(monkeypatch: pytest.MonkeyPatch, leaves_max: int):
    monkeypatch.setattr("roles.workbook.LEAVES_MAX", leaves_max)
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    for seq in range(1, 80):
        job = make_job(parts, state, channel, seq)
        book.add(job)
        finish(book, job, parts, state)

    plan = book.plan(state, {}, state.time_ms)

    assert plan is not None
    leaf_bytes = len(encode(plan.body.runs[0].leaves[0]))
    assert len(plan.body.runs[0].leaves) == min(leaves_max, SETTLE_BYTES_MAX // leaf_bytes)
    assert len(encode(plan.body)) < SETTLE_BYTES_MAX + leaf_bytes


def test_a_leaf_the_ledger_refuses_for_good_earns_nothing_and_those_behind_it_settle():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    # One whose voucher has run out, one whose voucher promises no more than the one before it, one that is good.
    for seq, changes in ((1, {"expiry_ms": state.time_ms - 1}), (2, {}), (3, {"cumulative": PRICE}), (4, {})):
        job = make_job(parts, state, channel, seq, **changes)
        book.add(job)
        finish(book, job, parts, state)

    plan = book.plan(state, {}, state.time_ms)

    assert plan is not None
    assert [leaf.reason for leaf in plan.body.runs[0].leaves] == [ZeroReason.UNPAYABLE, 0, ZeroReason.UNPAYABLE, 0]
    after = settle(parts, state, plan.body)
    assert (after.channels[channel].settled_seq, after.channels[channel].paid) == (4, 2 * PRICE)


def test_a_claim_whose_worker_was_down_past_its_deadline_may_still_be_attested():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    job = make_job(parts, state, channel, 1)
    book.add(job)
    finish(book, job, parts, state)
    attestations = dict(job.attestations)
    job.attestations = {}
    back_ms = job.item.request.deadline_ms + 10 * VOID_GRACE_MS
    entry = decode(JournalEntry, encode(job.to_entry()))
    attested, forgotten = Workbook(), Workbook()
    for restored in (attested, forgotten):
        restored.restore([entry], lambda receipt: draw(state, receipt), back_ms)
        assert not restored.expire(back_ms + RECALL_MS)

    (recalled,) = attested.jobs.values()
    recalled.attestations = attestations
    assert not attested.expire(back_ms + 10 * RECALL_MS)
    assert forgotten.expire(back_ms + RECALL_MS + VOID_GRACE_MS + 1) == [*forgotten.jobs.values()]


def test_a_voucher_given_up_or_that_does_not_fit_in_with_the_others_is_refused():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    for seq in (1, 5):
        book.add(make_job(parts, state, channel, seq))
    deadline_ms = book.jobs[channel, 5].item.request.deadline_ms

    def refuse(seq: int, now_ms: int = state.time_ms, **changes: object) -> str:
        try:
            book.check_order(make_job(parts, state, channel, seq, **changes).item.voucher, state, now_ms)
        except NotAdmitted as refusal:
            return str(refusal.code)
        return ""

    assert [refuse(3), refuse(6)] == ["", ""]
    assert refuse(3, now_ms=deadline_ms + VOID_GRACE_MS + 1) == RefusalCode.VOUCHER_REUSED
    assert refuse(6, now_ms=deadline_ms + VOID_GRACE_MS + 1) == ""
    assert refuse(3, cumulative=2 * PRICE - 1) == RefusalCode.UNPAID
    assert refuse(6, cumulative=6 * PRICE - 1) == RefusalCode.UNPAID
    assert refuse(6 + GAP_MAX) == RefusalCode.UNPAID


def test_a_voucher_that_was_turned_away_holds_up_none_behind_it_and_buys_nothing_later():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    first, second, third = (make_job(parts, state, channel, seq) for seq in (1, 2, 3))
    for job in (first, third):
        book.add(job)
        finish(book, job, parts, state)
    book.turn_away(second.item.voucher)

    plan = book.plan(state, {}, state.time_ms)
    with pytest.raises(NotAdmitted) as refused:
        book.check_order(second.item.voucher, state, state.time_ms)

    assert plan is not None
    assert [leaf.reason for leaf in plan.body.runs[0].leaves] == [0, ZeroReason.NEVER_SEEN, 0]
    assert refused.value.code == RefusalCode.VOUCHER_REUSED
    after = settle(parts, state, plan.body)
    assert after.channels[channel].settled_seq == 3
    book.forget_settled({channel: 3}, {}, 4)
    assert not book._turned_away


def test_a_voucher_that_was_turned_away_before_any_other_came_holds_up_none_either():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    first, second = (make_job(parts, state, channel, seq) for seq in (1, 2))
    book.turn_away(first.item.voucher)
    book.forget_settled(dict.fromkeys(book.list_channels(), 0), {}, 4)
    book.add(second)
    finish(book, second, parts, state)

    plan = book.plan(state, {}, state.time_ms)

    assert plan is not None
    assert [leaf.reason for leaf in plan.body.runs[0].leaves] == [ZeroReason.NEVER_SEEN, 0]
    book.forget_settled({}, {}, 4)  # the channel was closed
    assert not book.list_channels()
    assert not book._turned_away


def test_only_so_many_vouchers_of_a_channel_are_remembered_that_were_turned_away():
    parts, state, channel, _ = make_ledger()
    book, voucher = Workbook(), make_job(parts, state, channel, 1).item.voucher
    for seq in range(1, TURNED_AWAY_MAX + 10):
        book.turn_away(replace(voucher, seq=seq))
    assert len(book._turned_away[channel]) == TURNED_AWAY_MAX


def test_channels_that_have_waited_longest_come_first_and_those_with_nothing_to_settle_not_at_all():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    older, newer, settled = (bytes([number]) * 32 for number in (3, 2, 1))
    for key, deadline_ms in ((newer, 2_000), (older, 1_000), (settled, 500)):
        item = make_job(parts, state, channel, 1).item
        request = replace(item.request, deadline_ms=deadline_ms)
        book.add(Job(replace(item, request=request, voucher=replace(item.voucher, channel=key))))

    known = state.channels[channel]
    channels = {newer: known, older: known, settled: replace(known, settled_seq=1), channel: known}
    assert book.list_waiting(channels) == [older, newer]


def test_a_restored_workbook_settles_what_the_killed_one_had_claimed():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    job = make_job(parts, state, channel, 1)
    book.add(job)
    finish(book, job, parts, state)
    journal = encode(job.to_entry())

    restored = Workbook()
    restored.restore([decode(JournalEntry, journal)], lambda receipt: draw(state, receipt), state.time_ms)

    assert restored.plan(state, {}, state.time_ms) == book.plan(state, {}, state.time_ms)
