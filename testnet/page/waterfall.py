"""The slowest requests of a run, each as a waterfall: who had it from when to when."""

from testnet.page.markup import Markup, element, join
from testnet.page.plots import Bar, draw_row, draw_ticks, make_chart, make_key
from testnet.page.scales import format_ms
from testnet.page.timeline import Timeline
from testnet.page.trips import Span, Trip, list_spans

OPEN = 4  # the others are a click away
SPANS = {
    "way": "on its way",
    "run": "computed",
    "back": "sent back",
    "check": "verified",
    "release": "released",
    "wait": "unanswered",
}


def make_slowest(timeline: Timeline) -> Markup:
    """The slowest requests."""
    trips = timeline.trips.list_slowest()
    if not trips:
        return join(element("h2", "Slowest requests"), element("p", "no request has ended", class_="dim"))
    drawn = [_draw_trip(trip) for trip in trips]
    rest = element("details", element("summary", f"{len(drawn) - OPEN} more"), *drawn[OPEN:]) if drawn[OPEN:] else ""
    lost = timeline.trips.dropped
    note = element("p", f"{lost:,} requests were left out: too many at a time", class_="dim") if lost else ""
    return join(
        element("h2", "Slowest requests"), element("p", make_key(list(SPANS.items()))), *drawn[:OPEN], rest, note
    )


def _draw_trip(trip: Trip) -> Markup:
    rows = [_draw_span(trip, span) for span in list_spans(trip)]
    end = f"failed: {trip.code}" if trip.code else "released"
    settled = f", settled {format_ms(trip.settled_ms - trip.ended_ms)} later" if trip.settled_ms else ""
    head = f"{format_ms(trip.took_ms)}, {end}{settled}"
    return make_chart(f"{trip.request_id[:16]}…", (("", head),), *rows, draw_ticks(max(1, trip.took_ms)), kind="fall")


def _draw_span(trip: Trip, span: Span) -> Markup:
    length_ms = max(1, trip.took_ms)
    begin, end = ((at - trip.began_ms) / length_ms for at in (span.begin_ms, span.end_ms))
    took = format_ms(max(0, span.end_ms - span.begin_ms))
    text = f"{span.node}: {SPANS[span.kind]}, {took}"
    return draw_row(span.node, [Bar(begin, end, span.kind, text)], took, text)
