"""The course of a load on one network: past the knee, near it, far beyond it; then faults under half of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from testnet.bench.figures import Note
from testnet.bench.finality.measure import get_percentile
from testnet.bench.network.arithmetic import Step, compute_rate, find_knee, is_past_knee
from testnet.bench.network.network import Network, Phase
from testnet.bench.network.pace import Asked
from testnet.fault_ways import draw_churn
from testnet.faults import Crash, FaultPlan, Partition

WARM, LIGHT, RAMP, NEAR, BEYOND, STEADY = "warm", "light", "ramp", "near", "beyond", "steady"
PARTITION, HALVED, CHURN, REST = "partition", "halved", "churn", "rest"
LIGHT_PER_S = 8.0
FIRST_PER_S = 30.0
RISE = 1.5
STEPS_MAX = 12
NEAR_SHARE, BEYOND_TIMES, STEADY_SHARE = 0.8, 3.0, 0.5
CHURN_PER_MIN = 40.0
CHURN_DOWN_MS = 1_500
REST_S = 3_600.0  # at most


@dataclass(frozen=True)
class Course:
    """Seconds of each phase. The first `warm_s` of one do not count: until then what it asks is not checked and settled
    yet, which is a load as well. `requests` is how many are to be asked at least.

    Of `recover_s` each, the time after a partition and that with half of the workers gone, the last WINDOW_MS must be
    as before.
    """

    first_s: float = 4.0  # channels are opened, models loaded
    light_s: float = 99.0  # so that 99 % is more than the one slowest of a hundred
    # A worker turns away what would wait longer than 4 to 12 s to be settled: each sees that of its own load.
    step_s: float = 60.0
    near_s: float = 90.0
    beyond_s: float = 60.0
    warm_s: float = 24.0
    steady_s: float = 8.0
    partition_s: float = 6.0
    recover_s: float = 25.0
    churn_s: float = 12.0
    requests: int = 0


def follow(network: Network, course: Course, note: Note) -> list[Step]:
    """Put the network through all of it; the steps of the ramp. What came of it is in its phases and its clients'
    words."""
    network.hold(WARM, LIGHT_PER_S, course.first_s)
    note(f"light load: {LIGHT_PER_S:g} requests a second")
    network.hold(LIGHT, LIGHT_PER_S, course.light_s)
    steps = _ramp(network, course, note)
    knee = find_knee(steps)
    _settle(network, note)
    per_s = NEAR_SHARE * knee.per_s
    note(f"80 % of the knee: {per_s:.1f} requests a second")
    network.hold(NEAR, per_s, course.near_s)
    _settle(network, note)
    per_s = BEYOND_TIMES * knee.per_s
    note(f"three times the knee: {per_s:.1f} requests a second")
    network.hold(BEYOND, per_s, course.beyond_s)
    _settle(network, note)
    _hurt(network, course, STEADY_SHARE * knee.per_s, note)
    if len(network.follower.read()) < course.requests:
        note(f"the rest of {course.requests} requests, {NEAR_SHARE * knee.per_s:.1f} a second")
        network.hold(REST, NEAR_SHARE * knee.per_s, REST_S, course.requests)
    return steps


def _settle(network: Network, note: Note) -> None:
    """What one load has put off is no part of the next."""
    note("until what was asked is settled")
    network.settle()


def _ramp(network: Network, course: Course, note: Note) -> list[Step]:
    steps: list[Step] = []
    per_s = FIRST_PER_S
    while len(steps) < STEPS_MAX and not is_past_knee(steps):
        phase = network.hold(f"{RAMP} {len(steps)}", per_s, course.step_s)
        goodput_per_s = compute_goodput(network, phase, course.warm_s)
        took_ms = list_answer_ms(select(network.follower.read(), phase, course.warm_s))
        p50_ms, p99_ms = (get_percentile(took_ms, percent) for percent in (50, 99))
        steps.append(Step(per_s, goodput_per_s))
        note(
            f"ramp: {per_s:.1f} requests a second, {goodput_per_s:.1f} answered,"
            f" p50 {p50_ms:.0f} ms, p99 {p99_ms:.0f} ms"
        )
        per_s *= RISE
    return steps


def _hurt(network: Network, course: Course, per_s: float, note: Note) -> None:
    """Half the knee, while the network is parted, loses half of its workers, and nodes die and come back."""
    note(f"half the knee: {per_s:.1f} requests a second")
    network.hold(STEADY, per_s, course.steady_s)
    note(f"a partition of {course.partition_s:g} s")
    partition = Partition(0, round(1_000 * course.partition_s), (choose_minority(network.list_names(*MINORITY)),))
    network.break_off(FaultPlan(partitions=(partition,)))
    network.hold(PARTITION, per_s, course.partition_s + course.recover_s)
    note("half of the workers are killed")
    workers = network.list_names("inference")
    back_ms = round(1_000 * course.recover_s)
    network.break_off(FaultPlan(crashes=tuple(Crash(name, 0, back_ms) for name in workers[len(workers) // 2 :])))
    network.hold(HALVED, per_s, course.recover_s)
    note("nodes of every role die and come back")
    churned = network.list_names("inference", "verifier", "storage", "oracle", "client")
    churn_ms = round(1_000 * course.churn_s)
    network.break_off(draw_churn(network.wanted.seed, churned, CHURN_PER_MIN, churn_ms, CHURN_DOWN_MS))
    network.hold(CHURN, per_s, course.churn_s)


MINORITY = ("validator", "inference", "verifier")


def choose_minority(names: Sequence[str]) -> tuple[str, ...]:
    """The last of each role: a group that is cut off from all others.

    >>> choose_minority(["validator-0", "validator-1", "inference-0", "inference-1"])
    ('validator-1', 'inference-1')
    """
    return tuple({name.rpartition("-")[0]: name for name in names}.values())


def time_steps(network: Network, steps: Sequence[Step], warm_s: float) -> list[Step]:
    """The steps of a ramp with how long answers took, once those are known that came after a step's end as well."""
    ramp = [phase for phase in network.phases if phase.name.startswith(RAMP)]
    taken = [list_answer_ms(select(network.follower.asked, phase, warm_s)) for phase in ramp]
    return [replace(step, p99_ms=get_percentile(took_ms, 99)) for step, took_ms in zip(steps, taken, strict=True)]


def select(asked: Sequence[Asked], phase: Phase, warm_s: float) -> list[Asked]:
    """What was begun in a phase, without its first seconds."""
    start_ms = phase.start_ms + round(1_000 * warm_s)
    return [each for each in asked if start_ms <= each.at_ms < phase.end_ms]


def list_answer_ms(asked: Sequence[Asked]) -> list[float]:
    """How long each answer took."""
    return [float(each.took_ms) for each in asked if each.is_answered]


def compute_goodput(network: Network, phase: Phase, warm_s: float) -> float:
    """Answers a second in a phase, without its first seconds."""
    answered = sorted(asked.ended_ms for asked in network.follower.read() if asked.is_answered)
    return compute_rate(answered, phase.start_ms + round(1_000 * warm_s), phase.end_ms)
