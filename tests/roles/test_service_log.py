"""What a client's account signs about its service: counted as requests end, kept by epoch, not lost in a crash."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from protocol.codec import decode
from protocol.errors import BadSignature
from protocol.keys import PrivateKey
from protocol.messages import Refusal
from protocol.service import CODES_MAX, EDGES_MS, WORKERS_MAX, ServiceStatement, compute_bucket, compute_quantile_ms
from protocol.signing import verify_signed
from roles.request_log import AttemptRecord, RequestRecord
from roles.role import Effect, Record, SetTimer, Stopping, Store, TimerFired
from roles.service_log import BUCKET, EPOCHS_MAX, EVERY_MS, OTHER, TIMER, ServiceLog
from tests.roles.test_client_role import OUTPUT, Story, find, find_all, find_sent
from tests.support.from_types import make_sample

KEY = PrivateKey.from_seed(b"\x07" * 32)
CHAIN = b"chain-id"
REQUEST = make_sample(RequestRecord, is_full=False)
ATTEMPT = make_sample(AttemptRecord, is_full=False)
REFUSAL = make_sample(Refusal, is_full=False)


def make_record(
    *attempts: tuple[int, tuple[str, ...]], took_ms: int = 0, winner: int = 0, code: str = ""
) -> RequestRecord:
    """Tried with these workers, by number, each with the codes of its refusals; all were asked at 1000."""
    tried = tuple(
        replace(
            ATTEMPT,
            worker=number.to_bytes(32, "big"),
            sent_ms=1_000,
            refusals=tuple(replace(REFUSAL, code=item) for item in codes),
        )
        for number, codes in attempts
    )
    return replace(REQUEST, attempts=tried, winner=winner, ended_ms=1_000 + took_ms, code=code)


def read(effects: Iterable[Effect]) -> list[ServiceStatement]:
    stored = (item for item in find_all(effects, Store) if item.bucket == BUCKET and item.value is not None)
    return [decode(ServiceStatement, item.value) for item in stored]


def found(epoch: int = 3) -> ServiceLog:
    log = ServiceLog(KEY)
    log.restore({}, CHAIN, epoch)
    return log


def test_an_answer_a_refusal_and_a_failure_are_each_counted_where_they_belong() -> None:
    log = found()
    log.note(make_record((1, ("busy", "busy")), (2, ()), took_ms=100, winner=2), 3, 0)
    log.note(make_record((1, ("price",)), code="no_answer"), 3, 0)
    [said] = read(log.keep())
    verify_signed(said, KEY.public)
    assert (said.chain, said.account, said.epoch) == (CHAIN, KEY.public, 3)
    one, two = said.workers
    assert [(item.code, item.count) for item in one.refusals] == [("busy", 2), ("price", 1)]
    assert (sum(one.latencies), sum(two.latencies)) == (0, 1)
    assert two.latencies[compute_bucket(100)] == 1
    assert compute_quantile_ms(two.latencies, 50) == EDGES_MS[compute_bucket(100)]
    assert [(item.code, item.count) for item in said.failures] == [("no_answer", 1)]


def test_nothing_is_signed_while_nothing_has_happened() -> None:
    assert found().keep() == []


def test_a_statement_is_signed_now_and_then_not_for_each_request() -> None:
    log = found()
    asked = [effect for _ in range(5) for effect in log.note(make_record((1, ()), winner=1), 3, 100)]
    assert asked == [SetTimer(TIMER, 100 + EVERY_MS)]
    [said] = read(log.on_timer())
    assert sum(said.workers[0].latencies) == 5
    assert find(log.note(make_record((1, ()), winner=1), 3, 9_000), SetTimer).at_ms == 9_000 + EVERY_MS


def test_an_epoch_that_is_over_is_signed_before_the_next_one_is_counted() -> None:
    log = found()
    log.note(make_record((1, ()), winner=1), 3, 0)
    said = read([*log.note(make_record((2, ()), winner=1), 4, 0), *log.keep()])
    assert [(item.epoch, len(item.workers)) for item in said] == [(3, 1), (4, 1)]


def test_a_client_that_was_killed_goes_on_counting_the_epoch_that_runs() -> None:
    log = found()
    log.note(make_record((1, ("busy",)), code="busy"), 3, 0)
    stored = {item.key: item.value for item in find_all(log.keep(), Store)}
    after = ServiceLog(KEY)
    after.restore(stored, CHAIN, 3)
    after.note(make_record((1, ("busy",)), code="busy"), 3, 0)
    [said] = read(after.keep())
    assert (said.workers[0].refusals[0].count, said.failures[0].count) == (2, 2)
    later = ServiceLog(KEY)
    later.restore(stored, CHAIN, 4)
    assert later.keep() == []


def test_what_grows_has_a_bound() -> None:
    log = found(0)
    forgotten = []
    for epoch in range(EPOCHS_MAX + 3):
        effects = [*log.note(make_record((1, ()), winner=1), epoch, 0), *log.keep()]
        forgotten += [item.key for item in find_all(effects, Store) if item.value is None]
    assert forgotten == [epoch.to_bytes(8, "big") for epoch in range(3)]
    log = found()
    for number in range(WORKERS_MAX + 2):
        log.note(make_record((number, (f"code {number}",)), code=f"code {number}"), 3, 0)
    for number in range(CODES_MAX + 5):
        log.note(make_record((1, (f"another {number}",)), code="x"), 3, 0)
    [said] = read(log.keep())
    assert (len(said.workers), said.left_out, len(said.failures)) == (WORKERS_MAX, 2, CODES_MAX)
    codes = {item.code: item.count for item in said.workers[1].refusals}
    assert len(codes) == CODES_MAX
    assert codes[OTHER] == 1 + CODES_MAX + 5 - (CODES_MAX - 1)


def test_a_changed_statement_is_nobodys() -> None:
    log = found()
    log.note(make_record((1, ()), winner=1), 3, 0)
    [said] = read(log.keep())
    with pytest.raises(BadSignature):
        verify_signed(replace(said, epoch=4), KEY.public)


def test_a_client_says_what_it_has_met_when_its_timer_fires_and_when_it_stops() -> None:
    story = Story()
    sent = story.ask()
    story.now_ms += 70
    receipt, worker, _ = story.answer(sent)
    released = story.attest(receipt, worker, OUTPUT)
    assert find(released, SetTimer, lambda item: item.name == TIMER)
    [said] = read(story.do(TimerFired(TIMER)))
    verify_signed(said, story.parts.account.public)
    assert (said.chain, said.epoch) == (story.state.chain, story.state.epoch)
    assert [(item.worker, item.latencies[compute_bucket(70)]) for item in said.workers] == [(worker.public, 1)]
    sent = story.ask("b")
    asked = find_sent(sent)
    first = find(sent, Record, lambda item: item.name == "request.sent").fields["worker"]
    refused = story.refuse(first, asked.voucher.request_id, asked.voucher.attempt, "busy")
    receipt, worker, _ = story.answer(refused)
    story.attest(receipt, worker, OUTPUT)
    [said] = read(story.do(Stopping()))
    assert sum(sum(item.latencies) for item in said.workers) == 2
    assert [[each.code for each in item.refusals] for item in said.workers if item.refusals] == [["busy"]]
