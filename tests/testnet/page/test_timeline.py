"""Events to what a page shows: each request once, whoever says what, in whatever order."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from testnet.fault_kinds import NETWORK_LOG
from testnet.page import trips as trips_module
from testnet.page.timeline import FOLLOWED, STAGES, Timeline
from testnet.page.trips import MARKS_MAX, SLOWEST, Trips, list_spans
from tests.support.runs import STORY, Story

ROLES = {"client-0": "client", "inference-0": "inference", "inference-1": "inference", "verifier-0": "verifier"}


def make_timeline(story: Story) -> Timeline:
    timeline = Timeline(1_000, ROLES)
    for time_ms, node, name, fields in story:
        timeline.take(node, {"time_ms": time_ms, "name": name, "request_id": "ab", **fields})
    return timeline


def test_a_request_is_followed_through_the_logs_of_all_its_nodes() -> None:
    timeline = make_timeline(STORY)

    (trip,) = timeline.trips.list_slowest()
    assert (trip.took_ms, trip.code, trip.settled_ms) == (3_200, "", 6_200)
    assert [(span.kind, span.node, span.begin_ms, span.end_ms) for span in list_spans(trip)] == [
        ("way", "inference-0", 1_000, 1_010),
        ("way", "inference-1", 4_000, 4_005),
        ("run", "inference-1", 4_005, 4_105),
        ("back", "client-0", 4_105, 4_120),
        ("check", "verifier-0", 4_105, 4_125),
        ("release", "client-0", 4_125, 4_200),
    ]
    assert {role: sum(h.total for _, h in series) for role, series in timeline.stages.items()} == dict.fromkeys(
        STAGES, 1
    )
    assert [h.compute_percentile(50) for _, h in timeline.stages["inference"]] in ([99], [100])
    assert dict(timeline.fees) == {timeline.axis.find_bin(6_200): 70}
    assert not timeline.trips.by_id, "what is settled is no longer followed"


def test_a_request_nobody_took_is_shown_as_waiting_until_it_failed() -> None:
    story = [STORY[0], (9_000, "client-0", "request.failed", {"code": "NO_WORKER"})]
    (trip,) = make_timeline(story).trips.list_slowest()

    assert trip.code == "NO_WORKER"
    assert [(span.kind, span.node, span.end_ms - span.begin_ms) for span in list_spans(trip)] == [
        ("wait", "client-0", 8_000)
    ]


def test_a_request_ends_once_and_a_zero_leaf_is_no_fee() -> None:
    story = [*STORY[:-1], STORY[-2], (6_000, "inference-0", "leaf.settled", {"zero_reason": 2, "amount": 9})]
    timeline = make_timeline(story)

    assert sum(count for _, count in timeline.released) == 1
    assert not list(timeline.fees)


def test_the_slowest_are_kept_also_when_many_took_as_long_and_bear_one_name() -> None:
    trips = Trips()
    for took_ms in [*range(100), *[50] * 20]:
        trip = trips.begin("the same", 1_000)
        trips.end(trip, 1_000 + took_ms)
        trips.settle(trip, 2_000)

    assert [trip.took_ms for trip in trips.list_slowest()] == [99 - index for index in range(SLOWEST)]


def test_requests_that_never_end_are_let_go_and_counted(monkeypatch: Any) -> None:
    monkeypatch.setattr(trips_module, "TRIPS_MAX", 10)
    trips = Trips()
    for index in range(25):
        trips.begin(str(index), index)

    assert len(trips.by_id) == 10
    assert trips.dropped == 15


def test_one_request_cannot_fill_the_memory() -> None:
    timeline = make_timeline([STORY[0]] * 10_000)

    (trip,) = timeline.trips.by_id.values()
    assert len(trip.marks) == MARKS_MAX


def test_a_fault_lasts_from_its_start_to_its_end_or_on() -> None:
    timeline = Timeline(0, ROLES)
    for time_ms, name, fault in ((10, "fault.started", "a"), (20, "fault.started", "b"), (30, "fault.ended", "a")):
        told = {"time_ms": time_ms, "name": name, "fault": fault, "kind": "partition", "groups": [["client-0"]]}
        timeline.take(NETWORK_LOG, told)
        timeline.take("client-0", told)  # a node's own word for the same

    assert [(fault.id, fault.began_ms, fault.ended_ms, fault.who) for fault in timeline.faults.values()] == [
        ("a", 10, 30, ("client-0",)),
        ("b", 20, 0, ("client-0",)),
    ]


def test_heights_and_peers_are_what_a_node_said_last() -> None:
    timeline = Timeline(0, ROLES)
    for time_ms, height in ((0, 1), (100, 2), (1_000, 3)):
        timeline.take("verifier-0", {"time_ms": time_ms, "name": "node.status", "height": height, "rss_bytes": 5})
    timeline.take("verifier-0", {"time_ms": 1_000, "name": "node.peers", "peers": ["12D3", 7, None]})

    assert dict(timeline.heights["verifier-0"]) == {0: 2, 2: 3}
    assert timeline.peers["verifier-0"] == ("12D3",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=3,
)
NAMES = st.sampled_from(
    sorted(FOLLOWED | {"node.status", "node.peers", "block.decided", "fault.started", "fault.ended"})
)
KEYS = ("time_ms", "request_id", "attempt", "zero_reason", "amount", "code", "height", "rss_bytes", "peers", "groups")
EVENTS = st.fixed_dictionaries(
    {"name": NAMES | JSON},
    optional={key: st.integers(0, 10**6) | JSON for key in KEYS} | {"request_id": st.sampled_from("ab") | JSON},
)


@given(st.lists(st.tuples(st.sampled_from((*ROLES, NETWORK_LOG, "nobody")), EVENTS), max_size=20))
def test_no_log_can_break_the_page(events: list[tuple[str, dict[str, Any]]]) -> None:
    timeline = Timeline(0, ROLES)
    for node, event in events:
        timeline.take(node, event)

    spans = [span for trip in timeline.trips.list_slowest() for span in list_spans(trip)]
    assert len(spans) <= SLOWEST * MARKS_MAX * MARKS_MAX
    assert timeline.events <= len(events)
