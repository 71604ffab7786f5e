"""Each strategy in each mode over many small networks, beside honest ones of the same seeds, and the bars it meets.

What cheating brings is what the cheat has at the end against what an honest node in its place has: work costs nothing
here, so that a cheat saves all of it. Detection is held against arithmetic: of the lies in a batch each is drawn with
the share of leaves that is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log

from protocol.jobs import Mode
from protocol.ledger.params import Params
from protocol.types import BP, GRAINS_PER_ROLE
from testnet.bench.cheat.outcomes import Batched, Outcomes
from testnet.bench.cheat.run import run
from testnet.bench.cheat.strategies import BOTH, Strategy, find_strategies
from testnet.bench.cheat.sweep import Piece, Result
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
    sampled_bp: int  # of the leaves of a worker without quality
    floor_bp: int  # of those of the best
    price: int
    loses: float  # how many times a job's price a conviction costs

    def describe(self) -> str:
        return (
            f"a bond of {self.bond / GRAINS_PER_ROLE:g} ROLE, {self.slashed / GRAINS_PER_ROLE:g} slashed, a job of"
            f" {self.price / GRAINS_PER_ROLE:g}; {self.sampled_bp / 100:g} % of leaves drawn,"
            f" {self.floor_bp / 100:g} % of the best workers': a conviction must cost"
            f" {compute_break_even(self.sampled_bp):.0f} or {compute_break_even(self.floor_bp):.0f} times what a lie"
            f" brings, it costs {self.loses:,.0f} times"
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

    @property
    def lie_cost(self) -> float:
        """What a lie costs on average, in prices of a job."""
        return self.cost / PRICE_GRAINS / self.outcomes.lies if self.outcomes.lies else 0.0

    def to_dict(self) -> dict[str, object]:
        figures = {key: value for key, value in self.outcomes.to_dict().items() if key != "batches"}
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
            **({"lie_cost_jobs": self.lie_cost} if self.outcomes.lies else {}),
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
            f"{self.lie_cost:.3g}" if sums.lies else "",
            f"{sums.lost_max / PRICE_GRAINS:g}",
            "; ".join(self.missed) or "holds",
        ]


COLUMNS = (
    "mode|strategy|jobs|answered|lies|wrong out|lies paid|drawn (99 %)|convicted|brings ROLE|a lie costs|lost jobs|"
    "verdict"
)


def compute_arithmetic(params: Params) -> Arithmetic:
    bond = params.get_bond_min("inference")
    slashed = bond * params.slash_bp // BP
    return Arithmetic(bond, slashed, params.sample_bp, params.sample_floor_bp, PRICE_GRAINS, slashed / PRICE_GRAINS)


def compute_break_even(sampled_bp: int) -> float:
    """How many times what a lie brings a conviction must cost, with this share of leaves drawn.

    >>> compute_break_even(1_000)
    9.0
    """
    return (BP - sampled_bp) / sampled_bp


def format_line(cells: Sequence[str]) -> str:
    """A line for people."""
    widths = (11, 17, 7, 9, 6, 10, 10, 16, 10, 12, 12, 10, 0)
    return "".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def write_markdown(rows: Sequence[Row], command: str) -> str:
    """The table, with what it was made by."""
    lines = [f"Made by `{command}`: {compute_arithmetic(Params()).describe()}.", ""]
    lines += [f"| {' | '.join(COLUMNS.split('|'))} |", "|---" * len(COLUMNS.split("|")) + "|"]
    lines += [f"| {' | '.join(row.format_cells())} |" for row in rows]
    return "\n".join(lines) + "\n"


def plan(strategies: Sequence[Strategy], jobs: int, first_seed: int) -> list[Piece]:
    """The networks of a sweep of so many jobs, or one for each strategy and mode: lies in batches count twice.

    With them come those of honest nodes that are asked the same, under the same seeds.
    """
    shown = {(mode, one.name): _count_shares(one, mode) for mode in BOTH for one in strategies if mode in one.modes}
    shares = dict(shown)
    for one in strategies:
        for mode in one.modes:
            twin = mode, one.twin
            shares[twin] = max(shares.get(twin, 1), _count_shares(one, mode))
    networks = max(1, round(jobs / sum(shares.values()) / NETWORK_JOBS))
    return [
        Piece(name, str(mode), first_seed + number, NETWORK_JOBS)
        for number in range(networks * max(shares.values()))
        for (mode, name), count in shares.items()
        if number < networks * count
    ]


def simulate_piece(piece: Piece) -> tuple[Outcomes, dict[str, int]]:
    """What `sweep` does with each."""
    (strategy,) = find_strategies(frozenset({piece.strategy}))
    return run(strategy, Mode(piece.mode), piece.seed, piece.jobs)


def make_rows(strategies: Sequence[Strategy], results: Sequence[Result], has_twins: bool = True) -> list[Row]:
    """A row for each strategy and mode of which there is anything, each held against honest nodes of the same seeds.

    Without twins a result itself says what an honest node would have gained.
    """
    ordered = sorted(results, key=lambda result: result.piece.seed)  # whoever was ready first: the same sums
    found = {(each.piece.mode, each.piece.strategy, each.piece.seed): each for each in ordered}
    rows = []
    for mode in BOTH:
        for strategy in strategies:
            sums, honest = Outcomes(), 0
            for (at, name, seed), result in found.items():
                twin = found.get((mode, strategy.twin, seed)) if has_twins else result
                if (at, name) == (mode, strategy.name) and twin is not None:
                    sums.add(result.outcomes)
                    honest += twin.gains[strategy.cheat]
            if sums.jobs:
                missed = tuple(judge(strategy, mode, sums, honest))
                rows.append(Row(strategy.name, str(mode), strategy.about, sums, honest, missed))
    return rows


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


def _count_shares(strategy: Strategy, mode: Mode) -> int:
    return 2 if strategy.lies and mode is Mode.BATCH else 1
