"""Brings outside data in: reads its feeds, signs what it has read, and reports the observers' median to the ledger.

For each position of a feed, (round, sequence), it signs one reading and no other, whatever becomes of it: what it signs
is on disk before it leaves.
"""

from collections.abc import Mapping
from typing import Any

from protocol.codec import decode, encode
from protocol.ledger.feed_records import FeedTerms
from protocol.ledger.feeds import ObserveFeed, compute_observer_key, get_observers, is_beyond
from protocol.ledger.oracle import SEQUENCES_MAX
from protocol.ledger.state import State
from protocol.ledger.transactions import SignedObservation
from protocol.messages import ObservationMessage
from protocol.signing import sign
from protocol.topics import oracle_topic
from roles.gatherer import Gatherer, Position, get_position, is_open
from roles.role import (
    Context,
    Effect,
    Event,
    Fetch,
    Fetched,
    LedgerAdvanced,
    Publish,
    Received,
    Record,
    Role,
    SetTimer,
    Started,
    Store,
    Submit,
    Submitted,
    TimerFired,
)
from roles.sources import FeedError, FetchFailed, Source, make_source

READ_MS = 2_000
JOIN_AGAIN_MS = 30_000
SIGNED = "signed"  # bucket: the last observation of each feed, by its name
READ, REPORT, JOIN = "read/", "report/", "join/"


class Oracle(Role):
    """`config["feeds"]` maps names of feeds to the options of their sources (`sources`); {} for what the feed says."""

    name = "oracle"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._feeds: dict[str, Mapping[str, Any]] = dict(context.config.get("feeds", {}))
        self._read_ms = int(context.config.get("read_ms", READ_MS))
        for options in self._feeds.values():
            make_source(options)
        self.topics = tuple(oracle_topic(feed) for feed in sorted(self._feeds))
        self._gatherer = Gatherer(context.signer.public)
        self._signed: dict[str, SignedObservation] = {}
        self._fetching: dict[str, set[str]] = {}  # address -> feeds that wait for it
        self._joined_ms: dict[str, int] = {}  # when joining was asked for last

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Started(state, stored):
                self._state = state
                kept = (decode(SignedObservation, data) for data in stored.get(SIGNED, {}).values())
                self._signed = {item.feed: item for item in kept}
                return [SetTimer(READ + name, now_ms) for name in sorted(self._feeds)]
            case LedgerAdvanced(state):
                self._state = state
                self._gatherer.forget(state)
                return []
            case TimerFired(name) if name.startswith(READ):
                return self._read(name.removeprefix(READ), now_ms)
            case TimerFired(name) if name.startswith(REPORT):
                return self._report(_parse_timer(name))
            case Fetched(address, data, error):
                waiting = sorted(self._fetching.pop(address, ()))
                return [effect for name in waiting for effect in self._take(name, data, error, now_ms)]
            case Received(message=ObservationMessage(observation)) if observation.feed in self._feeds:
                return self._hear(observation, now_ms)
            case Submitted(token, height, error) if token.startswith(REPORT):
                token = token.removeprefix(REPORT)
                return [Record("oracle.reported", {"report": token, "height": height or 0, "error": error})]
            case Submitted(token, _, error) if error:
                return [Record("oracle.refused", {"what": token, "reason": error})]
            case _:
                return []

    def _read(self, name: str, now_ms: int) -> list[Effect]:
        """Look at a feed's source, and again when a round begins or a while has passed."""
        terms = self._find_terms(name)
        if terms is None:
            return [SetTimer(READ + name, now_ms + self._read_ms)]
        round_end_ms = (now_ms // terms.heartbeat_ms + 1) * terms.heartbeat_ms
        again = SetTimer(READ + name, min(now_ms + self._read_ms, round_end_ms))
        if not self._observes(terms, now_ms):
            return [again, *self._join(terms, now_ms)]
        try:
            address = self._make_source(terms).address
        except FetchFailed as error:
            return [again, Record("oracle.unread", {"feed": name, "reason": str(error)})]
        # A source that stalls is asked once at a time: it has the node's own time limit.
        is_asked = address in self._fetching
        self._fetching.setdefault(address, set()).add(name)
        return [again] if is_asked else [again, Fetch(address)]

    def _take(self, name: str, data: bytes | None, error: str, now_ms: int) -> list[Effect]:
        terms = self._find_terms(name)
        if terms is None:
            return []
        try:
            if data is None:
                raise FetchFailed(error)
            value = self._make_source(terms).read(data, terms.decimals, now_ms)
        except FeedError as problem:
            return [Record("oracle.unread", {"feed": name, "reason": str(problem)})]
        return self._observe(terms, value, now_ms)

    def _observe(self, terms: FeedTerms, value: int, now_ms: int) -> list[Effect]:
        """Sign a value if a position waits for one; say once more what was signed if that is still waiting."""
        last = self._signed.get(terms.name)
        position = self._find_position(terms, value, now_ms)
        if position is None or (last is not None and position <= (last.round, last.sequence)):
            is_waiting = last is not None and last.round == now_ms // terms.heartbeat_ms
            if last is None or not is_waiting or not is_open(last, terms, self._ledger):
                return []
            return [Publish(oracle_topic(terms.name), ObservationMessage(last)), *self._hear(last, now_ms)]
        own = self.context.signer.public
        unsigned = SignedObservation(terms.name, *position, value, now_ms, own, bytes(64))
        item = self._signed[terms.name] = sign(unsigned, self.context.signer)
        kept = Store(SIGNED, terms.name.encode(), encode(item))
        return [kept, Publish(oracle_topic(terms.name), ObservationMessage(item)), *self._hear(item, now_ms)]

    def _find_position(self, terms: FeedTerms, value: int, now_ms: int) -> tuple[int, int] | None:
        """The position a value of now is for: the round's first, or the next if it has moved since the last report."""
        feed, current = self._ledger.feeds[terms.name], now_ms // terms.heartbeat_ms
        if feed.round < current:
            return current, 0
        is_moved = bool(terms.deviation_bp) and not feed.held and is_beyond(feed.value, value, terms.deviation_bp)
        if feed.round > current or not is_moved or feed.sequence + 1 >= SEQUENCES_MAX:
            return None
        return current, feed.sequence + 1

    def _hear(self, item: SignedObservation, now_ms: int) -> list[Effect]:
        evidence = self._gatherer.hear(item, now_ms)
        accused: list[Effect] = []
        if evidence is not None:
            fields = {"feed": item.feed, "round": item.round, "observer": item.observer}
            accused = [Record("oracle.equivocated", fields), Submit(evidence, f"accuse/{item.feed}")]
        position = get_position(item)
        turn_ms = self._gatherer.compute_turn_ms(position, self._ledger)
        return accused if turn_ms is None else [*accused, SetTimer(_name_timer(position), max(now_ms, turn_ms))]

    def _report(self, position: Position) -> list[Effect]:
        self._gatherer.forget(self._ledger)
        report = self._gatherer.report(position, self._ledger)
        return [] if report is None else [Submit(report, _name_timer(position))]

    def _join(self, terms: FeedTerms, now_ms: int) -> list[Effect]:
        """Ask to observe a feed that this node's operator wants observed, unless that is on its way."""
        account = self.context.account.public
        known = self._ledger.observers.get(compute_observer_key(terms.name, account))
        is_waiting = now_ms < self._joined_ms.get(terms.name, -JOIN_AGAIN_MS) + JOIN_AGAIN_MS
        is_oracle = any(node.account == account for node in self._ledger.get_nodes(self.name))
        if (known is not None and not known.left_ms) or is_waiting or not is_oracle:
            return []
        self._joined_ms[terms.name] = now_ms
        return [Submit(ObserveFeed(terms.name, 1), JOIN + terms.name)]

    def _observes(self, terms: FeedTerms, now_ms: int) -> bool:
        return self.context.signer.public in get_observers(self._ledger, terms, now_ms // terms.heartbeat_ms)

    def _find_terms(self, name: str) -> FeedTerms | None:
        state: State = self._ledger
        terms = state.feed_terms.get(name)
        return None if terms is None or terms.retired_ms else terms

    def _make_source(self, terms: FeedTerms) -> Source:
        return make_source(self._feeds[terms.name], terms.address, terms.path)


def _name_timer(position: Position) -> str:
    name, round_number, sequence = position
    return f"{REPORT}{name}/{round_number}" + (f"/{sequence}" if sequence else "")


def _parse_timer(name: str) -> Position:
    feed, round_number, *sequence = name.removeprefix(REPORT).split("/")
    return feed, int(round_number), int(sequence[0]) if sequence else 0
