"""The replay window says of each envelope once that it is new."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.replay import WINDOW, ReplayWindow

near = st.integers(0, 40)


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.integers(0, 3), near | st.integers(0, 2**63 - 1))))
def test_the_window_agrees_with_remembering_everything(seen: list[tuple[bytes, int, int]]) -> None:
    window = ReplayWindow()
    remembered: set[tuple[bytes, int, int]] = set()
    boots: dict[bytes, int] = {}
    tops: dict[tuple[bytes, int], int] = {}
    for sender, boot, seq in seen:
        is_recent = boot >= boots.get(sender, 0) and seq > tops.get((sender, boot), 0) - WINDOW
        expected = is_recent and (sender, boot, seq) not in remembered

        assert window.is_new(sender, boot, seq) is expected

        remembered.add((sender, boot, seq))
        boots[sender] = max(boot, boots.get(sender, 0))
        tops[sender, boot] = max(seq, tops.get((sender, boot), 0))


def test_late_messages_within_the_window_are_new_once() -> None:
    window = ReplayWindow()

    assert window.is_new(b"a", 1, WINDOW)
    assert window.is_new(b"a", 1, 1)
    assert not window.is_new(b"a", 1, 1)
    assert not window.is_new(b"a", 1, 0)
    assert window.is_new(b"a", 1, WINDOW + 1)
    assert not window.is_new(b"a", 1, 1)


def test_a_leap_forward_forgets_what_lies_behind_and_remembers_itself() -> None:
    window = ReplayWindow()

    assert window.is_new(b"a", 1, 1)
    assert window.is_new(b"a", 1, 2**62)
    assert not window.is_new(b"a", 1, 2**62)
    assert not window.is_new(b"a", 1, 1)
    assert window.is_new(b"a", 1, 2**62 - WINDOW + 1)
    assert not window.is_new(b"a", 1, 2**62 - WINDOW)


def test_a_new_process_start_ends_the_older_one() -> None:
    window = ReplayWindow()

    assert window.is_new(b"a", 1, 5)
    assert window.is_new(b"a", 2, 0)
    assert not window.is_new(b"a", 1, 6)
    assert window.is_new(b"b", 1, 6)


def test_of_too_many_senders_the_longest_silent_one_is_forgotten() -> None:
    window = ReplayWindow(senders_max=2)
    for sender in (b"a", b"b"):
        assert window.is_new(sender, 1, 1)
    assert not window.is_new(b"a", 1, 1)

    assert window.is_new(b"c", 1, 1)

    assert len(window) == 2
    assert not window.is_new(b"a", 1, 1)
    assert not window.is_new(b"c", 1, 1)
    assert window.is_new(b"b", 1, 1)
