"""One parameter at a time, far to either side of what is shipped: what is served, earned and deterred there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

from protocol.types import GRAINS_PER_ROLE
from testnet.bench.economy.cover import with_bond, with_price, with_sample, with_slash
from testnet.bench.economy.lies import expect_loss
from testnet.bench.economy.network import Setting
from testnet.bench.economy.played import MILLI, Running, compute_pay, compute_served, play
from testnet.bench.economy.verifiers import Verifier
from testnet.bench.economy.workers import Worker

FACTORS = (1 / 30, 1 / 10, 1 / 3, 1, 3, 10)
SERVED_MIN = 0.95
Turn = Callable[[Setting, float], Setting]
SWEEP_COLUMNS = (
    "parameter|value|served|worker earns a row|verifier earns a row|a closed lie must bring|an opened one|breaks"
)


@dataclass(frozen=True)
class Point:
    """What a network comes to with one parameter changed. Earnings in mROLE, the cost of running off; lies in jobs."""

    parameter: str
    value: float
    unit: str
    is_shipped: bool
    served: float
    worker: float
    verifier: float
    closed: float
    opened: float

    @property
    def breaks(self) -> tuple[str, ...]:
        found = []
        if self.served < SERVED_MIN:
            found.append("not all is served")
        if self.worker <= 0:
            found.append("workers lose")
        if self.verifier <= 0:
            found.append("verifiers lose")
        return tuple(found)

    def format_cells(self) -> list[str]:
        value = f"{self.value:.4g} {self.unit}{' (shipped)' if self.is_shipped else ''}"
        lies = (f"{jobs:,.3g} jobs" if isfinite(jobs) else "none passes" for jobs in (self.closed, self.opened))
        numbers = (f"{self.worker:+.4f}", f"{self.verifier:+.4f}", *lies)
        return [self.parameter, value, f"{self.served:.1%}", *numbers, ", ".join(self.breaks) or "nothing"]

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": f"sweep_{self.parameter.replace(' ', '_')}_{self.value:.4g}",
            "value": round(self.served, 4),
            "unit": "served",
            "peer": "bar",
            "peer_value": SERVED_MIN,
            "ratio": round(self.served / SERVED_MIN, 3),
            "parameter": self.parameter,
            "parameter_value": self.value,
            "parameter_unit": self.unit,
            "worker_mrole_row": self.worker,
            "verifier_mrole_row": self.verifier,
            "closed_lie_jobs": self.closed if isfinite(self.closed) else None,
            "opened_lie_jobs": self.opened if isfinite(self.opened) else None,
            "breaks": list(self.breaks),
            "missed": list(self.breaks) if self.is_shipped else [],
        }


def sweep(setting: Setting, seed: int) -> Iterator[Point]:
    """Half of the clients ask in mode `individual`."""
    params = setting.params
    knobs: tuple[tuple[str, float, str, Turn], ...] = (
        ("leaves drawn", params.sample_bp / 100, "%", with_sample),
        ("bond of a worker", params.get_bond_min("inference") / GRAINS_PER_ROLE, "ROLE", with_bond),
        ("share slashed", params.slash_bp / 100, "%", with_slash),
        ("price of a row", setting.price / MILLI, "mROLE", with_price),
    )
    for parameter, shipped, unit, turn in knobs:
        for factor in FACTORS:
            value = min(shipped * factor, 100) if unit == "%" else shipped * factor
            yield play_point(parameter, value, unit, factor == 1, turn(setting, value), seed)


def play_point(parameter: str, value: float, unit: str, is_shipped: bool, setting: Setting, seed: int) -> Point:
    network = play(setting, seed)
    fee = setting.rows * setting.price
    served = compute_served(network)

    def earn(kind: Running) -> float:
        return (compute_pay(network, kind) - setting.costs.row) / MILLI if served else 0.0

    bond = setting.params.get_bond_min("inference")
    closed, opened = (expect_loss(network, stake) / fee if network.batches else 0.0 for stake in (0, bond))
    return Point(parameter, value, unit, is_shipped, served, earn(Worker), earn(Verifier), closed, opened)
