"""Oracle reports: the median of what the oracles of an epoch have signed for one round."""

from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import InvalidReport, RoundNotOpen, RoundOver
from protocol.ledger.records import FeedState
from protocol.ledger.transactions import ReportOracle, compute_median, compute_oracle_quorum, verify_report


def apply_report_oracle(draft: Draft, context: TransactionContext, body: ReportOracle) -> None:
    """The first valid report of a round wins; any account may post it."""
    verify_report(body)
    first = body.observations[0]
    feed = draft.feeds.get(first.feed)
    if feed is None:
        raise InvalidReport(f"the ledger has no feed {first.feed!r}")
    heartbeat_ms = draft.params.oracle_heartbeat_ms
    current = draft.time_ms // heartbeat_ms
    oldest = max(feed.round + 1, current - draft.params.oracle_rounds_late)
    if first.round > current:
        raise RoundNotOpen(first.round, current)
    if first.round < oldest:
        raise RoundOver(first.round, oldest)
    quorum = compute_oracle_quorum(draft.base)
    if len(body.observations) < quorum:
        raise InvalidReport(f"{len(body.observations)} observations, a quorum is {quorum}")
    snapshot = draft.base.get_epoch(draft.base.epoch)
    oracles = {item.node for item in snapshot.get_candidates("oracle")} if snapshot is not None else set()
    for item in body.observations:
        if item.observer not in oracles:
            raise InvalidReport(f"{item.observer.hex()} is no oracle of this epoch")
        if item.time_ms // heartbeat_ms != item.round:
            raise InvalidReport(f"an observation of {item.time_ms} is not of round {item.round}")
        context.verify_signed(item, item.observer)
    value = compute_median([item.value for item in body.observations])
    draft.feeds.put(first.feed, FeedState(first.round, value, draft.time_ms, len(body.observations)))
