"""A feed and its candles out of a ledger file: what to prove, and what was shown.

Whoever holds the genesis reads history from such a file as the ledger itself would, and knows that nothing is left out:
a period without a report is a proven absence too.
"""

from collections.abc import Mapping

from protocol.candles import compute_page_key, list_slots, read_candles
from protocol.errors import InvalidProof
from protocol.ledger.feed_records import Candle, CandlePage, FeedState, FeedTerms
from protocol.ledger.state import State
from protocol.queries import CandleQuery

Entries = Mapping[tuple[str, bytes], object | None]


def list_feed_entries(feed: str) -> list[tuple[str, bytes]]:
    """What the state holds of a feed besides its history: table and key."""
    return [("feed_terms", feed.encode()), ("feeds", feed.encode())]


def list_candle_entries(state: State, query: CandleQuery) -> list[tuple[str, bytes]]:
    """The entries that answer a query at this state. NoHistory as `read_candles`; KeyError without such a feed."""
    level, slots = list_slots(query, state.feed_terms[query.feed].heartbeat_ms, state.time_ms)
    pages = [("candles", compute_page_key(query.feed, level, slot)) for slot in slots]
    return [*list_feed_entries(query.feed), *pages]


def read_state_candles(state: State, query: CandleQuery) -> tuple[Candle, ...]:
    """What the ledger answers to a query. NoHistory as `read_candles`; KeyError without such a feed."""
    terms = state.feed_terms[query.feed]

    def get_page(level: int, slot: int) -> CandlePage | None:
        return state.candles.get(compute_page_key(query.feed, level, slot))

    return read_candles(query, terms.heartbeat_ms, state.time_ms, get_page)


def read_shown_feed(entries: Entries, feed: str) -> tuple[FeedTerms, FeedState]:
    """Terms and state of a feed as a ledger file has shown them. InvalidProof when it does not, or there is none."""
    terms, state = (entries.get(entry) for entry in list_feed_entries(feed))
    if not isinstance(terms, FeedTerms) or not isinstance(state, FeedState):
        raise InvalidProof(f"the file shows no feed {feed!r}")
    return terms, state


def read_shown_candles(entries: Entries, query: CandleQuery, time_ms: int) -> tuple[Candle, ...]:
    """The answer to a query at the time of the header. InvalidProof when the file does not show all of it."""
    terms, _ = read_shown_feed(entries, query.feed)

    def get_page(level: int, slot: int) -> CandlePage | None:
        entry = "candles", compute_page_key(query.feed, level, slot)
        if entry not in entries:
            raise InvalidProof(f"the file leaves out page {slot} of level {level} of {query.feed!r}")
        page = entries[entry]
        assert page is None or isinstance(page, CandlePage)  # the table says so
        return page

    return read_candles(query, terms.heartbeat_ms, time_ms, get_page)
