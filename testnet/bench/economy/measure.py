"""What each way to play a role brings, beside an honest node in the same place of the same network.

A profit is what an account has gained on the ledger, less what its work has cost (`costs`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from protocol.ledger.params import Params
from protocol.types import BP, GRAINS_PER_ROLE
from testnet.bench.economy.clients import Client
from testnet.bench.economy.costs import Costs
from testnet.bench.economy.network import Network, Setting
from testnet.bench.economy.payouts import End
from testnet.bench.economy.strategies import HONEST, STRATEGIES, Strategy
from testnet.bench.economy.workers import Worker
from testnet.bench.figures import Note

ROLES: Mapping[str, int] = {"validator": 4, "inference": 6, "verifier": 6, "storage": 6, "client": 6}
REQUESTS = 12  # a second
HOUR_MS = 3_600_000
COLUMNS = "role|strategy|ROLE/h|per 1,000 at stake|per ROLE spent|honest, same work|lies paid|slashed|verdict"


@dataclass(frozen=True)
class Size:
    """Seconds in which clients ask, and networks."""

    seconds: int
    seeds: int


SHORT = Size(seconds=120, seeds=1)
FULL = Size(seconds=300, seeds=5)


@dataclass(frozen=True)
class Played:
    """What came of some networks in which one node plays one strategy. Amounts in grains, by node name."""

    profits: Mapping[str, int]
    costs: Mapping[str, int]
    bonds: Mapping[str, int]
    time_ms: int
    taken: Mapping[str, int] = field(default_factory=dict)  # rows, by workers
    answered: int = 0
    asked: int = 0
    lies_paid: int = 0
    lies_paid_attested: int = 0  # of them, in mode `individual`
    convicted: int = 0
    honest_convicted: int = 0
    unsettled: int = 0

    def add_up(self, names: Sequence[str]) -> int:
        """The profit of these nodes."""
        return sum(self.profits[name] for name in names)


@dataclass(frozen=True)
class Row:
    """A strategy, and which bars it missed, in words."""

    strategy: Strategy
    cheat: Played
    honest: Played
    missed: tuple[str, ...]

    @property
    def profit(self) -> float:
        """ROLE in an hour."""
        return compute_hourly(self.cheat, self.strategy.cheats)

    @property
    def honest_profit(self) -> float:
        return expect_honest(self.strategy, self.cheat, self.honest) / GRAINS_PER_ROLE * HOUR_MS / self.cheat.time_ms

    @property
    def per_stake(self) -> float:
        """ROLE in an hour for 1,000 ROLE bonded."""
        bond = sum(self.cheat.bonds[name] for name in self.strategy.cheats) / GRAINS_PER_ROLE
        return self.profit / bond * 1_000 if bond else 0.0

    @property
    def per_cost(self) -> float:
        """ROLE for each ROLE that work cost."""
        cost = sum(self.cheat.costs[name] for name in self.strategy.cheats)
        return self.cheat.add_up(self.strategy.cheats) / cost if cost else 0.0

    @property
    def verdict(self) -> str:
        if self.missed and self.strategy.known:
            return f"{'; '.join(self.missed)}: known, see decision {self.strategy.known}"
        return "; ".join(self.missed) or "holds"

    def to_dict(self) -> dict[str, object]:
        return {
            "name": f"{self.strategy.role}_{self.strategy.name}",
            "value": self.profit,
            "unit": "ROLE/h",
            "peer": "honest",
            "peer_value": self.honest_profit,
            "ratio": 0.0,
            "per_1000_staked": self.per_stake,
            "per_spent": self.per_cost,
            "lies_paid": self.cheat.lies_paid,
            "convicted": self.cheat.convicted,
            "missed": list(self.missed),
            "known": self.strategy.known,
        }

    def format_cells(self) -> list[str]:
        numbers = (self.profit, self.per_stake, self.per_cost, self.honest_profit)
        counts = (self.cheat.lies_paid, self.cheat.convicted)
        return [
            self.strategy.role,
            self.strategy.name,
            *(f"{number:+.3f}" for number in numbers),
            *map(str, counts),
            self.verdict,
        ]


def measure(size: Size, seed: int, costs: Costs, params: Params, note: Note) -> Iterator[Row]:
    """A row for every honest role, then one for every strategy."""
    setting = Setting(ROLES, params=params, costs=costs, individual=2)
    honest = play(HONEST, setting, size, seed, note)
    played = {HONEST.name: honest}
    for role in ("inference", "verifier", "storage", "validator"):
        alone = replace(HONEST, cheats=(f"{role}-0",))
        yield Row(alone, honest, honest, tuple(judge_honest(alone, honest)))
    for strategy in STRATEGIES:
        cheat = played[strategy.name] = play(strategy, setting, size, seed, note)
        twin = played[strategy.twin]
        yield Row(strategy, cheat, twin, tuple(judge(strategy, cheat, twin)))


def play(strategy: Strategy, setting: Setting, size: Size, seed: int, note: Note) -> Played:
    """One network after the other, each asked for as long and then settled; their sums."""
    note(f"{strategy.name}: {strategy.about}")
    played = [play_once(strategy, setting, size.seconds, seed + number) for number in range(size.seeds)]
    names = played[0].profits
    return Played(
        profits={name: sum(each.profits[name] for each in played) for name in names},
        costs={name: sum(each.costs[name] for each in played) for name in names},
        bonds=played[0].bonds,
        taken={name: sum(each.taken[name] for each in played) for name in played[0].taken},
        **{name: sum(getattr(each, name) for each in played) for name in _SUMS},
    )


_SUMS = (
    "time_ms",
    "answered",
    "asked",
    "lies_paid",
    "lies_paid_attested",
    "convicted",
    "honest_convicted",
    "unsettled",
)


def play_once(strategy: Strategy, setting: Setting, seconds: int, seed: int) -> Played:
    """One network of this seed."""
    network = Network(setting, seed)
    bonds = {name: _get_bond(network, each.account) for name, each in network.people.items()}
    strategy.turn(network)
    began_ms = network.state.time_ms
    network.warm_up()
    for _ in range(seconds):
        network.step(REQUESTS)
    is_settled = network.settle()
    asked = [one for client in network.list_of(Client) for one in client.asked]
    jobs = [one.job for one in asked if one.job is not None]
    lies = [job for job in jobs if not job.is_true and network.ends.get(job.claim_id) is End.PAID]
    liars = {each.account for each in network.list_liars()}
    convicted = [proven.worker for proven in network.state.wrong.values()]
    return Played(
        profits={name: network.compute_profit(each) for name, each in network.people.items()},
        costs={name: each.cost for name, each in network.people.items()},
        bonds=bonds,
        taken={worker.name: worker.rows_taken for worker in network.list_of(Worker)},
        time_ms=network.state.time_ms - began_ms,
        answered=len(jobs),
        asked=len(asked),
        lies_paid=len(lies),
        lies_paid_attested=sum(bool(job.attestations) for job in lies),
        convicted=len(convicted),
        honest_convicted=sum(worker not in liars for worker in convicted),
        unsettled=int(not is_settled),
    )


def judge_honest(strategy: Strategy, played: Played) -> Iterator[str]:
    """What honest nodes must come to."""
    if played.add_up(strategy.cheats) <= 0:
        yield f"honest work loses {-compute_hourly(played, strategy.cheats):.3f} ROLE/h"
    if played.convicted:
        yield f"{played.convicted} honest claims were found wrong"
    if played.unsettled:
        yield f"something was still open in {played.unsettled} networks"


def judge(strategy: Strategy, cheat: Played, honest: Played) -> Iterator[str]:
    """What a strategy got away with."""
    more = cheat.add_up(strategy.cheats) - expect_honest(strategy, cheat, honest)
    if more >= 0:
        yield f"it brings {more / GRAINS_PER_ROLE:.6f} ROLE more than honesty"
    if cheat.lies_paid_attested:
        yield f"{cheat.lies_paid_attested} attested lies were paid"
    if cheat.honest_convicted:
        yield f"{cheat.honest_convicted} honest claims were found wrong"
    if cheat.unsettled:
        yield f"something was still open in {cheat.unsettled} networks"


def expect_honest(strategy: Strategy, cheat: Played, honest: Played) -> float:
    """What honest nodes would have gained in a cheat's place. Grains.

    Whom clients draw differs from network to network: of workers it is counted for as many rows as the cheat took.
    """
    took, would_take = (sum(played.taken.get(name, 0) for name in strategy.cheats) for played in (cheat, honest))
    share = took / would_take if took and would_take else 1.0
    return honest.add_up(strategy.cheats) * share


def describe(params: Params, costs: Costs, price: int) -> str:
    """What all of it rests on."""
    return (
        f"a row is sold for {price / GRAINS_PER_ROLE:g} ROLE and costs {costs.row / price:.1%} of that to run; a node"
        f" costs {costs.epoch / GRAINS_PER_ROLE:g} ROLE an epoch; bonds of"
        f" {params.get_bond_min('inference') / GRAINS_PER_ROLE:g} ROLE, {params.slash_bp / BP:.0%} slashed,"
        f" {params.sample_bp / BP:.0%} of leaves drawn"
    )


def compute_hourly(played: Played, names: Sequence[str]) -> float:
    """The profit of these nodes in an hour, in ROLE."""
    return played.add_up(names) / GRAINS_PER_ROLE * HOUR_MS / played.time_ms


def format_line(cells: Sequence[str]) -> str:
    """A line for people."""
    return format_columns(cells, (11, 16, 11, 20, 16, 19, 11, 9, 0))


def format_columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells padded to widths."""
    return "".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _get_bond(network: Network, account: bytes) -> int:
    node = network.state.nodes.get(account)
    return node.bond if node is not None else 0
