"""Where the parameters break: the value at which honest work stops to pay, to be covered by a bond, or to beat a lie.

Each edge is computed twice: from the ledger's own functions alone, and from networks played on the ledger. Profits are
without upkeep here, so that they are per row and know no load.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from protocol.jobs import VERIFIERS_MIN
from protocol.ledger.batches import compute_pending_max
from protocol.ledger.money import split_inference_fee
from protocol.ledger.params import RoleBond
from protocol.ledger.transactions import Stake
from protocol.types import BP, GRAINS_PER_ROLE
from roles.batcher import BATCH_MS
from testnet.bench.economy.clients import Client
from testnet.bench.economy.jobs import Job
from testnet.bench.economy.network import Network, Setting
from testnet.bench.economy.payouts import End
from testnet.bench.economy.verifiers import Verifier
from testnet.bench.economy.workers import Worker
from testnet.bench.figures import Note

ROLES = {"validator": 4, "inference": 6, "verifier": 6, "client": 6}
REQUESTS = 12  # a second
SECONDS = 60
TOLERANCE = 1.5  # between arithmetic and what is played, either way
LYING_SECONDS = 240  # for as many batches to be lost as make an average
LIE_BP = 1_000  # of the jobs of liars
MORE_STAKE = 400 * GRAINS_PER_ROLE
MILLI = GRAINS_PER_ROLE // 1_000
SHARES_OF = 1_000_000  # a fee that rounding takes nothing from
NAMES = {
    "price_cover": "price of a row",
    "bond": "bond of a worker",
    "slash": "share slashed",
    "sample": "leaves drawn",
}
EDGE_COLUMNS = "parameter|shipped|breaks|by arithmetic|as played|shipped is off by|verdict"


@dataclass(frozen=True)
class Edge:
    """A value of a parameter at which something breaks; `is_least` where it breaks below. In `unit`."""

    name: str
    parameter: str
    shipped: float
    unit: str
    breaks: str
    arithmetic: float
    played: float
    is_least: bool = False
    known: str = ""

    @property
    def distance(self) -> float:
        """How many times the shipped value is on the safe side; below 1 it is beyond the edge."""
        upper, lower = (self.shipped, self.played) if self.is_least else (self.played, self.shipped)
        return upper / lower if lower else 0.0

    @property
    def missed(self) -> tuple[str, ...]:
        found = []
        if self.distance < 1:
            found.append("the shipped value is beyond the edge")
        if not 1 / TOLERANCE < self.played / self.arithmetic < TOLERANCE:
            found.append("arithmetic says another edge")
        return tuple(found)

    @property
    def verdict(self) -> str:
        if self.missed and self.known:
            return f"{'; '.join(self.missed)}: known, see decision {self.known}"
        return "; ".join(self.missed) or "holds"

    def format_cells(self) -> list[str]:
        shipped, arithmetic, played = (
            f"{value:.4g} {self.unit}" for value in (self.shipped, self.arithmetic, self.played)
        )
        return [self.parameter, shipped, self.breaks, arithmetic, played, f"{self.distance:.3g}x", self.verdict]

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": f"edge_{self.name}",
            "value": self.played,
            "unit": self.unit,
            "peer": "arithmetic",
            "peer_value": self.arithmetic,
            "ratio": round(self.played / self.arithmetic, 3),
            "shipped": self.shipped,
            "distance": self.distance,
            "breaks": self.breaks,
            "missed": list(self.missed),
            "known": self.known,
        }


def measure_edges(setting: Setting, seed: int, note: Note) -> Iterator[Edge]:
    """The edges, as they come."""
    note("edges: what running a row may cost")
    batch = play(replace(setting, individual=0), seed)
    individual = play(replace(setting, individual=1), seed)
    yield from measure_costs(setting, batch, individual)
    note("edges: the least price")
    yield from measure_prices(setting, seed, batch, individual)
    note("edges: what a bond covers")
    yield from measure_cover(setting, seed, batch)
    note("edges: what a lie must bring")
    yield from measure_lies(setting, seed)


def play(setting: Setting, seed: int, seconds: int = SECONDS, turn: Callable[[Network], None] | None = None) -> Network:
    """A network that was asked for so long, and has settled."""
    network = Network(setting, seed)
    if turn is not None:
        turn(network)
    network.warm_up()
    for _ in range(seconds):
        network.step(REQUESTS)
    network.settle()
    return network


# What running a row may cost


def measure_costs(setting: Setting, batch: Network, individual: Network) -> Iterator[Edge]:
    """What is earned for a row that is run, ledger fees paid: as much as running it may cost."""
    stated = setting.costs.row / setting.price * 100
    rows: Sequence[tuple[str, str, Network, type[Worker] | type[Verifier]]] = (
        ("worker_batch", "a worker in batches loses", batch, Worker),
        ("worker_individual", "a worker in mode individual loses", individual, Worker),
        ("verifier_batch", "a verifier of batches loses", batch, Verifier),
        ("verifier_individual", "a verifier in mode individual loses", individual, Verifier),
    )
    for name, breaks, network, kind in rows:
        arithmetic = compute_share(network, kind) * 100
        played = compute_pay(network, kind) / setting.price * 100
        yield Edge(f"cost_{name}", "cost of a row", stated, "% of its price", breaks, arithmetic, played)


def compute_pay(network: Network, kind: type[Worker] | type[Verifier]) -> float:
    """What those of a role have gained on the ledger for each row they have run. Grains."""
    people = network.list_of(kind)
    return compute_gain(network, kind) / sum(each.rows for each in people)


def compute_gain(network: Network, kind: type[Worker] | type[Verifier]) -> int:
    """What those of a role have more than at genesis. Grains."""
    wealth = network.wealth
    return sum(wealth[each.account] - network.began[each.account] for each in network.list_of(kind))


# The least price


def measure_prices(setting: Setting, seed: int, batch: Network, individual: Network) -> Iterator[Edge]:
    """Fees of transactions do not fall with the price: below some price they and the cost of running are all of it.

    By arithmetic the edge follows from the fees at the shipped price; as played, from another network at half of it.
    """
    low = replace(setting, price=setting.price // 2)
    halves = (batch, play(replace(low, individual=0), seed)), (individual, play(replace(low, individual=1), seed))
    for (high, half), mode in zip(halves, ("batch", "individual"), strict=True):
        for kind, who in ((Worker, "worker"), (Verifier, "verifier")):
            share = compute_share(high, kind)
            fees = share * high.setting.price - compute_pay(high, kind)
            rise = (compute_pay(high, kind) - compute_pay(half, kind)) / (high.setting.price - half.setting.price)
            left = compute_pay(high, kind) - setting.costs.row
            yield Edge(
                f"price_{who}_{mode}",
                "price of a row",
                setting.price / MILLI,
                "mROLE",
                f"a {who} in mode {mode} loses",
                (fees + setting.costs.row) / share / MILLI,
                (high.setting.price - left / rise) / MILLI,
                is_least=True,
            )


def compute_share(network: Network, kind: type[Worker] | type[Verifier]) -> float:
    """The share of a row's price that is its worker's, or that of whoever runs it again."""
    worker, each, _, _ = split_inference_fee(SHARES_OF, VERIFIERS_MIN, network.setting.params)
    if kind is Worker:
        return worker / SHARES_OF
    return each / SHARES_OF / (compute_drawn_share(network) if network.batches else 1)


def compute_drawn_share(network: Network) -> float:
    """The share of leaves that was drawn: more than the parameter says where batches are small."""
    return sum(one.drawn for one in network.batches) / sum(one.leaves for one in network.batches)


# What a bond covers


def measure_cover(setting: Setting, seed: int, batch: Network) -> Iterator[Edge]:
    """A worker may have only so much pending: what it can earn in the time a batch takes. Beyond that it takes no jobs.

    As played, at half or twice the edge of arithmetic: what is served then says where all would be.
    """
    setting = replace(setting, individual=0)
    params, price = setting.params, setting.price
    bond = params.get_bond_min("inference")
    workers, rows = setting.roles["inference"], REQUESTS * setting.rows
    seconds = (sum(one.time_ms for one in batch.batches) / len(batch.batches) + BATCH_MS / 2) / 1_000
    need = rows / workers * price * seconds  # of one worker, pending at a time
    limit = compute_pending_max(bond, params.sample_bp, params)
    share = need / limit  # of what is covered
    for name, shipped, unit, is_least, edge, starve in (
        ("price_cover", price / MILLI, "mROLE", False, price / share / MILLI, _with_price),
        ("bond", bond / GRAINS_PER_ROLE, "ROLE", True, bond * share / GRAINS_PER_ROLE, _with_bond),
        ("slash", params.slash_bp / 100, "%", True, params.slash_bp * share / 100, _with_slash),
        ("sample", params.sample_bp / 100, "%", True, _find_sample(params.sample_bp, share) / 100, _with_sample),
    ):
        value = edge / 2 if is_least else edge * 2
        served = compute_served(play(starve(setting, value), seed))
        played = value / served if is_least else value * served
        breaks = f"a worker is not covered for {rows / workers:.0f} rows/s"
        yield Edge(name, NAMES[name], shipped, unit, breaks, edge, played, is_least)


def compute_served(network: Network) -> float:
    """The share of requests that was answered."""
    asked = [one for client in network.list_of(Client) for one in client.asked]
    return sum(one.job is not None for one in asked) / len(asked)


def _with_price(setting: Setting, value: float) -> Setting:
    return replace(setting, price=round(value * MILLI))


def _with_bond(setting: Setting, value: float) -> Setting:
    others = tuple(bond for bond in setting.params.bonds if bond.role != "inference")
    bonds = (RoleBond("inference", round(value * GRAINS_PER_ROLE)), *others)
    return replace(setting, params=replace(setting.params, bonds=bonds))


def _with_slash(setting: Setting, value: float) -> Setting:
    return replace(setting, params=replace(setting.params, slash_bp=round(value * 100)))


def _with_sample(setting: Setting, value: float) -> Setting:
    sample_bp = round(value * 100)
    floor_bp = min(setting.params.sample_floor_bp, sample_bp)
    return replace(setting, params=replace(setting.params, sample_bp=sample_bp, sample_floor_bp=floor_bp))


def _find_sample(sample_bp: int, share: float) -> float:
    """The sampling rate that covers so much of what the shipped one does: p / (1 - p) is what counts."""
    odds = sample_bp / (BP - sample_bp) * share
    return BP * odds / (1 + odds)


# What a lie must bring


def measure_lies(setting: Setting, seed: int) -> Iterator[Edge]:
    """All workers lie now and then: what that costs them for each lie that is paid, in prices of a job.

    A lie pays once it brings more; by itself it brings what running the model would have cost.
    """
    setting = replace(setting, individual=0)
    honest = play(setting, seed, seconds=LYING_SECONDS, turn=_add_stake)
    fee = setting.rows * setting.price
    for name, breaks, opens in (
        ("lie_closed", "a lie pays that is kept closed if drawn", False),
        ("lie_opened", "a lie pays that is opened if drawn", True),
    ):
        liars = play(setting, seed, seconds=LYING_SECONDS, turn=partial(_turn_liars, opens))
        lost = compute_gain(honest, Worker) - compute_gain(liars, Worker)
        paid = sum(liars.ends.get(job.claim_id) is End.PAID for job in list_lies(liars))
        expected = expect_loss(honest, opens)
        shipped = setting.costs.row / setting.price
        yield Edge(name, "what a lie brings", shipped, "jobs", breaks, expected / fee, lost / max(1, paid) / fee)


def list_lies(network: Network) -> list[Job]:
    asked = (one.job for client in network.list_of(Client) for one in client.asked)
    return [job for job in asked if job is not None and not job.is_true]


def expect_loss(honest: Network, opens: bool) -> float:
    """What liars lose for each lie that is paid, by the batches that honest workers have settled. Grains.

    A batch of n leaves with d drawn is lost unless none of those is a lie. Its worker's part of it is gone, and if the
    lie was opened, a share of the stake that is left.
    """
    lie, setting = LIE_BP / BP, honest.setting
    chances = [(one, 1 - (1 - lie) ** one.drawn) for one in honest.batches]
    lost = sum(chance * one.total * compute_share(honest, Worker) for one, chance in chances)
    paid = sum((1 - chance) * (one.leaves - one.drawn) * lie for one, chance in chances)
    if opens:
        workers = setting.roles["inference"]
        convictions = sum(chance for _, chance in chances) / workers
        stake = setting.params.get_bond_min("inference") + MORE_STAKE
        lost += workers * stake * (1 - (1 - setting.params.slash_bp / BP) ** convictions)
    return lost / paid


def _add_stake(network: Network) -> None:
    """So that a worker that is slashed once is still one."""
    for worker in network.list_of(Worker):
        network.chain.submit(worker.account, Stake(MORE_STAKE))


def _turn_liars(opens: bool, network: Network) -> None:
    _add_stake(network)
    for worker in network.list_of(Worker):
        worker.lie_bp, worker.opens = LIE_BP, opens
