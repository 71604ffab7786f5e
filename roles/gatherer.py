"""What observers have said about a feed's positions, and when it is this observer's turn to report one of them."""

from dataclasses import dataclass, field

from protocol.ledger.feed_records import FeedTerms
from protocol.ledger.feeds import AccuseObserver, compute_quorum, get_observers
from protocol.ledger.state import State
from protocol.ledger.transactions import ReportOracle, SignedObservation

ROUNDS_KEPT = 4
GATHER_MS_MAX = 500  # so long a quorum waits for the rest: who is missing in a report may be taken for silent
TURN_MS_MAX = 500  # so long the others leave it to whoever's turn it is

Position = tuple[str, int, int]  # feed, round, sequence


@dataclass
class _Heard:
    """What was said about one position, by observer. `first_ms` is when the first of it came."""

    first_ms: int
    said: dict[bytes, SignedObservation] = field(default_factory=dict)
    is_reported: bool = False  # by us


class Gatherer:
    """Observations of the last rounds of some feeds. `own` is this observer's node key."""

    def __init__(self, own: bytes) -> None:
        self._own = own
        self._heard: dict[Position, _Heard] = {}
        self._accused: set[tuple[str, bytes]] = set()

    def hear(self, item: SignedObservation, now_ms: int) -> AccuseObserver | None:
        """Keep an observation, the first of each observer; a second one that says something else convicts it."""
        heard = self._heard.setdefault(get_position(item), _Heard(now_ms))
        known = heard.said.setdefault(item.observer, item)
        is_accused = (item.feed, item.observer) in self._accused
        if is_accused or (known.value, known.time_ms) == (item.value, item.time_ms):
            return None
        self._accused.add((item.feed, item.observer))
        return AccuseObserver(known, item)

    def forget(self, state: State) -> None:
        """What is reported already, or too old to be."""
        for position in list(self._heard):
            name, *place = position
            terms, feed = state.feed_terms.get(name), state.feeds.get(name)
            is_over = terms is None or feed is None or tuple(place) <= (feed.round, feed.sequence)
            if is_over or (terms is not None and place[0] + ROUNDS_KEPT < state.time_ms // terms.heartbeat_ms):
                del self._heard[position]

    def compute_turn_ms(self, position: Position, state: State) -> int | None:
        """When this observer should report a position; None while it cannot, or has."""
        name, round_number, sequence = position
        heard, terms = self._heard.get(position), state.feed_terms.get(name)
        if heard is None or terms is None or heard.is_reported:
            return None
        observers = get_observers(state, terms, round_number)
        count = len(heard.said.keys() & observers.keys())
        if self._own not in observers or count < compute_quorum(len(observers), terms.observers_min):
            return None
        turn = (list(observers).index(self._own) - round_number - sequence) % len(observers)
        gather_ms = 0 if count == len(observers) else min(GATHER_MS_MAX, terms.heartbeat_ms // 10)
        return heard.first_ms + gather_ms + turn * min(TURN_MS_MAX, terms.heartbeat_ms // (4 * len(observers)))

    def report(self, position: Position, state: State) -> ReportOracle | None:
        """The report of a position with all that was said about it by those the ledger listens to; once."""
        heard, terms = self._heard.get(position), state.feed_terms.get(position[0])
        if heard is None or terms is None or heard.is_reported:
            return None
        observers = get_observers(state, terms, position[1])
        # The ledger refuses a report as a whole for one observer it does not listen to: with a key that was rotated,
        # or one that observes from a later round on.
        told = [item for observer, item in sorted(heard.said.items()) if observer in observers]
        if len(told) < compute_quorum(len(observers), terms.observers_min):
            return None
        heard.is_reported = True
        return ReportOracle.of(told)


def get_position(item: SignedObservation) -> Position:
    return item.feed, item.round, item.sequence


def is_open(item: SignedObservation, terms: FeedTerms, state: State) -> bool:
    """Whether the position of an observation waits for its report."""
    feed = state.feeds[terms.name]
    return (item.round, item.sequence) > (feed.round, feed.sequence)
