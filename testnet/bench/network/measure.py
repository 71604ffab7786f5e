"""The figures of `rolemesh bench network`, and the bars they are held against.

A network of all roles is loaded past its knee, near it and far beyond it, then parted, robbed of half of its workers
and churned (`course`). When all is settled and its processes are gone, its ledgers are recomputed from genesis and
held against the receipts its clients have (`check`). Several networks, each with a seed of its own, are pieces of one
load: counts are their sums, all else their medians, and each is held against the bars by itself.
"""

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from protocol.jobs import Mode
from testnet.bench.figures import Figure, Note, compare
from testnet.bench.finality.measure import get_percentile
from testnet.bench.network import course as courses
from testnet.bench.network.arithmetic import (
    Growth,
    Knee,
    Step,
    compute_growth,
    compute_rate,
    compute_recovery_s,
    find_knee,
    find_usable,
)
from testnet.bench.network.check import Checked, check_apart, read_checked
from testnet.bench.network.course import Course, follow
from testnet.bench.network.network import Life, Network, Phase, Wanted, run_network
from testnet.bench.network.pace import Asked
from testnet.page.page import write_page

NEAR_TIMES, BEYOND_SHARE, IN_TIME, RECOVERY_S = 3.0, 0.9, 0.999, 20.0  # the bars
TIMEOUT_MS = 10_000
LATE_MS = 1_000  # beyond its time, until a client says that a request is over
REQUESTS_FULL, REQUESTS_PIECE = 1_000_000, 100_000
BAR = "bar"


@dataclass(frozen=True)
class Piece:
    """One network to run, and how many requests it is to be asked at least."""

    seed: int
    mode: str
    requests: int


@dataclass(frozen=True)
class Measured:
    """What came of a piece. Latencies in milliseconds, rates a second; None: it was not seen to recover."""

    piece: Piece
    took_s: float
    knee: Knee
    usable_per_s: float  # the highest pace of the ramp that was followed with answers as soon as near_p99 is to be
    light_p50: float
    light_p99: float
    near_p50: float
    near_p99: float
    beyond_begun_per_s: float  # clients that are held up begin fewer than they are to
    beyond_per_s: float
    refused_p99: float  # at three times the knee
    asked: int
    answered: int
    codes: Mapping[str, int]  # why there was no answer
    late: int  # requests that were not over in time
    recovered_s: float | None  # after the partition
    regained_s: float | None  # after half of the workers were killed
    growth: Mapping[str, Growth]  # by role, of its fastest-growing process
    dead: Mapping[str, int]  # nodes that ended by themselves
    is_settled: bool
    checked: Checked

    @property
    def wrongly_paid(self) -> int:
        """Vouchers that ended as they never must, and lies that were paid: where all is checked, any; else proven."""
        checked = self.checked
        lies = checked.lies_paid if self.piece.mode == Mode.INDIVIDUAL else checked.lies_proven_paid
        return len(checked.findings) + lies

    @property
    def in_time(self) -> float:
        """The share of requests that were answered, or cost nothing, in time."""
        lost = self.late + self.checked.unheard + self.checked.unaccounted + self.checked.under_way
        return 1 - lost / self.asked if self.asked else 0.0

    def list_missed(self) -> list[str]:
        """The bars that do not hold, by the names of their figures."""
        bars = {
            "near_p99": self.near_p99 <= NEAR_TIMES * self.light_p99,
            "beyond": self.beyond_per_s >= BEYOND_SHARE * self.knee.peak_per_s,
            "in_time": self.in_time >= IN_TIME,
            "wrongly_paid": not self.wrongly_paid,
            "unaccounted": not self.checked.unaccounted,
            "recovery_partition": self.recovered_s is not None and self.recovered_s <= RECOVERY_S,
            "recovery_workers": self.regained_s is not None and self.regained_s <= RECOVERY_S,
            "settled": self.is_settled,
            "no_death": not self.dead,
        }
        return [name for name, holds in bars.items() if not holds]


def plan(seed: int, full: bool) -> list[Piece]:
    """What is to be run: one network, or with `full` as many as come to REQUESTS_FULL, at most."""
    if not full:
        return [Piece(seed, Mode.INDIVIDUAL, 0)]
    return [Piece(seed + number, Mode.BATCH, REQUESTS_PIECE) for number in range(REQUESTS_FULL // REQUESTS_PIECE)]


def measure(piece: Piece, course: Course, note: Note, directory: Path | None = None) -> Measured:
    """Run a network through a course and see what came of it. Raises NotRun, NotChecked, LaunchError.

    It is kept in `directory`, which must not exist, with a page about the run; nowhere if there is none.
    """
    if directory is None:
        with TemporaryDirectory(prefix="rolemesh-network-") as folder:
            return _measure(piece, course, note, Path(folder) / "net")
    measured = _measure(piece, course, note, directory)
    note(f"kept in {directory}; the run as a page: {write_page(directory).path}")
    return measured


def _measure(piece: Piece, course: Course, note: Note, directory: Path) -> Measured:
    begun_s = time.monotonic()
    note(f"a network with seed {piece.seed}, mode {piece.mode}")
    with run_network(directory, Wanted(piece.seed, piece.mode, TIMEOUT_MS)) as network:
        steps = follow(network, replace(course, requests=piece.requests), note)
        note("until everything is settled")
        is_settled = network.settle()
        network.follower.read()
    note("recomputing the ledgers")
    checked = check_apart(directory)
    return evaluate(piece, network, course, steps, is_settled, checked, time.monotonic() - begun_s)


def evaluate(
    piece: Piece,
    network: Network,
    course: Course,
    steps: Sequence[Step],
    is_settled: bool,
    checked: Checked,
    took_s: float,
) -> Measured:
    """The figures of a network that is over; `steps` are those of its ramp."""
    phases = {phase.name: phase for phase in network.phases}
    asked = network.follower.asked
    light, near, beyond = (
        courses.select(asked, phases[name], course.warm_s) for name in (courses.LIGHT, courses.NEAR, courses.BEYOND)
    )
    light_p99 = get_percentile(courses.list_answer_ms(light), 99)
    return Measured(
        piece=piece,
        took_s=round(took_s, 1),
        knee=find_knee(steps),
        usable_per_s=find_usable(courses.time_steps(network, steps, course.warm_s), NEAR_TIMES * light_p99),
        light_p50=get_percentile(courses.list_answer_ms(light), 50),
        light_p99=light_p99,
        near_p50=get_percentile(courses.list_answer_ms(near), 50),
        near_p99=get_percentile(courses.list_answer_ms(near), 99),
        beyond_begun_per_s=_compute_begun(beyond, phases[courses.BEYOND], course.warm_s),
        beyond_per_s=courses.compute_goodput(network, phases[courses.BEYOND], course.warm_s),
        refused_p99=get_percentile([float(each.took_ms) for each in beyond if each.code], 99),
        asked=len(asked),
        answered=sum(each.is_answered for each in asked),
        codes=dict(Counter(each.code for each in asked if each.code)),
        late=sum(each.took_ms > TIMEOUT_MS + LATE_MS for each in asked),
        recovered_s=_find_recovery(asked, phases, courses.PARTITION, course.partition_s),
        regained_s=_find_recovery(asked, phases, courses.HALVED, 0.0),
        growth=find_growth(list(network.lives.values())),
        dead=network.list_dead(),
        is_settled=is_settled,
        checked=checked,
    )


def find_growth(lives: Sequence[Life]) -> dict[str, Growth]:
    """Of each role the process that grew fastest, of those that lived for at least half of the run."""
    longest = max((len(life.sizes) for life in lives), default=0)
    found: dict[str, Growth] = {}
    for life in (life for life in lives if 2 * len(life.sizes) >= longest):
        growth = compute_growth(life.times_s, life.sizes)
        if growth is not None and (life.role not in found or growth.slope > found[life.role].slope):
            found[life.role] = growth
    return found


def _compute_begun(asked: Sequence[Asked], phase: Phase, warm_s: float) -> float:
    """Requests a second that were begun in a phase, without its first seconds."""
    return len(asked) / ((phase.end_ms - phase.start_ms) / 1_000 - warm_s)


def _find_recovery(asked: Sequence[Asked], phases: Mapping[str, Phase], name: str, after_s: float) -> float | None:
    """Seconds until answers came as in the steady phase before, from so long after the beginning of a phase."""
    answered_ms = sorted(each.ended_ms for each in asked if each.is_answered)
    steady, phase = phases[courses.STEADY], phases[name]
    before_per_s = min(steady.per_s, compute_rate(answered_ms, steady.start_ms, steady.end_ms))
    from_ms = phase.start_ms + round(1_000 * after_s)
    return compute_recovery_s(answered_ms, from_ms, phase.end_ms, before_per_s)


# Many pieces


def make_figures(results: Sequence[Measured]) -> list[Figure]:
    """The figures of all pieces together: sums of what is counted, medians of all else."""

    def middle(name: str) -> float:
        return statistics.median(float(getattr(each, name)) for each in results)

    peak = statistics.median(each.knee.peak_per_s for each in results)
    beyond = courses.BEYOND_TIMES * statistics.median(each.knee.per_s for each in results)
    asked, checked = sum(each.asked for each in results), [each.checked for each in results]
    lost = sum((1 - each.in_time) * each.asked for each in results)
    figures = [
        compare("knee", statistics.median(each.knee.per_s for each in results), "/s", "peak of the ramp", peak),
        compare("usable", middle("usable_per_s"), "/s", "knee", statistics.median(each.knee.per_s for each in results)),
        compare("light_p50", middle("light_p50"), "ms", "light_p99", middle("light_p99")),
        compare("near_p50", middle("near_p50"), "ms", "light_p50", middle("light_p50")),
        compare("near_p99", middle("near_p99"), "ms", "bar, 3x light_p99", NEAR_TIMES * middle("light_p99")),
        compare("beyond", middle("beyond_per_s"), "/s", "bar, 90 % of the peak", BEYOND_SHARE * peak),
        compare("beyond_begun", middle("beyond_begun_per_s"), "/s", "three times the knee", beyond),
        compare("refusals", sum(each.asked - each.answered for each in results), "", "requests", asked),
        compare("refused_p99", middle("refused_p99"), "ms", "timeout", TIMEOUT_MS),
        compare("in_time", 100 * (1 - lost / asked), "%", BAR, 100 * IN_TIME),
        compare("wrongly_paid", sum(each.wrongly_paid for each in results), "", BAR, 0),
        compare("unaccounted", sum(each.unaccounted for each in checked), "", BAR, 0),
        compare("lies", sum(each.lies for each in checked), "", "proven", sum(each.lies_proven for each in checked)),
        compare("lies_paid", sum(each.lies_paid for each in checked), "", "lies", sum(each.lies for each in checked)),
    ]
    for name, what in (("recovery_partition", "recovered_s"), ("recovery_workers", "regained_s")):
        found = [seconds for each in results if (seconds := getattr(each, what)) is not None]
        if found:  # of a network that was not seen to recover the bar tells
            figures.append(compare(name, max(found), "s", BAR, RECOVERY_S))
    for role in results[0].growth:
        found_growth = [each.growth[role] for each in results if role in each.growth]
        slope, upper = (statistics.median(getattr(each, name) for each in found_growth) for name in ("slope", "upper"))
        figures.append(compare(f"rss_slope_{role}", slope, "MB/h", "upper 95 % bound", upper))
    return figures


def list_missed(results: Sequence[Measured]) -> dict[str, int]:
    """The bars that did not hold, with the number of networks in which they did not."""
    return dict(Counter(name for each in results for name in each.list_missed()))


def to_fields(measured: Measured) -> dict[str, Any]:
    """As JSON takes it."""
    return asdict(measured)


def from_fields(fields: Mapping[str, Any]) -> Measured:
    """What `to_fields` gave and JSON made of it. Raises KeyError, TypeError."""
    growth = {role: Growth(**each) for role, each in fields["growth"].items()}
    parts = {"piece": Piece(**fields["piece"]), "knee": Knee(**fields["knee"]), "growth": growth}
    return Measured(**{**fields, **parts, "checked": read_checked(fields["checked"])})
