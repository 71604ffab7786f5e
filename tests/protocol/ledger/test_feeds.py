"""Feeds on the ledger: registered, observed, reported once a position, held to what was seen, retired."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InvalidTransaction
from protocol.ledger.apply import check_transaction
from protocol.ledger.errors import InvalidEvidence, InvalidSignature, LimitReached
from protocol.ledger.feed_errors import InvalidFeed, InvalidReport, NotYourFeed, RoundOver, UnknownFeed
from protocol.ledger.feeds import (
    AccuseObserver,
    ObserveFeed,
    RetireFeed,
    compute_observer_key,
    compute_quorum,
    get_observers,
    is_stale,
)
from protocol.ledger.oracle import OUTLIER_LOST, SEQUENCES_MAX, SILENCE_LOST
from protocol.ledger.quality import compute_quality
from protocol.ledger.state import compute_supply
from protocol.ledger.transactions import ReportOracle, SignedObservation, Stake, compute_median
from protocol.signing import sign
from protocol.types import INT_MAX
from tests.support.feeds import HEARTBEAT_MS, TERMS, begin_round, found_feed, observe, report
from tests.support.ledgers import Ledger

FEED = TERMS.name


def get_value(ledger: Ledger, feed: str = FEED) -> int:
    return ledger.state.feeds[feed].value


def all_say(ledger: Ledger, value: int, sequence: int = 0) -> ReportOracle:
    return report(ledger, {f"oracle-{number}": value for number in range(4)}, sequence=sequence)


# Registration


def test_a_feed_is_registered_for_a_deposit_and_its_deposit_comes_back_when_it_is_forgotten() -> None:
    ledger = found_feed()
    owner = ledger.account("client-0")
    before = ledger.state.get_balance(owner.public)
    ledger.do(ledger.spare(), all_say(ledger, 100))
    assert isinstance(ledger.refuse(ledger.spare(), RetireFeed(FEED)), NotYourFeed)
    ledger.do(owner, RetireFeed(FEED))
    assert isinstance(ledger.refuse(ledger.spare(), all_say(ledger, 100)), UnknownFeed)
    assert ledger.state.candles
    params = ledger.state.params
    ledger.block(after_ms=HEARTBEAT_MS + params.epoch_ms * params.evidence_epochs)
    assert FEED not in ledger.state.feed_terms
    assert FEED not in ledger.state.feeds
    assert not ledger.state.candles
    assert len(ledger.state.observers) == 4  # of the feed of genesis
    paid = before - ledger.state.get_balance(owner.public)
    assert -params.model_deposit < paid < 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "a b"}, "a name is"),
        ({"name": "x" * 49}, "a name is"),
        ({"source": "workflow"}, "a source is"),
        ({"source": "rumour"}, "a source is"),
        ({"address": "file:///etc/passwd"}, "no http or https"),
        ({"decimals": 13}, "decimals are"),
        ({"heartbeat_ms": 999}, "a heartbeat is"),
        ({"heartbeat_ms": 86_400_001}, "a heartbeat is"),
        ({"age_ms_max": 999}, "an age is"),
        ({"observers_min": 0}, "1 to 31 observers"),
        ({"observers_min": 32}, "1 to 31 observers"),
        ({"outlier_bp": 99}, "an outlier is"),
        ({"jump_bp": 100}, "would hold back"),
        ({"allowed": (b"a" * 32, b"a" * 32)}, "are named"),
        ({"allowed": (b"a" * 32,), "observers_min": 2}, "are named"),
    ],
)
def test_a_feed_that_cannot_be_is_refused_and_says_why(change, reason) -> None:
    ledger = Ledger()
    error = ledger.refuse(ledger.spare(), replace(TERMS, **change))
    assert isinstance(error, InvalidFeed)
    assert reason in str(error)


def test_a_name_is_taken_once() -> None:
    ledger = found_feed()
    assert isinstance(ledger.refuse(ledger.spare(), TERMS), InvalidFeed)


def test_only_bonded_oracles_join_and_only_those_a_feed_names() -> None:
    ledger = found_feed(oracles=2)
    assert isinstance(ledger.refuse(ledger.account("inference-0"), ObserveFeed(FEED, 1)), InvalidFeed)
    assert isinstance(ledger.refuse(ledger.account("oracle-0"), ObserveFeed(FEED, 1)), InvalidFeed)
    assert isinstance(ledger.refuse(ledger.account("oracle-0"), ObserveFeed("none", 1)), UnknownFeed)
    first = ledger.account("oracle-0")
    ledger.do(ledger.account("client-0"), replace(TERMS, name="closed", allowed=(first.public,)))
    assert isinstance(ledger.refuse(ledger.account("oracle-1"), ObserveFeed("closed", 1)), InvalidFeed)
    ledger.do(first, ObserveFeed("closed", 1))


def test_a_feed_has_room_for_31_observers() -> None:
    ledger = Ledger({"validator": 1, "oracle": 32, "client": 1})
    ledger.do(ledger.account("client-0"), TERMS)
    for number in range(31):
        ledger.do(ledger.account(f"oracle-{number}"), ObserveFeed(FEED, 1))
    assert isinstance(ledger.refuse(ledger.account("oracle-31"), ObserveFeed(FEED, 1)), LimitReached)


def test_who_leaves_a_feed_answers_for_a_while_and_may_come_back() -> None:
    ledger = found_feed()
    account = ledger.account("oracle-3")
    key = compute_observer_key(FEED, account.public)
    ledger.do(account, ObserveFeed(FEED, 0))
    assert len(get_observers(ledger.state, ledger.state.feed_terms[FEED], 10**12)) == 3
    assert isinstance(ledger.refuse(account, ObserveFeed(FEED, 0)), InvalidFeed)
    ledger.do(account, ObserveFeed(FEED, 1))
    ledger.block(after_ms=HEARTBEAT_MS + 3 * ledger.state.params.epoch_ms)
    assert key in ledger.state.observers  # it has come back
    ledger.do(account, ObserveFeed(FEED, 0))
    ledger.block(after_ms=3 * ledger.state.params.epoch_ms)
    assert key in ledger.state.observers
    ledger.block(after_ms=2 * HEARTBEAT_MS)
    assert key not in ledger.state.observers


# Reports


def test_the_first_report_of_a_round_becomes_the_value_of_its_feed() -> None:
    ledger = Ledger()
    feed = next(iter(ledger.state.feeds))
    ledger.block()
    ledger.do(ledger.spare(), report(ledger, {"oracle-0": 42}, feed))
    state = ledger.state.feeds[feed]
    heartbeat_ms = ledger.state.params.oracle_heartbeat_ms
    assert (state.round, state.sequence) == (ledger.state.time_ms // heartbeat_ms, 0)
    assert (state.value, state.observers, state.reports) == (42, 1, 1)
    assert isinstance(ledger.refuse(ledger.spare(), report(ledger, {"oracle-0": 43}, feed)), RoundOver)
    now_ms = ledger.state.time_ms
    ahead = observe(ledger, "oracle-0", 1, feed, round=state.round + 1, time_ms=now_ms + heartbeat_ms)
    future = ledger.sign(ledger.spare(), ReportOracle((ahead,)))
    check_transaction(ledger.state, future)  # not yet, but soon
    assert ledger.block(future) == []
    assert ledger.state.feeds[feed] == state
    late = ledger.state.params.oracle_rounds_late + 1
    old = observe(ledger, "oracle-0", 1, feed, round=state.round - late, time_ms=now_ms - late * heartbeat_ms)
    assert isinstance(ledger.refuse(ledger.spare(), ReportOracle((old,))), RoundOver)


def test_a_report_needs_a_quorum_of_a_feeds_observers_and_keeps_their_median() -> None:
    ledger = found_feed()
    two = report(ledger, {"oracle-0": 100, "oracle-1": 200})
    assert isinstance(ledger.refuse(ledger.spare(), two), InvalidReport)
    three = report(ledger, {"oracle-0": 1_000_000, "oracle-1": 2, "oracle-3": 3})
    forged = ReportOracle((replace(three.observations[0], value=9), *three.observations[1:]))
    assert isinstance(ledger.refuse(ledger.spare(), forged), InvalidSignature)
    twice = ReportOracle((three.observations[0], *three.observations))
    assert isinstance(ledger.refuse(ledger.spare(), twice), InvalidReport)
    stranger = report(ledger, {"oracle-0": 1, "oracle-1": 1, "inference-0": 1})
    assert isinstance(ledger.refuse(ledger.spare(), stranger), InvalidReport)
    ledger.do(ledger.spare(), three)
    assert get_value(ledger) == 3


def test_terms_may_ask_for_more_than_a_quorum() -> None:
    ledger = found_feed(observers_min=4)
    three = report(ledger, {"oracle-0": 1, "oracle-1": 1, "oracle-3": 1})
    assert isinstance(ledger.refuse(ledger.spare(), three), InvalidReport)
    ledger.do(ledger.spare(), all_say(ledger, 1))


@pytest.mark.parametrize("change", [{"time_ms": 0}, {"round": 1}])
def test_an_observation_is_of_its_own_round(change) -> None:
    ledger = found_feed(oracles=1)
    item = observe(ledger, "oracle-0", 5, **change)
    assert isinstance(ledger.refuse(ledger.spare(), ReportOracle((item,))), InvalidReport | RoundOver)


def test_an_observation_that_is_too_old_is_not_reported() -> None:
    ledger = found_feed(oracles=1, age_ms_max=1_000)
    old = report(ledger, {"oracle-0": 5})
    ledger.block(after_ms=1_001)
    error = ledger.refuse(ledger.spare(), old)
    assert isinstance(error, InvalidReport)
    assert "old" in str(error)


def test_who_joins_within_a_round_observes_from_the_next_one_on() -> None:
    ledger = found_feed(oracles=1)
    account = ledger.account("oracle-0")
    ledger.do(account, ObserveFeed(FEED, 0))
    ledger.block(after_ms=HEARTBEAT_MS + 3 * ledger.state.params.epoch_ms)
    ledger.do(account, ObserveFeed(FEED, 1))
    assert isinstance(ledger.refuse(ledger.spare(), report(ledger, {"oracle-0": 5})), InvalidReport)
    begin_round(ledger)
    ledger.do(ledger.spare(), report(ledger, {"oracle-0": 5}))


def test_between_heartbeats_only_a_value_that_has_moved_is_reported_and_only_the_next_in_order() -> None:
    ledger = found_feed()
    assert isinstance(ledger.refuse(ledger.spare(), all_say(ledger, 10_000, sequence=1)), InvalidReport)
    ledger.do(ledger.spare(), all_say(ledger, 10_000))
    assert isinstance(ledger.refuse(ledger.spare(), all_say(ledger, 10_100, sequence=1)), InvalidReport)
    assert isinstance(ledger.refuse(ledger.spare(), all_say(ledger, 10_200, sequence=2)), InvalidReport)
    ledger.do(ledger.spare(), all_say(ledger, 10_101, sequence=1))
    assert isinstance(ledger.refuse(ledger.spare(), all_say(ledger, 10_300, sequence=1)), InvalidReport)
    assert (get_value(ledger), ledger.state.feeds[FEED].sequence) == (10_101, 1)
    begin_round(ledger)
    ledger.do(ledger.spare(), all_say(ledger, 10_101))
    assert ledger.state.feeds[FEED].sequence == 0


def test_a_round_has_so_many_reports_at_most() -> None:
    ledger = found_feed(oracles=1, jump_bp=0, heartbeat_ms=60_000)
    for sequence in range(SEQUENCES_MAX):
        ledger.do(ledger.spare(), report(ledger, {"oracle-0": 100 * 2**sequence}, sequence=sequence), after_ms=1)
    one_more = report(ledger, {"oracle-0": 1}, sequence=SEQUENCES_MAX)
    assert isinstance(ledger.refuse(ledger.spare(), one_more), InvalidReport)


# The circuit breaker


def test_a_jump_is_held_until_the_next_round_confirms_it() -> None:
    ledger = found_feed()
    ledger.do(ledger.spare(), all_say(ledger, 100))
    begin_round(ledger)
    ledger.do(ledger.spare(), all_say(ledger, 300))
    feed = ledger.state.feeds[FEED]
    assert (feed.value, feed.held, feed.reports) == (100, (300,), 2)
    assert isinstance(ledger.refuse(ledger.spare(), all_say(ledger, 301, sequence=1)), InvalidReport)
    begin_round(ledger)
    ledger.do(ledger.spare(), all_say(ledger, 310))
    feed = ledger.state.feeds[FEED]
    assert (feed.value, feed.held) == (310, ())


def test_a_jump_that_was_none_leaves_no_trace_in_value_and_history() -> None:
    ledger = found_feed()
    ledger.do(ledger.spare(), all_say(ledger, 100))
    candles = ledger.state.candles
    begin_round(ledger)
    ledger.do(ledger.spare(), all_say(ledger, 300))
    assert ledger.state.candles == candles
    begin_round(ledger)
    ledger.do(ledger.spare(), all_say(ledger, 101))
    feed = ledger.state.feeds[FEED]
    assert (feed.value, feed.held) == (101, ())


def test_a_second_jump_elsewhere_is_held_in_its_turn() -> None:
    ledger = found_feed()
    for value in (100, 300, 1_000):
        ledger.do(ledger.spare(), all_say(ledger, value))
        begin_round(ledger)
    assert (get_value(ledger), ledger.state.feeds[FEED].held) == (100, (1_000,))


def test_a_value_goes_stale_with_the_time_it_was_observed_at() -> None:
    ledger = found_feed()
    terms = ledger.state.feed_terms[FEED]
    assert is_stale(terms, ledger.state.feeds[FEED], ledger.state.time_ms)  # there is none yet
    observed_ms = ledger.state.time_ms
    ledger.do(ledger.spare(), all_say(ledger, 100))
    feed = ledger.state.feeds[FEED]
    assert not is_stale(terms, feed, observed_ms + terms.age_ms_max)
    assert is_stale(terms, feed, observed_ms + terms.age_ms_max + 1)


# What it costs


def test_an_outlier_costs_quality_and_too_many_of_them_the_role() -> None:
    ledger = found_feed(oracles=4)
    liar = ledger.account("oracle-0").public
    for _ in range(4):
        ledger.do(ledger.spare(), report(ledger, {"oracle-0": 200, "oracle-1": 100, "oracle-2": 101, "oracle-3": 110}))
        begin_round(ledger)
    work = ledger.state.work[liar]
    assert (work.outliers, work.observed, work.lost) == (4, 0, 4 * OUTLIER_LOST)
    assert ledger.state.work[ledger.account("oracle-3").public].observed == 4
    params = ledger.state.params
    earned = replace(work, burnt=params.quality_half)
    assert compute_quality(earned, params) < compute_quality(replace(earned, lost=0), params)
    ledger.block(after_ms=params.epoch_ms)
    snapshot = ledger.state.get_epoch(ledger.state.epoch)
    assert snapshot is not None
    assert liar not in {item.account for item in snapshot.get_candidates("oracle")}
    assert len(get_observers(ledger.state, ledger.state.feed_terms[FEED], 10**12)) == 3


def test_silence_costs_quality_once_it_is_longer_than_the_others_could_have_made_it() -> None:
    ledger = found_feed(oracles=4)
    silent = ledger.account("oracle-0").public
    for _ in range(4):
        ledger.do(ledger.spare(), report(ledger, {f"oracle-{number}": 100 for number in (1, 2, 3)}))
        begin_round(ledger)
    assert silent not in ledger.state.work
    ledger.do(ledger.spare(), report(ledger, {f"oracle-{number}": 100 for number in (1, 2, 3)}))
    assert ledger.state.work[silent].lost == SILENCE_LOST
    assert ledger.state.observers[compute_observer_key(FEED, silent)].missed == 0


def test_who_is_in_one_report_of_so_many_is_not_silent() -> None:
    ledger = found_feed(oracles=4)
    for number in range(12):
        names = (1, 2, 3) if number % 4 else (0, 1, 2)
        ledger.do(ledger.spare(), report(ledger, {f"oracle-{each}": 100 for each in names}))
        begin_round(ledger)
    assert all(work.lost == 0 for work in ledger.state.work.values())


def test_two_readings_for_one_position_cost_stake_once() -> None:
    ledger = found_feed()
    account = ledger.account("oracle-2").public
    first, second = observe(ledger, "oracle-2", 5), observe(ledger, "oracle-2", 6)
    bond = ledger.state.nodes[account].bond
    before = ledger.state.burned
    ledger.do(ledger.spare(), AccuseObserver(first, second))
    slashed = bond - ledger.state.nodes[account].bond
    assert slashed == bond * ledger.state.params.vote_slash_bp // 10_000
    assert ledger.state.burned - before >= slashed // 2
    assert isinstance(ledger.refuse(ledger.spare(1), AccuseObserver(second, first)), InvalidEvidence)
    assert len(get_observers(ledger.state, ledger.state.feed_terms[FEED], 10**12)) == 3
    ledger.do(ledger.account("oracle-2"), Stake(slashed))
    ledger.do(ledger.account("oracle-2"), ObserveFeed(FEED, 1))
    assert isinstance(ledger.refuse(ledger.spare(1), AccuseObserver(second, first)), InvalidEvidence)


@pytest.mark.parametrize("other", ["same", "round", "sequence", "observer", "feed", "forged"])
def test_what_an_honest_observer_signs_convicts_nobody(other) -> None:
    ledger = found_feed()
    first = observe(ledger, "oracle-2", 5)
    second: SignedObservation = {
        "same": first,
        "round": observe(ledger, "oracle-2", 6, round=first.round + 1, time_ms=first.time_ms + HEARTBEAT_MS),
        "sequence": observe(ledger, "oracle-2", 6, sequence=1),
        "observer": observe(ledger, "oracle-1", 6),
        "feed": observe(ledger, "oracle-2", 6, feed="GOOG", round=first.round),
        "forged": replace(first, value=6),
    }[other]
    assert isinstance(ledger.refuse(ledger.spare(), AccuseObserver(first, second)), InvalidEvidence | InvalidSignature)


def test_evidence_is_good_for_as_long_as_others_is() -> None:
    ledger = found_feed()
    first, second = observe(ledger, "oracle-2", 5), observe(ledger, "oracle-2", 6)
    params = ledger.state.params
    ledger.block(after_ms=params.epoch_ms * params.evidence_epochs + HEARTBEAT_MS)
    assert isinstance(ledger.refuse(ledger.spare(), AccuseObserver(first, second)), InvalidEvidence)


def test_who_has_left_answers_for_what_it_said_before() -> None:
    ledger = found_feed()
    first, second = observe(ledger, "oracle-2", 5), observe(ledger, "oracle-2", 6)
    ledger.do(ledger.account("oracle-2"), ObserveFeed(FEED, 0))
    ledger.do(ledger.spare(), AccuseObserver(first, second))


# What must hold whoever lies


@given(st.integers(0, 4), st.data())
def test_with_f_of_3f_plus_1_observers_lying_a_report_stays_inside_the_honest_range(f, data) -> None:
    count = 3 * f + 1
    values = st.integers(-INT_MAX, INT_MAX)
    honest = data.draw(st.lists(values, min_size=count - f, max_size=count - f))
    lies = data.draw(st.lists(values, min_size=f, max_size=f))
    said = [*honest, *lies]
    size = data.draw(st.integers(compute_quorum(count, 1), count))
    # Whoever posts chooses among what was signed, and may be a liar too.
    chosen = data.draw(st.permutations(said).map(lambda values: values[:size]))
    assert min(honest) <= compute_median(chosen) <= max(honest)


@pytest.mark.parametrize("seed", range(3))
def test_on_the_ledger_too_a_liar_of_four_never_moves_the_value_out_of_the_honest_range(seed) -> None:
    rng = random.Random(seed)
    ledger = found_feed(jump_bp=0, outlier_bp=0)
    for _ in range(8):
        honest = {f"oracle-{number}": rng.randrange(900, 1_100) for number in range(3)}
        lie = rng.choice([0, 1, 2**62, rng.randrange(2**40)])
        said = {**honest, "oracle-3": lie}
        names = rng.sample(sorted(said), rng.choice([3, 4]))
        ledger.do(ledger.spare(), report(ledger, {name: said[name] for name in names}))
        assert min(honest.values()) <= get_value(ledger) <= max(honest.values())
        begin_round(ledger)


def test_values_below_nought_move_jump_and_lie_outside_as_others_do() -> None:
    ledger = found_feed()
    ledger.do(ledger.spare(), report(ledger, dict.fromkeys(("oracle-0", "oracle-1", "oracle-2"), -1_000)))
    assert get_value(ledger) == -1_000
    near = report(ledger, dict.fromkeys(("oracle-0", "oracle-1", "oracle-2"), -1_010), sequence=1)
    assert isinstance(ledger.refuse(ledger.spare(), near), InvalidReport)  # within 1 %
    moved = {"oracle-0": -1_020, "oracle-1": -1_020, "oracle-2": -1_200}
    ledger.do(ledger.spare(), report(ledger, moved, sequence=1))
    assert get_value(ledger) == -1_020
    assert ledger.state.work[ledger.account("oracle-2").public].outliers == 1
    begin_round(ledger)
    ledger.do(ledger.spare(), report(ledger, dict.fromkeys(moved, 1_020)))
    assert (get_value(ledger), ledger.state.feeds[TERMS.name].held) == (-1_020, (1_020,))


def test_a_report_that_is_refused_changes_nothing() -> None:
    ledger = found_feed()
    supply = compute_supply(ledger.state)
    bad = sign(replace(observe(ledger, "oracle-0", 1), round=0), ledger.node("oracle-0"))
    assert isinstance(ledger.refuse(ledger.spare(), ReportOracle((bad,))), InvalidTransaction)
    assert compute_supply(ledger.state) == supply
