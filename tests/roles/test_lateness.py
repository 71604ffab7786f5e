"""A worker takes no more than the ledger settles: what it turns away follows what waits."""

import hashlib
from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.jobs import Mode
from protocol.ledger.state import State
from roles.admission import NotAdmitted, RefusalCode
from roles.lateness import BATCHED, SINGLE, Flow, Lateness, Tolerance
from roles.workbook import Job, Workbook
from tests.roles.test_admission import make_ledger
from tests.support.core_parts import Parts
from tests.support.jobs import make_request, pay

ASKED = 400
LOOK_MS = 500


def make_ended(parts: Parts, state: State, channel: bytes, seq: int, ended_ms: int) -> Job:
    item = pay(make_request(state, parts.foundation, seq), parts.foundation, channel, seq)
    return Job(item, rows=1, ended_ms=ended_ms)


def count_turned_away(lateness: Lateness, job: Job) -> int:
    """Of ASKED requests like this job's, each with an id of its own."""
    codes: list[RefusalCode] = []
    for number in range(ASKED):
        request_id = hashlib.sha256(number.to_bytes(4, "big")).digest()
        try:
            lateness.check(replace(job.item, voucher=replace(job.item.voucher, request_id=request_id)))
        except NotAdmitted as refusal:
            codes.append(refusal.code)
    assert set(codes) <= {RefusalCode.BEHIND}
    return len(codes)


def test_the_longer_what_is_done_waits_the_more_is_turned_away_until_it_is_settled():
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    job = make_ended(parts, state, channel, 1, state.time_ms)
    book.add(job)
    lateness = Lateness(book)

    def look(waits_ms: int, ledger: State = state) -> int:
        lateness.look(ledger, state.time_ms + waits_ms)
        return count_turned_away(lateness, job)

    assert look(SINGLE.first_ms // 2) == 0
    some, more = look(SINGLE.first_ms), look(6_000)
    assert 0 < some < more < ASKED
    assert look(SINGLE.all_ms) == ASKED
    settled = replace(state, channels={channel: replace(state.channels[channel], settled_seq=1)})
    assert look(SINGLE.all_ms + 1, settled) == 0
    assert look(SINGLE.all_ms) == ASKED
    assert look(SINGLE.all_ms, replace(state, channels={})) == 0  # closed by then


def test_only_what_the_ledger_could_settle_counts_as_waiting_for_it():
    parts, state, channel, _ = make_ledger()
    late_ms = state.time_ms + SINGLE.all_ms

    def look(job: Job, **changes: object) -> int:
        book = Workbook()
        book.add(job)
        lateness = Lateness(book)
        channels = {channel: replace(state.channels[channel], **changes)}
        lateness.look(replace(state, channels=channels), late_ms)
        return count_turned_away(lateness, job)

    ended = make_ended(parts, state, channel, 1, state.time_ms)
    assert look(ended) == ASKED
    assert look(ended, mode=Mode.BATCH) == 0  # another mode's channel says nothing of this one
    assert look(replace(ended, ended_ms=0)) == 0  # it is not known yet what it earns
    assert look(make_ended(parts, state, channel, 2, state.time_ms)) == 0  # its client has still to give the first
    spent = replace(ended.item, voucher=replace(ended.item.voucher, expiry_ms=late_ms - 1))
    assert look(replace(ended, item=spent)) == 0  # its client has to give another voucher for it


@dataclass
class Story:
    """A worker that is asked `asked` times a second, and a ledger that settles `settled` of them, a block at a time."""

    asked: int
    settled: int
    block_ms: int
    flow: Flow
    done_ms: deque[int] = field(default_factory=deque)  # of jobs that wait, oldest first
    waits_ms: list[int] = field(default_factory=list)  # of those that are settled

    def run(self, seconds: int) -> None:
        news, owed = 0, 0.0
        for now_ms in range(1, seconds * 1_000):
            for number in range(self.asked * now_ms // 1_000 - self.asked * (now_ms - 1) // 1_000):
                request_id = hashlib.sha256(f"{now_ms} {number}".encode()).digest()
                if int.from_bytes(request_id[-4:], "big") >= self.flow.share * 2**32:
                    self.done_ms.append(now_ms)
            if now_ms % self.block_ms == 0:
                owed += self.settled * self.block_ms / 1_000
                count = min(len(self.done_ms), int(owed))
                owed = owed - count if count < len(self.done_ms) else 0.0
                self.waits_ms += [now_ms - self.done_ms.popleft() for _ in range(count)]
                news += count
            if now_ms % LOOK_MS == 0:
                oldest_ms = now_ms - self.done_ms[0] if self.done_ms else 0
                self.flow.look(news, len(self.done_ms), oldest_ms, now_ms)
                news = 0


@settings(max_examples=15)
@example(times=1.8, settled=65, block_ms=1_000)
@given(times=st.floats(0.5, 4), settled=st.integers(20, 100), block_ms=st.sampled_from([250, 1_000, 2_000]))
def test_under_any_load_what_is_taken_is_settled_in_time_and_no_less_than_can_be(
    times: float, settled: int, block_ms: int
) -> None:
    story = Story(int(times * settled), settled, block_ms, Flow(SINGLE))
    story.run(90)
    last = story.waits_ms[len(story.waits_ms) // 2 :]
    assert max(last) <= SINGLE.all_ms
    assert len(story.waits_ms) >= 0.9 * 90 * min(story.asked, story.settled)


def test_batches_that_are_seldom_settled_are_waited_for_longer():
    story = Story(asked=200, settled=100, block_ms=10_000, flow=Flow(BATCHED))
    story.run(240)
    assert max(story.waits_ms) <= BATCHED.all_ms
    assert len(story.waits_ms) >= 0.9 * 240 * story.settled


def test_a_load_that_the_ledger_keeps_up_with_is_taken_whole_from_its_first_second():
    story = Story(asked=100, settled=200, block_ms=1_000, flow=Flow(SINGLE))
    story.run(20)
    assert len(story.waits_ms) + len(story.done_ms) == 100 * 20 - 1


@pytest.mark.parametrize("tolerance", [SINGLE, BATCHED])
def test_of_a_wait_within_the_bounds_a_share_within_them_is_turned_away(tolerance: Tolerance):
    middle_ms = (tolerance.first_ms + tolerance.all_ms) / 2
    waits_ms = 0, tolerance.first_ms, middle_ms, tolerance.all_ms, 10 * tolerance.all_ms
    assert [tolerance.compute_share(wait_ms) for wait_ms in waits_ms] == [0.0, 0.0, 0.5, 1.0, 1.0]
