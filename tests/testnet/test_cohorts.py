"""Who is active when and who comes back, against sets of epochs."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from testnet import cohorts
from testnet.cohorts import SPANS_MAX, Cohorts, fold, list_bits

acts = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 500)), max_size=60)


@given(acts)
def test_counts_are_those_of_sets_of_epochs_whatever_the_width_has_become(found: list[tuple[int, int]]) -> None:
    seen = Cohorts()
    for account, epoch in found:
        seen.note(bytes([account]), epoch)
    width = seen.width
    latest = max((epoch for _, epoch in found), default=0)
    assert width == 1 or latest // (width // 2) >= SPANS_MAX > latest // width
    spans: dict[int, set[int]] = {}
    for account, epoch in found:
        spans.setdefault(account, set()).add(epoch // width)
    told = seen.describe()
    assert told["accounts"] == len(spans)
    assert told["returned"] == sum(len(each) > 1 for each in spans.values())
    first = {account: min(each) for account, each in spans.items()}
    for number, span in enumerate(told["spans"]):
        active = {account for account, each in spans.items() if number in each}
        new = {account for account in active if first[account] == number}
        assert (span["active"], span["new"], span["returning"]) == (len(active), len(new), len(active - new))
        assert span["first_epoch"] == number * width
    sizes = Counter(first.values())
    assert [(row["first_epoch"] // width, row["accounts"]) for row in told["cohorts"]] == sorted(sizes.items())
    for row in told["cohorts"]:
        begun = row["first_epoch"] // width
        assert row["active"] == [
            sum(first[account] == begun and number in each for account, each in spans.items())
            for number in range(begun, len(told["spans"]))
        ]


@given(st.integers(0, 2**SPANS_MAX - 1))
def test_spans_folded_two_by_two_are_those_in_which_either_was_active(mask: int) -> None:
    assert set(list_bits(fold(mask))) == {span // 2 for span in list_bits(mask)}


def test_accounts_beyond_the_bound_are_left_out_and_counted(monkeypatch) -> None:
    monkeypatch.setattr(cohorts, "ACCOUNTS_MAX", 2)
    seen = Cohorts()
    for account in (b"a", b"b", b"c", b"a"):
        seen.note(account, 0)
    assert (len(seen.masks), seen.left_out) == (2, 1)
