"""Sybils against honest gossip, on virtual time: `rolemesh bench attack`.

Each scenario stands beside the clean run of the same network and seed. Two bars: at least 99.9 % of all deliveries
arrive, and the 99th percentile of their latency is at most twice the clean run's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from testnet.bench.figures import Note
from testnet.gossip.attacks import SCENARIOS, Outcome, Scenario, Size, run_scenario

DELIVERED_MIN = 0.999
SLOWER_MAX = 2.0
FULL = Size()
SHORT = Size(honest=60, sybils=120, publishers=10, sybil_degree=30, seconds=15)
SHORT_NAMES = ("eclipse_publishers", "degradation", "colocation")
LARGE = Size(honest=1_000, sybils=4_000)
COLUMNS = "scenario | sybils | delivered | p50, ms | p99, ms | of clean | max, ms | copies | in meshes | below 0"


@dataclass(frozen=True)
class Row:
    """One scenario beside the clean run."""

    outcome: Outcome
    clean: Outcome

    @property
    def slower(self) -> float:
        return self.outcome.p99_ms / self.clean.p99_ms

    @property
    def is_held(self) -> bool:
        return self.outcome.delivered >= DELIVERED_MIN and self.slower <= SLOWER_MAX

    def to_dict(self) -> dict[str, object]:
        """A figure as of any benchmark, and the rest of the outcome."""
        outcome, clean = self.outcome, self.clean
        return {
            "name": f"attack_{outcome.scenario}",
            "value": outcome.p99_ms,
            "unit": "ms",
            "peer": "clean run",
            "peer_value": clean.p99_ms,
            "ratio": round(clean.p99_ms / outcome.p99_ms, 2),
            "is_held": self.is_held,
            **asdict(outcome),
        }

    def format_cells(self) -> list[str]:
        outcome = self.outcome
        return [
            outcome.scenario,
            str(outcome.sybils),
            f"{outcome.delivered:.3%}",
            str(outcome.p50_ms),
            str(outcome.p99_ms),
            f"{self.slower:.2f}x",
            str(outcome.max_ms),
            f"{outcome.copies:.1f}",
            f"{outcome.sybil_mesh:.0%}",
            "never" if outcome.negative_s is None else f"{outcome.negative_s:.0f} s",
        ]


def find_scenarios(names: Sequence[str]) -> list[Scenario]:
    """Scenarios by name. KeyError for a name that is none."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    return [known[name] for name in names]


def measure(scenarios: Sequence[Scenario], size: Size, seed: int, note: Note) -> Iterator[Row]:
    """The clean run first, as a row beside itself, then each scenario."""
    clean = run_scenario(None, size, seed, lambda text: note(f"clean run: {text}"))
    yield Row(clean, clean)
    for scenario in scenarios:
        name = scenario.name
        yield Row(run_scenario(scenario, size, seed, lambda text, name=name: note(f"{name}: {text}")), clean)  # type: ignore[misc]


def format_line(cells: Sequence[str]) -> str:
    """A line for people, in columns."""
    return f"{cells[0]:20}" + "".join(f"{cell:>13}" for cell in cells[1:])


def write_markdown(rows: Sequence[Row], size: Size, seed: int) -> str:
    """The table of docs/benchmarks-attack.md."""
    about = (
        f"{size.honest} honest peers of degree {size.degree}, {size.publishers} of which publish {size.rate} messages "
        f"a second of 2 KiB together for {size.seconds} virtual seconds; sybils of degree {size.sybil_degree}; "
        f'seed {seed}. Copies are messages received per delivery; "in meshes" is the share of honest peers\' mesh '
        'links that lead to sybils at the end, "below 0" when half of the sybils had a negative score with a peer.'
    )
    head = [f"| {COLUMNS} |", "|---" * len(COLUMNS.split("|")) + "|"]
    body = ["| " + " | ".join(row.format_cells()) + " |" for row in rows]
    what = [f"- `{scenario.name}`: {scenario.about}." for scenario in SCENARIOS]
    return "\n".join([about, "", *head, *body, "", *what]) + "\n"
