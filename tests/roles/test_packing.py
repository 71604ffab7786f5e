"""Packing loses nothing, keeps order and respects both bounds."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import encode
from protocol.messages import Blob
from roles.packing import LEAVE_MS, PACK_BYTES_MAX, compute_leave_ms, pack


@given(sizes=st.lists(st.integers(0, PACK_BYTES_MAX), max_size=30), items_max=st.integers(1, 8))
def test_packs_hold_every_item_in_order_within_the_bounds(sizes, items_max):
    items = [Blob(bytes(size)) for size in sizes]

    packs = pack(items, items_max)

    assert [item for part in packs for item in part] == items
    assert all(0 < len(part) <= items_max for part in packs)
    assert all(len(part) == 1 or sum(len(encode(item)) for item in part) <= PACK_BYTES_MAX for part in packs)


@given(now_ms=st.integers(0, 2**50), passing_ms=st.integers(0, LEAVE_MS))
def test_what_gathers_leaves_soon_and_with_all_that_gathers_meanwhile_anywhere(now_ms, passing_ms):
    leave_ms = compute_leave_ms(now_ms)

    assert now_ms < leave_ms <= now_ms + LEAVE_MS
    assert compute_leave_ms(now_ms + passing_ms) == leave_ms + LEAVE_MS * (now_ms + passing_ms >= leave_ms)
