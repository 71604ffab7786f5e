"""The life of single requests across the logs of all nodes, and the spans a waterfall of them shows."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

TRIPS_MAX = 50_000  # followed at a time: the oldest is let go when there are more
MARKS_MAX = 64  # of one request
SLOWEST = 12
CLAIMS = ("claim.made", "lie.told")
RELEASES = ("request.attested", "request.answered")


@dataclass(frozen=True)
class Mark:
    """Something a node wrote down about a request. `attempt` is 0 where it does not say."""

    time_ms: int
    node: str
    name: str
    attempt: int = 0


@dataclass(frozen=True)
class Span:
    """A bar of the waterfall. `kind` is `way`, `run`, `back`, `check`, `release` or `wait`."""

    kind: str
    node: str
    begin_ms: int
    end_ms: int


@dataclass
class Trip:
    """The `number`th request. `ended_ms` is 0 until it is released or failed; `code` says how it failed."""

    request_id: str
    began_ms: int
    number: int
    ended_ms: int = 0
    code: str = ""
    settled_ms: int = 0
    marks: list[Mark] = field(default_factory=list)

    @property
    def took_ms(self) -> int:
        return max(0, self.ended_ms - self.began_ms)

    def add(self, mark: Mark) -> None:
        if len(self.marks) < MARKS_MAX:
            self.marks.append(mark)

    def find(self, *names: str, attempt: int = 0) -> Mark | None:
        """The first mark of these names; of one attempt, if told."""
        return next((mark for mark in self.marks if mark.name in names and attempt in (0, mark.attempt)), None)

    def find_last(self, *names: str) -> Mark | None:
        """The last mark of these names."""
        return next((mark for mark in reversed(self.marks) if mark.name in names), None)


@dataclass
class Trips:
    """Requests under way, and the slowest that have ended. `dropped` had not, when they were let go."""

    by_id: dict[str, Trip] = field(default_factory=dict)
    dropped: int = 0
    _begun: int = 0
    _slowest: list[tuple[int, int, Trip]] = field(default_factory=list)  # by time taken, then by age

    def begin(self, request_id: str, time_ms: int) -> Trip:
        """The trip of a request of which nothing was known."""
        while len(self.by_id) >= TRIPS_MAX:
            oldest = self.by_id.pop(next(iter(self.by_id)))
            self.dropped += not oldest.ended_ms
        self._begun += 1
        trip = self.by_id[request_id] = Trip(request_id, time_ms, self._begun)
        return trip

    def end(self, trip: Trip, time_ms: int, code: str = "") -> None:
        """It is released or failed; whichever came first counts."""
        if trip.ended_ms:
            return
        trip.ended_ms, trip.code = time_ms, code
        heapq.heappush(self._slowest, (trip.took_ms, -trip.number, trip))
        if len(self._slowest) > SLOWEST:
            heapq.heappop(self._slowest)

    def settle(self, trip: Trip, time_ms: int) -> None:
        """Nothing more is to be said of it."""
        trip.settled_ms = time_ms
        del self.by_id[trip.request_id]

    def list_slowest(self) -> list[Trip]:
        """The slowest first."""
        return [trip for _, _, trip in sorted(self._slowest, key=lambda item: item[:2], reverse=True)]


def list_spans(trip: Trip) -> Iterator[Span]:
    """What happened between the first sending and the end, attempt by attempt."""
    checks: list[Mark] = [mark for mark in trip.marks if mark.name == "attestation.made"]
    last = trip.began_ms
    for sent in [mark for mark in trip.marks if mark.name == "request.sent"]:
        taken = trip.find("request.taken", attempt=sent.attempt)
        claim = trip.find(*CLAIMS, attempt=sent.attempt)
        received = trip.find("result.received", attempt=sent.attempt)
        if taken is None:
            yield Span("wait", sent.node, sent.time_ms, trip.ended_ms or sent.time_ms)
            continue
        yield Span("way", taken.node, sent.time_ms, taken.time_ms)
        last = max(last, taken.time_ms)
        if claim is None:
            continue
        yield Span("run", claim.node, taken.time_ms, claim.time_ms)
        last = max(last, claim.time_ms)
        if received is not None:
            yield Span("back", received.node, claim.time_ms, received.time_ms)
            last = max(last, received.time_ms)
        later = trip.find("request.sent", attempt=sent.attempt + 1)
        for check in checks:
            if check.time_ms >= claim.time_ms and (later is None or check.time_ms < later.time_ms):
                yield Span("check", check.node, claim.time_ms, check.time_ms)
                last = max(last, check.time_ms)
    release = trip.find(*RELEASES)
    if release is not None and release.time_ms > last:
        yield Span("release", release.node, last, release.time_ms)
