"""Each strategy in each mode over many small networks, beside honest ones of the same seeds, and the bars it meets.

What cheating brings is what the cheat has at the end against what an honest node in its place has: work costs nothing
here, so that a cheat saves all of it. Detection is held against arithmetic: of the lies in a batch each is drawn with
the share of leaves that is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import exp, lgamma, log

from protocol.jobs import Mode
from protocol.ledger.params import Params
from protocol.types import BP, GRAINS_PER_ROLE
from testnet.bench.cheat.run import Batched, Outcomes, run
from testnet.bench.cheat.strategies import BOTH, STRATEGIES, Strategy
from testnet.bench.figures import Note
from testnet.genesis import PRICE_GRAINS

NETWORK_JOBS = 120  # so many in one network, then the next seed
JOBS_SHORT = 2_400
JOBS_FULL = 100_000
CONFIDENCE = 0.99
DRAWN_MIN = 1  # lies that arithmetic says are drawn at the very least, for a lying strategy to be judged


@dataclass(frozen=True)
class Arithmetic:
    """What the shipped parameters come to, in grains."""

    bond: int
    slashed: int
    sampled_bp: int
    price: int
    break_even: float  # how many times a job's gain a conviction must cost, for this share of leaves
    loses: float  # how many times it does

    def describe(self) -> str:
        return (
            f"a bond of {self.bond / GRAINS_PER_ROLE:g} ROLE, {self.slashed / GRAINS_PER_ROLE:g} slashed, a job of"
            f" {self.price / GRAINS_PER_ROLE:g}; {self.sampled_bp / 100:g} % of leaves drawn: a conviction must cost"
            f" {self.break_even:.0f} times what a lie brings, it costs {self.loses:,.0f} times"
        )


@dataclass(frozen=True)
class Row:
    """A strategy in a mode, and which bars it missed, in words."""

    strategy: str
    mode: str
    about: str
    outcomes: Outcomes
    honest_gain: int
    missed: tuple[str, ...]

    @property
    def cost(self) -> int:
        """What cheating costs: how much more an honest node in its place has. Grains."""
        return self.honest_gain - self.outcomes.gain

    def to_dict(self) -> dict[str, object]:
        figures = {key: value for key, value in asdict(self.outcomes).items() if key != "batches"}
        lies, low, high, drawn = judge_draws(self.outcomes.batches)
        draws = {"lies_in_batches": lies, "drawn": drawn, "drawn_low": low, "drawn_high": high}
        return {
            "name": f"{self.mode}_{self.strategy}",
            "value": -self.cost / GRAINS_PER_ROLE,
            "unit": "ROLE",
            "peer": "honest",
            "peer_value": 0.0,
            "ratio": 0.0,
            **figures,
            **(draws if lies else {}),
            "missed": list(self.missed),
        }

    def format_cells(self) -> list[str]:
        sums = self.outcomes
        lies, low, high, drawn = judge_draws(sums.batches)
        return [
            self.mode,
            self.strategy,
            str(sums.jobs),
            str(sums.answered),
            str(sums.lies),
            str(sums.wrong_released),
            str(sums.lies_paid),
            f"{drawn} ({low}-{high})" if lies else "",
            str(sums.convictions),
            f"{-self.cost / GRAINS_PER_ROLE:+.3f}",
            f"{sums.lost_max / PRICE_GRAINS:g}",
            "; ".join(self.missed) or "holds",
        ]


COLUMNS = "mode|strategy|jobs|answered|lies|wrong out|lies paid|drawn (99 %)|convicted|brings ROLE|lost jobs|verdict"


def compute_arithmetic(params: Params) -> Arithmetic:
    bond = params.get_bond_min("inference")
    slashed = bond * params.slash_bp // BP
    break_even = (BP - params.sample_bp) / params.sample_bp
    return Arithmetic(bond, slashed, params.sample_bp, PRICE_GRAINS, break_even, slashed / PRICE_GRAINS)


def format_line(cells: Sequence[str]) -> str:
    """A line for people."""
    widths = (11, 17, 7, 9, 6, 10, 10, 16, 10, 12, 10, 0)
    return "".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def write_markdown(rows: Sequence[Row], jobs: int, seed: int) -> str:
    """The table, with what it was made by."""
    command = f"rolemesh bench cheat --jobs {jobs} --seed {seed}"
    lines = [f"Made by `{command}`: {compute_arithmetic(Params()).describe()}.", ""]
    lines += [f"| {' | '.join(COLUMNS.split('|'))} |", "|---" * len(COLUMNS.split("|")) + "|"]
    lines += [f"| {' | '.join(row.format_cells())} |" for row in rows]
    return "\n".join(lines) + "\n"


def measure(strategies: tuple[Strategy, ...], jobs: int, first_seed: int, note: Note) -> Iterator[Row]:
    """A row for each strategy and mode; `jobs` in all, shared out evenly."""
    pairs = [(mode, strategy) for mode in BOTH for strategy in strategies if mode in strategy.modes]
    networks = max(1, jobs // len(pairs) // NETWORK_JOBS)
    seeds = range(first_seed, first_seed + networks)
    honest: dict[tuple[Mode, str], int] = {}
    for number, (mode, strategy) in enumerate(pairs, 1):
        note(f"{number} of {len(pairs)}: {mode}, {strategy.name} ({strategy.about}), {networks * NETWORK_JOBS} jobs")
        sums = Outcomes()
        for seed in seeds:
            sums.add(run(strategy, mode, seed, NETWORK_JOBS))
        key = mode, strategy.cheat
        if key not in honest:
            honest[key] = _measure_honest(mode, strategy.cheat, seeds)
        yield Row(
            strategy.name, str(mode), strategy.about, sums, honest[key], tuple(judge(strategy, mode, sums, honest[key]))
        )


def judge(strategy: Strategy, mode: Mode, sums: Outcomes, honest_gain: int) -> Iterator[str]:
    """What a strategy got away with."""
    if sums.unsettled:
        yield f"something was still open in {sums.unsettled} networks"
    if sums.honest_slashed:
        yield f"{sums.honest_slashed} honest nodes were slashed"
    if sums.lost_max > PRICE_GRAINS:
        yield f"an honest party lost {sums.lost_max / PRICE_GRAINS:g} jobs to one other"
    if strategy.name == "honest":
        return
    if mode is Mode.INDIVIDUAL and strategy.lies and (sums.wrong_released or sums.lies_paid):
        yield f"{sums.wrong_released} wrong results released, {sums.lies_paid} lies paid"
    lies, low, high, drawn = judge_draws(sums.batches)
    if strategy.lies and mode is Mode.BATCH and low < DRAWN_MIN:
        return  # so few lies that nobody may have come upon one: nothing is shown either way
    if sums.gain > honest_gain:
        yield f"it brings {(sums.gain - honest_gain) / GRAINS_PER_ROLE:.6f} ROLE more than honesty"
    if strategy.lies and mode is Mode.BATCH and sums.gain >= 0:
        yield "the liar ends with no less than it began with"
    if lies and not low <= drawn <= high:
        yield f"{drawn} lies were drawn, arithmetic says {low} to {high}"


def judge_draws(batches: list[Batched]) -> tuple[int, int, int, int]:
    """How many lies were in the batches; the least and most of them that are drawn with 99 %; how many were."""
    lies = sum(batch.lies for batch in batches)
    if not lies:
        return 0, 0, 0, 0
    share = sum(batch.lies * batch.drawn / batch.leaves for batch in batches) / lies
    low, high = compute_interval(lies, share)
    return lies, low, high, sum(batch.lies_drawn for batch in batches)


def compute_interval(trials: int, share: float) -> tuple[int, int]:
    """The least and the most successes, leaving out half a percent on either side.

    >>> compute_interval(100, 0.1)
    (3, 18)
    """
    tail, below = (1 - CONFIDENCE) / 2, 0.0
    low = None
    for count in range(trials + 1):
        below += _compute_chance(trials, count, share)
        if low is None and below > tail:
            low = count
        if below >= 1 - tail:
            return low or 0, count
    return low or 0, trials


def _compute_chance(trials: int, count: int, share: float) -> float:
    """By logarithms: the numbers of ways do not fit a float."""
    if share <= 0 or share >= 1:
        return float(count == (0 if share <= 0 else trials))
    ways = lgamma(trials + 1) - lgamma(count + 1) - lgamma(trials - count + 1)
    return exp(ways + count * log(share) + (trials - count) * log(1 - share))


def _measure_honest(mode: Mode, name: str, seeds: range) -> int:
    """What an honest node of this name has gained over the same networks."""
    twin = Strategy("honest", STRATEGIES[0].about, {name: name.rpartition("-")[0]})
    return sum(run(twin, mode, seed, NETWORK_JOBS).gain for seed in seeds)
