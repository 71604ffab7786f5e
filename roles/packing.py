"""Divides items among as few gossip messages as their size allows, and says when these leave."""

from collections.abc import Sequence
from typing import TypeVar

from protocol.codec import encode

T = TypeVar("T")

LEAVE_MS = 30  # gossip that gathers leaves at multiples of it
PACK_BYTES_MAX = 56 * 1024  # a gossip message less its envelope, with room to spare


def pack(items: Sequence[T], items_max: int) -> list[tuple[T, ...]]:
    """The items in order, in lists of at most `items_max` and PACK_BYTES_MAX encoded; a larger item stands alone.

    Bytes are what they are, with three for their length.
    """
    packs: list[tuple[T, ...]] = []
    current: list[T] = []
    size_bytes = 0
    for item in items:
        item_bytes = len(item) + 3 if isinstance(item, bytes) else len(encode(item))
        if current and (size_bytes + item_bytes > PACK_BYTES_MAX or len(current) == items_max):
            packs.append(tuple(current))
            current, size_bytes = [], 0
        current.append(item)
        size_bytes += item_bytes
    return [*packs, tuple(current)] if current else packs


def compute_leave_ms(now_ms: int) -> int:
    """When what gathers from now on leaves: at moments that are the same for all, as far as their clocks agree.

    Who hears from several then hears from all of them in one turn, and waits half as long for what has just missed one.

    >>> compute_leave_ms(1_000_000), compute_leave_ms(1_000_020)
    (1000020, 1000050)
    """
    return (now_ms // LEAVE_MS + 1) * LEAVE_MS
