"""An edge: the value of a parameter at which honest work stops to pay, to be covered by a bond, or to beat a lie.

Each is computed twice: from the ledger's own functions, and from networks played on the ledger.
"""

from dataclasses import dataclass
from typing import Any

TOLERANCE = 1.6  # between arithmetic and what is played, either way
EDGE_COLUMNS = "parameter|shipped|breaks|by arithmetic|as played|on the safe side|verdict"


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

    def format_cells(self) -> list[str]:
        shipped, arithmetic, played = (
            f"{value:.4g} {self.unit}".strip() for value in (self.shipped, self.arithmetic, self.played)
        )
        return [
            self.parameter,
            shipped,
            self.breaks,
            arithmetic,
            played,
            f"{self.distance:,.3g}x",
            "; ".join(self.missed) or "holds",
        ]

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
        }
