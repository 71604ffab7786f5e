"""Oracle reports: the median of what a feed's observers have signed for one position, (round, sequence).

Sequence 0 is the heartbeat's: one a round, whatever the value. Higher ones follow in the same round when the value has
moved by more than the feed's deviation. Whoever posts, the first valid report of a position wins, and positions only
go up: there are never two. A value beyond the feed's jump is held, not taken, until the next round's report is near it
too. It is held rather than the feed halted because a halt needs somebody to end it, and nobody here can.
"""

from dataclasses import replace

from protocol.candles import LEVELS, add_value, compute_page_key, compute_period, compute_slot
from protocol.keys import format_node
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.feed_errors import InvalidReport, RoundNotOpen, RoundOver
from protocol.ledger.feed_records import FeedState, FeedTerms
from protocol.ledger.feeds import (
    compute_observer_key,
    compute_quorum,
    get_feed,
    is_beyond,
    list_observers,
)
from protocol.ledger.transactions import ReportOracle, SignedObservation, compute_median, verify_report
from protocol.types import GRAINS_PER_ROLE

SEQUENCES_MAX = 16  # reports of one round
OUTLIER_LOST = GRAINS_PER_ROLE  # weighs in quality like so much burnt in vain
SILENCE_LOST = GRAINS_PER_ROLE // 10


def apply_report_oracle(draft: Draft, context: TransactionContext, body: ReportOracle) -> None:
    """The first valid report of a position wins; any account may post it."""
    verify_report(body)
    first = body.observations[0]
    terms, feed = get_feed(draft, first.feed)
    _verify_position(draft, terms, feed, first)
    epoch = draft.base.get_epoch(draft.base.epoch)
    observers = list_observers(draft.observers.get, epoch, terms, first.round)
    quorum = compute_quorum(len(observers), terms.observers_min)
    if len(body.observations) < quorum:
        raise InvalidReport(f"{len(body.observations)} observations, a quorum is {quorum}")
    for item in body.observations:
        if item.observer not in observers:
            raise InvalidReport(
                f"node {format_node(item.observer)} does not observe {terms.name!r} in round {item.round}"
            )
        _verify_time(draft, terms, item)
        context.verify_signed(item, item.observer)
    value = compute_median([item.value for item in body.observations])
    if first.sequence and not is_beyond(feed.value, value, terms.deviation_bp):
        raise InvalidReport(f"{value} is within {terms.deviation_bp} basis points of the last value, {feed.value}")
    _count(draft, terms, observers, body, value)
    observed_ms = compute_median([item.time_ms for item in body.observations])
    take_value(
        draft,
        terms,
        feed,
        replace(feed, round=first.round, sequence=first.sequence),
        value,
        observed_ms,
        len(body.observations),
    )


def take_value(
    draft: Draft, terms: FeedTerms, before: FeedState, position: FeedState, value: int, observed_ms: int, volume: int
) -> None:
    """Put a reported value where it belongs: to the feed and its history, or on hold."""
    after = replace(position, reports=before.reports + 1)
    if must_hold(terms, before, value):
        draft.feeds.put(terms.name, replace(after, held=(value,)))
        return
    taken = replace(after, value=value, time_ms=draft.time_ms, observed_ms=observed_ms, observers=volume, held=())
    draft.feeds.put(terms.name, taken)
    for level in range(LEVELS):
        period = compute_period(level, taken.round)
        key = compute_page_key(terms.name, level, compute_slot(period)[1])
        draft.candles.put(key, add_value(draft.candles.get(key), period, value, volume))


def must_hold(terms: FeedTerms, feed: FeedState, value: int) -> bool:
    """Whether a value jumps, and no held one before it has said the same."""
    if not terms.jump_bp or not feed.observers or not is_beyond(feed.value, value, terms.jump_bp):
        return False
    return not feed.held or is_beyond(feed.held[0], value, terms.jump_bp)


def _verify_position(draft: Draft, terms: FeedTerms, feed: FeedState, first: SignedObservation) -> None:
    current = draft.time_ms // terms.heartbeat_ms
    is_further = first.sequence > 0
    oldest = max(feed.round + (not is_further), current - draft.params.oracle_rounds_late)
    if first.round > current:
        raise RoundNotOpen(first.round, current)
    if first.round < oldest:
        raise RoundOver(first.round, oldest)
    if not is_further:
        return
    if not terms.deviation_bp or feed.held:
        raise InvalidReport(
            f"{terms.name!r} takes no reports between heartbeats{', as a value is held' if feed.held else ''}"
        )
    if (first.round, first.sequence) != (feed.round, feed.sequence + 1) or first.sequence >= SEQUENCES_MAX:
        raise InvalidReport(
            f"report {first.sequence} of round {first.round} does not follow {feed.sequence} of round {feed.round}"
        )


def _verify_time(draft: Draft, terms: FeedTerms, item: SignedObservation) -> None:
    if item.time_ms // terms.heartbeat_ms != item.round:
        raise InvalidReport(f"an observation of {item.time_ms} is not of round {item.round}")
    if draft.time_ms - item.time_ms > terms.age_ms_max:
        age_ms = draft.time_ms - item.time_ms
        raise InvalidReport(f"an observation is {age_ms} ms old, at most {terms.age_ms_max} allowed")


def _count(draft: Draft, terms: FeedTerms, observers: dict[bytes, bytes], body: ReportOracle, value: int) -> None:
    """What a report says of its observers, and of those it is without.

    One that is missing may have been left out by who posted it. It is silent once it has been missing for longer than
    it takes until its own turn to post.
    """
    said = {item.observer: item.value for item in body.observations}
    for node, account in observers.items():
        key = compute_observer_key(terms.name, account)
        observer = draft.observers.get(key)
        assert observer is not None  # it is listed
        missed = 0 if node in said else observer.missed + 1
        is_silent = missed > len(observers)
        if is_silent:
            draft.count_work(account, lost=SILENCE_LOST)
        if missed or observer.missed:
            draft.observers.put(key, replace(observer, missed=0 if is_silent else missed))
        if node in said and terms.outlier_bp and is_beyond(value, said[node], terms.outlier_bp):
            draft.count_work(account, outliers=1, lost=OUTLIER_LOST)
        elif node in said:
            draft.count_work(account, observed=1)
