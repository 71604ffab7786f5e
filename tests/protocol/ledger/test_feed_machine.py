"""Random histories of feeds against a plain model: joins, leavings, reports of all sorts, equivocations, time."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.candles import LEVELS, PAGES, NoHistory
from protocol.ledger.errors import InvalidEvidence
from protocol.ledger.feed_errors import InvalidFeed, InvalidReport, RoundOver
from protocol.ledger.feed_records import Candle, FeedState
from protocol.ledger.feeds import (
    AccuseObserver,
    ObserveFeed,
    compute_feed_key,
    compute_quorum,
    get_observers,
    is_beyond,
)
from protocol.ledger.oracle import SEQUENCES_MAX
from protocol.ledger.transactions import compute_median
from protocol.proofs.feed_proof import read_state_candles
from protocol.queries import CandleQuery
from tests.support.feeds import HEARTBEAT_MS, TERMS, found_feed, observe, report

ORACLES = 5
FEED = TERMS.name
NAMES = st.sampled_from([f"oracle-{number}" for number in range(ORACLES)])
VALUES = st.one_of(st.integers(900, 1_100), st.integers(-(2**40), 2**40))


class Feeds(RuleBasedStateMachine):
    @initialize(rounds_quiet=st.integers(0, 3))
    def begin(self, rounds_quiet: int) -> None:
        self.ledger = found_feed(oracles=ORACLES)
        self.ledger.block(after_ms=1 + rounds_quiet * HEARTBEAT_MS)
        self.present = {f"oracle-{number}": 0 for number in range(ORACLES)}  # name -> when it joined
        self.taken: list[tuple[int, int, int]] = []  # round, value, observers of each value that was taken
        self.positions: set[tuple[int, int]] = set()
        self.convicted: set[str] = set()
        self.held: int | None = None

    @property
    def feed(self) -> FeedState:
        return self.ledger.state.feeds[FEED]

    @property
    def round(self) -> int:
        return self.ledger.state.time_ms // HEARTBEAT_MS

    def list_heard(self) -> set[str]:
        """Observers of this round by the model: present since before it began, and with the bond of an oracle."""
        snapshot = self.ledger.state.get_epoch(self.ledger.state.epoch)
        assert snapshot is not None
        bonded = {item.account for item in snapshot.get_candidates("oracle")}
        return {
            name
            for name, since_ms in self.present.items()
            if since_ms <= self.round * HEARTBEAT_MS and self.ledger.account(name).public in bonded
        }

    @rule(after_ms=st.sampled_from([1, 200, HEARTBEAT_MS, 3 * HEARTBEAT_MS, 40 * HEARTBEAT_MS]))
    def wait(self, after_ms: int) -> None:
        self.ledger.block(after_ms=after_ms)

    @rule(name=NAMES)
    def come_or_go(self, name: str) -> None:
        account = self.ledger.account(name)
        observes = int(name not in self.present)
        wrong = self.ledger.refuse(account, ObserveFeed(FEED, 1 - observes))
        assert isinstance(wrong, InvalidFeed)
        node = self.ledger.state.nodes[account.public]
        if observes and node.bond < self.ledger.state.params.get_bond_min("oracle"):
            assert isinstance(self.ledger.refuse(account, ObserveFeed(FEED, 1)), InvalidFeed)
            return
        before = self.ledger.state.observers.get(compute_feed_key(FEED) + account.public)
        self.ledger.do(account, ObserveFeed(FEED, observes), after_ms=1)
        if observes:
            self.present[name] = self.ledger.state.time_ms if before is None else before.since_ms
        else:
            del self.present[name]

    @rule(said=st.dictionaries(NAMES, VALUES, min_size=1), is_further=st.booleans())
    def post(self, said: dict[str, int], is_further: bool) -> None:
        """Whoever posts whatever: it is taken exactly when the model says so."""
        feed = self.feed
        sequence = feed.sequence + 1 if is_further else 0
        body = report(self.ledger, said, sequence=sequence)
        fit = self._may_be_taken(said, sequence)
        errors = self.ledger.block(self.ledger.sign(self.ledger.spare(), body), after_ms=1) if self._stays(1) else None
        if errors is None:
            return
        assert (errors == []) is fit, (errors, said, feed)
        if not fit:
            assert isinstance(errors[0], InvalidReport | RoundOver)
            assert self.feed == feed
            return
        position = self.feed.round, self.feed.sequence
        assert position not in self.positions
        self.positions.add(position)
        self._take(feed, compute_median(list(said.values())), len(said))

    def _stays(self, after_ms: int) -> bool:
        """Whether a block so much later is of this round too, and due items leave the observers as they are."""
        return (self.ledger.state.time_ms + after_ms) // HEARTBEAT_MS == self.round

    def _may_be_taken(self, said: dict[str, int], sequence: int) -> bool:
        heard, feed = self.list_heard(), self.feed
        if not said.keys() <= heard or len(said) < compute_quorum(len(heard), TERMS.observers_min):
            return False
        if not sequence:
            return self.round > feed.round
        is_next = self.round == feed.round and self.held is None and sequence < SEQUENCES_MAX
        return is_next and is_beyond(feed.value, compute_median(list(said.values())), TERMS.deviation_bp)

    def _take(self, before: FeedState, value: int, observers: int) -> None:
        jumps = bool(self.taken) and is_beyond(before.value, value, TERMS.jump_bp)
        if jumps and (self.held is None or is_beyond(self.held, value, TERMS.jump_bp)):
            self.held = value
            assert (self.feed.value, self.feed.held) == (before.value, (value,))
            return
        self.held = None
        self.taken.append((self.feed.round, value, observers))
        assert (self.feed.value, self.feed.held) == (value, ())

    @rule(name=NAMES, value=VALUES, other=VALUES)
    def equivocate(self, name: str, value: int, other: int) -> None:
        first, second = observe(self.ledger, name, value), observe(self.ledger, name, other)
        account = self.ledger.account(name).public
        body = AccuseObserver(first, second)
        is_guilty = value != other and name in self.present
        is_guilty = is_guilty and self.present[name] <= self.round * HEARTBEAT_MS
        known = self.ledger.state.observers.get(compute_feed_key(FEED) + account)
        if known is not None and known.left_ms:
            return  # who has left answers too: shown by a test of its own
        bond = self.ledger.state.nodes[account].bond
        if not is_guilty:
            assert isinstance(self.ledger.refuse(self.ledger.spare(), body), InvalidEvidence)
            return
        self.ledger.do(self.ledger.spare(), body, after_ms=1)
        assert self.ledger.state.nodes[account].bond < bond
        del self.present[name]
        assert isinstance(self.ledger.refuse(self.ledger.spare(1), body), InvalidEvidence)

    @precondition(lambda self: self.taken)
    @rule(rounds=st.sampled_from([1, 2, 5, 12, 24, 60]), count=st.integers(1, 12), newest_first=st.integers(0, 1))
    def look_back(self, rounds: int, count: int, newest_first: int) -> None:
        query = CandleQuery(FEED, rounds * HEARTBEAT_MS, count, newest_first)
        try:
            found = read_state_candles(self.ledger.state, query)
        except NoHistory:
            assert (count + 1) * rounds > 96
            return
        end = self.ledger.state.time_ms // query.duration_ms
        expected = []
        for period in range(max(0, end - count), end):
            inside = [item for item in self.taken if item[0] // rounds == period]
            values = [value for _, value, _ in inside]
            if inside:
                volume = sum(item[2] for item in inside)
                expected.append(Candle(period, values[0], max(values), min(values), values[-1], volume))
        assert found == tuple(reversed(expected) if newest_first else expected)

    @invariant()
    def those_heard_are_those_of_the_model(self) -> None:
        terms = self.ledger.state.feed_terms[FEED]
        heard = {self.ledger.account(name).public for name in self.list_heard()}
        assert set(get_observers(self.ledger.state, terms, self.round).values()) == heard

    @invariant()
    def nothing_grows(self) -> None:
        key = compute_feed_key(FEED)
        assert sum(each.startswith(key) for each in self.ledger.state.candles) <= LEVELS * PAGES
        assert sum(each.startswith(key) for each in self.ledger.state.observers) <= ORACLES


TestFeeds = Feeds.TestCase
TestFeeds.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
