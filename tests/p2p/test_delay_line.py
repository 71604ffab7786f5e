"""A delay line keeps every byte and its place, lets nothing out early, and holds no more than it may."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.delay_line import (
    CLEAR,
    RTO_S,
    SEGMENT_BYTES,
    Conditions,
    DelayLine,
    Silence,
)

STREAMABLE = (Silence.NONE, Silence.STALL)
SLACK = 1e-6

conditions = st.builds(
    Conditions,
    delay_ms=st.integers(0, 500),
    jitter_ms=st.integers(0, 500),
    bytes_per_s=st.one_of(st.just(0), st.integers(1_000, 1_000_000)),
    loss_bp=st.integers(0, 3_000),
    silence=st.sampled_from(STREAMABLE),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 20_000)),
        st.tuples(st.just("wait"), st.integers(0, 2_000)),
        st.tuples(st.just("change"), conditions),
    ),
    max_size=40,
)


def drain(line: DelayLine, now_s: float) -> tuple[list[tuple[float, bytes]], float]:
    """Everything that comes out from now on, with its time, and when the last of it did."""
    out = []
    while (due_s := line.get_due_s()) < float("inf"):
        now_s = max(now_s, due_s)
        data = line.peek(now_s)
        if not data:
            break
        line.consume(len(data))
        out.append((now_s, data))
    return out, now_s


@given(seed=st.integers(0, 2**32), script=steps, bytes_max=st.integers(1, 100_000))
def test_what_comes_out_is_what_went_in_in_order_and_never_more_is_held_than_allowed(seed, script, bytes_max):
    line = DelayLine(random.Random(seed), bytes_max)
    now_s, sent, out = 0.0, bytearray(), bytearray()
    for what, value in script:
        if what == "push":
            data = bytes(random.Random(len(sent)).randbytes(value))
            sent += data[: line.push(data, now_s)]
        elif what == "wait":
            now_s += value / 1_000
            while due := line.peek(now_s):
                line.consume(min(len(due), 1_000))  # a socket need not take all of it
                out += due[:1_000]
        else:
            line.change(value, now_s)
        assert 0 <= line.size <= bytes_max
        assert line.room == bytes_max - line.size
    line.change(CLEAR, now_s)
    rest, _ = drain(line, now_s)
    assert bytes(out) + b"".join(data for _, data in rest) == bytes(sent)
    assert line.is_idle
    assert line.lost_bytes == 0


@given(
    seed=st.integers(0, 2**32),
    now=conditions,
    sends=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 5_000)), min_size=1, max_size=20),
)
def test_no_byte_is_earlier_than_its_delay_and_all_are_within_the_bandwidth(seed, now, sends):
    line = DelayLine(random.Random(seed))
    line.change(Conditions(now.delay_ms, now.jitter_ms, now.bytes_per_s, now.loss_bp), 0.0)
    now_s, pushed = 0.0, []
    for pause_ms, size in sends:
        now_s += pause_ms / 1_000
        pushed += [now_s] * line.push(bytes(size), now_s)
    out, _ = drain(line, 0.0)
    times = [time_s for time_s, data in out for _ in data]

    assert len(times) == len(pushed)
    assert all(time_s >= sent_s + now.delay_ms / 1_000 - SLACK for sent_s, time_s in zip(pushed, times, strict=True))
    assert times == sorted(times)
    if now.bytes_per_s:
        first_s = pushed[0] + now.delay_ms / 1_000
        for count, time_s in enumerate(times, start=1):
            assert count <= (time_s - first_s) * now.bytes_per_s + SLACK * now.bytes_per_s


def test_delays_of_writes_close_together_do_not_add_up():
    line = DelayLine(random.Random(1))
    line.change(Conditions(delay_ms=100), 0.0)

    for now_s in (0.0, 0.001, 0.002):
        line.push(b"x", now_s)

    assert [time_s for time_s, _ in drain(line, 0.0)[0]] == pytest.approx([0.1, 0.101, 0.102])


def test_a_lost_segment_holds_up_those_behind_it_until_it_has_been_sent_again():
    line = DelayLine(random.Random(5))
    line.change(Conditions(loss_bp=2_000), 0.0)

    line.push(bytes(50 * SEGMENT_BYTES), 0.0)

    out, last_s = drain(line, 0.0)
    assert sum(len(data) for _, data in out) == 50 * SEGMENT_BYTES
    assert last_s in (RTO_S, 3 * RTO_S)


def test_the_same_seed_draws_the_same_jitter():
    def run(seed: int) -> list[tuple[float, bytes]]:
        line = DelayLine(random.Random(seed))
        line.change(Conditions(delay_ms=10, jitter_ms=90), 0.0)
        line.push(bytes(9 * SEGMENT_BYTES), 0.0)
        return drain(line, 0.0)[0]

    assert run(7) == run(7) != run(8)


def test_a_stall_lets_nothing_out_and_loses_nothing():
    line = DelayLine(random.Random(1))
    line.change(Conditions(delay_ms=50), 0.0)
    line.push(b"before", 0.0)
    line.change(Conditions(delay_ms=50, silence=Silence.STALL), 0.01)
    line.push(b" and while", 1.0)

    assert line.peek(100.0) == b""
    assert line.get_due_s() == float("inf")

    line.change(Conditions(delay_ms=50), 200.0)
    assert drain(line, 200.0)[0] == [(pytest.approx(200.05), b"before and while")]


def test_a_blackhole_takes_everything_gives_nothing_and_remembers_that_it_did():
    line = DelayLine(random.Random(1), bytes_max=100)
    line.push(bytes(60), 0.0)
    line.change(Conditions(silence=Silence.BLACKHOLE), 0.0)

    assert [line.push(bytes(100), float(second)) for second in range(50)] == [100] * 50
    assert line.size == 0
    line.change(CLEAR, 60.0)

    assert drain(line, 60.0)[0] == []
    assert line.lost_bytes == 60 + 50 * 100


def test_the_end_travels_behind_the_last_byte():
    line = DelayLine(random.Random(1))
    line.change(Conditions(delay_ms=100), 0.0)
    line.push(b"last", 0.0)
    line.finish(0.05)

    assert not line.is_over(0.2)
    line.consume(len(line.peek(0.2)))
    assert not line.is_over(0.14)
    assert line.is_over(0.16)
