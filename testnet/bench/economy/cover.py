"""What a bond covers: a worker may have only so much pending, so that a lie costs more than it brings.

What it may follows from bond, slash and the share of leaves drawn; what it needs from price, load and how long a batch
takes. Beyond that it takes no jobs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from protocol.ledger.batches import compute_pending_max
from protocol.ledger.params import RoleBond
from protocol.types import BP, GRAINS_PER_ROLE
from roles.batcher import BATCH_MS
from testnet.bench.economy.edge import Edge
from testnet.bench.economy.network import Network, Setting
from testnet.bench.economy.played import MILLI, REQUESTS, compute_served, play

BUSY_TIMES = 100  # a worker's own speed, where its bond alone is to hold it back


@dataclass(frozen=True)
class _Knob:
    """A parameter, in the units of its edge, and how a setting is made that has it otherwise."""

    name: str
    parameter: str
    shipped: float
    unit: str
    edge: float
    turn: Callable[[Setting, float], Setting]
    is_least: bool = True


def measure_cover(setting: Setting, seed: int, batch: Network) -> Iterator[Edge]:
    """As played at half or twice the edge of arithmetic: what is served then says where all would be.

    `batch` is a network in which all jobs are settled in batches.
    """
    setting = replace(setting, individual=0)
    load = REQUESTS * setting.rows / setting.roles["inference"]
    for knob in list_knobs(setting, batch):
        value = knob.edge / 2 if knob.is_least else knob.edge * 2
        served = compute_served(play(knob.turn(setting, value), seed))
        played = value / served if knob.is_least else value * served
        breaks = f"a worker is not covered for {load:.0f} rows/s"
        yield Edge(knob.name, knob.parameter, knob.shipped, knob.unit, breaks, knob.edge, played, knob.is_least)
    params = setting.params
    for name, breaks, sample_bp in (
        ("load_new", "a worker without quality is not covered", params.sample_bp),
        ("load_best", "the best worker is not covered", params.sample_floor_bp),
    ):
        edge = load / compute_need(setting, batch, sample_bp)
        of_all = replace(with_sample(setting, sample_bp / 100), rows_max=setting.rows_max * BUSY_TIMES)
        times = 2 * edge / load
        served = compute_served(play(of_all, seed, requests=round(REQUESTS * times)))
        yield Edge(name, "rows/s of a worker", load, "", breaks, edge, load * times * served)


def compute_need(setting: Setting, batch: Network, sample_bp: int) -> float:
    """How much of what its bond covers a worker has pending, at the load of `play` and this rate of sampling."""
    bond = setting.params.get_bond_min("inference")
    seconds = (sum(one.time_ms for one in batch.batches) / len(batch.batches) + BATCH_MS / 2) / 1_000
    pending = REQUESTS * setting.rows / setting.roles["inference"] * setting.price * seconds
    return pending / compute_pending_max(bond, sample_bp, setting.params)


def list_knobs(setting: Setting, batch: Network) -> list[_Knob]:
    """What may be turned, and by arithmetic how far."""
    params, price, bond = setting.params, setting.price / MILLI, setting.params.get_bond_min("inference")
    need = compute_need(setting, batch, params.sample_bp)
    whole, slash, sample = bond / GRAINS_PER_ROLE, params.slash_bp / 100, params.sample_bp / 100
    sample_edge = _find_sample(params.sample_bp, need) / 100
    return [
        _Knob("price_cover", "price of a row", price, "mROLE", price / need, with_price, is_least=False),
        _Knob("bond", "bond of a worker", whole, "ROLE", whole * need, with_bond),
        _Knob("slash", "share slashed", slash, "%", slash * need, with_slash),
        _Knob("sample", "leaves drawn", sample, "%", sample_edge, with_sample),
    ]


def with_price(setting: Setting, value: float) -> Setting:
    """The setting at another price of a row, in mROLE."""
    return replace(setting, price=round(value * MILLI))


def with_bond(setting: Setting, value: float) -> Setting:
    """At another bond of workers, in ROLE."""
    others = tuple(bond for bond in setting.params.bonds if bond.role != "inference")
    bonds = (RoleBond("inference", round(value * GRAINS_PER_ROLE)), *others)
    return replace(setting, params=replace(setting.params, bonds=bonds))


def with_slash(setting: Setting, value: float) -> Setting:
    """With another share slashed, in percent."""
    return replace(setting, params=replace(setting.params, slash_bp=round(value * 100)))


def with_sample(setting: Setting, value: float) -> Setting:
    """With another share of leaves drawn, in percent."""
    sample_bp = round(value * 100)
    floor_bp = min(setting.params.sample_floor_bp, sample_bp)
    return replace(setting, params=replace(setting.params, sample_bp=sample_bp, sample_floor_bp=floor_bp))


def _find_sample(sample_bp: int, share: float) -> float:
    """The sampling rate that covers so much of what the shipped one does: p / (1 - p) is what counts."""
    odds = sample_bp / (BP - sample_bp) * share
    return BP * odds / (1 + odds)
