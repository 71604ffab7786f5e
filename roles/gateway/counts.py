"""What a gateway has answered and how long it took, for `/metrics`, in the text format of Prometheus 0.0.4."""

from bisect import bisect_left
from collections import Counter

# Upper ends in seconds; what takes longer counts in +Inf alone.
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SECONDS = "rolemesh_gateway_seconds"


class Histogram:
    """Times, counted by BOUNDS_S."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def note(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    def format(self, name: str, label: str) -> list[str]:
        """Lines, each bucket with all that took less.

        >>> histogram = Histogram()
        >>> histogram.note(0.007)
        >>> histogram.format("took", 'api="oip"')[1:3]
        ['took_bucket{api="oip",le="0.01"} 1', 'took_bucket{api="oip",le="0.025"} 1']
        """
        lines, total = [], 0
        for bound, count in zip((*BOUNDS_S, "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{{label},le="{bound}"}} {total}')
        return [*lines, f"{name}_sum{{{label}}} {self._sum_s:.6f}", f"{name}_count{{{label}}} {total}"]


class Counts:
    """Of all answers. Who hung up is counted too."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()  # by API and status
        self._took: dict[str, Histogram] = {}  # by API

    def note(self, api: str, status: int, seconds: float) -> None:
        """A request was over so long after its head had come."""
        self.answers[api, status] += 1
        self._took.setdefault(api, Histogram()).note(seconds)

    def refuse(self) -> None:
        """A connection was one too many: nothing of its request was read."""
        self.answers["other", 503] += 1

    def format(self, under_way: int) -> str:
        """All lines."""
        lines = [
            "# HELP rolemesh_gateway_answers_total Answers over HTTP, by API and status.",
            "# TYPE rolemesh_gateway_answers_total counter",
        ]
        lines += [
            f'rolemesh_gateway_answers_total{{api="{api}",status="{status}"}} {count}'
            for (api, status), count in sorted(self.answers.items())
        ]
        lines += [
            f"# HELP {SECONDS} Time from a request's head to the end of its answer, by API.",
            f"# TYPE {SECONDS} histogram",
        ]
        for api, took in sorted(self._took.items()):
            lines += took.format(SECONDS, f'api="{api}"')
        lines += [
            "# HELP rolemesh_gateway_under_way Inferences under way for callers over HTTP.",
            "# TYPE rolemesh_gateway_under_way gauge",
            f"rolemesh_gateway_under_way {under_way}",
        ]
        return "\n".join(lines) + "\n"
