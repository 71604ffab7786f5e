"""A feed's history as candles: how the ledger keeps it in little room, and how any duration is read out of it.

Four levels of candles are kept: of one round, and of 12, 144 and 1,728. Each level is a ring of four pages of 32
consecutive periods, so a feed's history never grows, and the coarser a candle, the further back it reaches: of a feed
with a heartbeat of 5 s ten minutes by the round, and ten days by the 2.4 hours. A query is answered from the coarsest
level whose period divides its duration, which takes at most four pages; each is an entry of the state tree, so whoever
holds the root can check the answer.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace

from protocol.errors import ProtocolError
from protocol.ledger.feed_records import Candle, CandlePage
from protocol.ledger.limits import CANDLES_PER_PAGE
from protocol.queries import CandleQuery
from protocol.signing import compute_domain_prefix

LEVELS = 4
LEVEL_TIMES = 12  # a level's period is so many of the one below
PAGES = 4
CANDLES_MAX = 128  # of one query
_FEED_PREFIX = compute_domain_prefix("feed")

GetPage = Callable[[int, int], CandlePage | None]  # by level and slot


class NoHistory(ProtocolError):
    """The ledger does not hold these candles, and why."""


def compute_feed_key(feed: str) -> bytes:
    """What the keys of everything the ledger holds of a feed begin with: 32 bytes."""
    return hashlib.sha256(_FEED_PREFIX + feed.encode()).digest()


def compute_page_key(feed: str, level: int, slot: int) -> bytes:
    """The key of a page in the table of candles."""
    return compute_feed_key(feed) + bytes((level, slot))


def compute_period(level: int, round_number: int) -> int:
    """The period of a level that a round falls into."""
    return int(round_number // LEVEL_TIMES**level)


def compute_slot(period: int) -> tuple[int, int]:
    """The number of a period's page, and the page's slot in its ring."""
    number = period // CANDLES_PER_PAGE
    return number, number % PAGES


def add_value(page: CandlePage | None, period: int, value: int, volume: int) -> CandlePage:
    """The page of a period after one more value; a page of earlier periods gives way to it."""
    number, _ = compute_slot(period)
    fresh = Candle(period, value, value, value, value, volume)
    if page is None or page.number != number:
        return CandlePage(number, (fresh,))
    last = page.candles[-1]
    if last.period != period:
        return CandlePage(number, (*page.candles, fresh))
    return CandlePage(number, (*page.candles[:-1], _join(last, fresh)))


def choose_level(query: CandleQuery, heartbeat_ms: int) -> int:
    """The coarsest level that answers a query. NoHistory for a duration or count that no level answers."""
    if not query.duration_ms or query.duration_ms % heartbeat_ms:
        raise NoHistory(f"a candle of {query.feed} lasts whole rounds of {heartbeat_ms} ms, not {query.duration_ms} ms")
    if not 0 < query.count <= CANDLES_MAX:
        raise NoHistory(f"1 to {CANDLES_MAX} candles are read at a time, not {query.count}")
    rounds = query.duration_ms // heartbeat_ms
    return max(level for level in range(LEVELS) if rounds % LEVEL_TIMES**level == 0)


def list_slots(query: CandleQuery, heartbeat_ms: int, time_ms: int) -> tuple[int, tuple[int, ...]]:
    """The level and the slots of the pages that answer a query at a time, oldest first. NoHistory as `read_candles`."""
    level = choose_level(query, heartbeat_ms)
    first, end = _find_periods(query, heartbeat_ms, time_ms, level)
    numbers = range(compute_slot(first)[0], compute_slot(end - 1)[0] + 1)
    if len(numbers) > PAGES:
        raise NoHistory(_explain_reach(query, heartbeat_ms, level))
    return level, tuple(number % PAGES for number in numbers)


def read_candles(query: CandleQuery, heartbeat_ms: int, time_ms: int, get_page: GetPage) -> tuple[Candle, ...]:
    """The candles that had ended by `time_ms`, without those that saw no report; their `period` counts durations.

    NoHistory when the ledger keeps nothing so old or so fine.
    """
    level, slots = list_slots(query, heartbeat_ms, time_ms)
    first, end = _find_periods(query, heartbeat_ms, time_ms, level)
    times = query.duration_ms // (heartbeat_ms * LEVEL_TIMES**level)
    wanted = range(compute_slot(first)[0], compute_slot(end - 1)[0] + 1)
    found: dict[int, Candle] = {}
    for number, slot in zip(wanted, slots, strict=True):
        page = get_page(level, slot)
        if page is not None and page.number > number:
            raise NoHistory(_explain_reach(query, heartbeat_ms, level))
        for candle in page.candles if page is not None and page.number == number else ():
            if first <= candle.period < end:
                whole = replace(candle, period=candle.period // times)
                before = found.get(whole.period)
                found[whole.period] = whole if before is None else _join(before, whole)
    return tuple(found[period] for period in sorted(found, reverse=bool(query.newest_first)))


def fill_candles(query: CandleQuery, time_ms: int, candles: Iterable[Candle]) -> tuple[Candle, ...]:
    """The same without gaps, in the same order: where nothing was reported, the last close goes on, with no volume.

    NoHistory when the oldest is among those that are missing.
    """
    known = {candle.period: candle for candle in candles}
    newest = time_ms // query.duration_ms - 1
    filled: list[Candle] = []
    for period in range(newest - query.count + 1, newest + 1):
        candle = known.get(period)
        if candle is None and not filled:
            raise NoHistory(f"{query.feed} was not reported on {query.count} durations of {query.duration_ms} ms ago")
        close = filled[-1].close if filled else 0
        filled.append(candle or Candle(period, close, close, close, close, 0))
    return tuple(reversed(filled) if query.newest_first else filled)


def _find_periods(query: CandleQuery, heartbeat_ms: int, time_ms: int, level: int) -> tuple[int, int]:
    """The first period of a level that a query wants, and the first one after the last."""
    times = query.duration_ms // (heartbeat_ms * LEVEL_TIMES**level)
    end = time_ms // query.duration_ms
    return max(0, end - query.count) * times, end * times


def _explain_reach(query: CandleQuery, heartbeat_ms: int, level: int) -> str:
    period_ms = heartbeat_ms * LEVEL_TIMES**level
    kept = (PAGES - 1) * CANDLES_PER_PAGE
    return (
        f"{query.count} candles of {query.duration_ms} ms reach further back than the {kept} periods of {period_ms} ms "
        f"that are sure to be kept of {query.feed}: ask for fewer, or for multiples of {period_ms * LEVEL_TIMES} ms"
    )


def _join(first: Candle, second: Candle) -> Candle:
    """Two parts of one period, in order."""
    return Candle(
        first.period,
        first.open,
        max(first.high, second.high),
        min(first.low, second.low),
        second.close,
        first.volume + second.volume,
    )
