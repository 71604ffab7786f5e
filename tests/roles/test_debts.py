"""What workers owe a client: sums that are remembered are the sums."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from roles.debts import PRESS_MS, Debts

WORKER = bytes(32)
CHANNEL = b"channel"

begun = st.tuples(st.just("begin"), st.booleans(), st.booleans())  # called off or not, late or not
ended = st.tuples(st.just("end"), st.integers(0, 5))
passed = st.tuples(st.just("pass"), st.integers(0, 3_000))
settled = st.tuples(st.just("settle"), st.integers(0, 12))
steps = st.lists(st.one_of(begun, ended, passed, settled), max_size=30)


class NothingPaid:
    def is_overpaid(self, key: bytes, channel: Any) -> bool:
        return False


def make_attempt(number: int, is_called_off: bool, is_late: bool, now_ms: int) -> Any:
    voucher = SimpleNamespace(channel=CHANNEL, seq=number, request_id=bytes([number]), attempt=1)
    item = SimpleNamespace(voucher=voucher)
    return SimpleNamespace(
        item=item, worker=WORKER, number=1, sent_ms=now_ms, is_called_off=is_called_off, is_late=is_late
    )


def make_state(settled_seq: int) -> Any:
    return SimpleNamespace(channels={CHANNEL: SimpleNamespace(settled_seq=settled_seq)})


@given(steps)
def test_what_a_worker_owes_is_as_if_it_were_counted_anew_each_time(steps: list[tuple[Any, ...]]) -> None:
    debts, held, now_ms, count, state, is_silent = Debts(NothingPaid()), list[Any](), 0, 0, make_state(0), False  # type: ignore[arg-type]
    for step in steps:
        match step:
            case ("begin", is_called_off, is_late):
                count += 1
                held.append(make_attempt(count, is_called_off, is_late, now_ms))
                debts.begin(held[-1])
                is_silent |= is_late or not is_called_off
            case ("end", place) if place < len(held):
                debts.end(held.pop(place))
                is_silent = False
            case ("pass", after_ms):
                now_ms += after_ms
            case ("settle", settled_seq):
                state = make_state(settled_seq)

        found = debts.count(WORKER, state)

        held = [attempt for attempt in held if attempt.item.voucher.seq > state.channels[CHANNEL].settled_seq]
        assert found == len(held)
        is_silent &= bool(held)
        assert debts.is_silent(WORKER) == is_silent
        due = [attempt for attempt in held if now_ms >= attempt.sent_ms + PRESS_MS]
        assert list(debts.press(WORKER, now_ms)) == due
        assert debts.list_all() == held
