"""What every benchmark reports: named figures, each beside a peer or a ceiling measured in the same run."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

Note = Callable[[str], None]  # tells people how far a benchmark is

# Units in which less is better: there the ratio is turned round, so that above 1 always means better than the peer.
LESS_IS_BETTER = frozenset({"us", "ms", "s", "MB", "MB/h"})


@dataclass(frozen=True)
class Figure:
    """One figure. `name` is stable; `ratio` above 1 means better than the peer."""

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    ratio: float

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def format(self) -> str:
        """A line for people."""
        values = f"{self.value:>12} {self.unit:6} {self.peer} {self.peer_value:>12}"
        return f"{self.name:28} {values}  {self.ratio:>6}x"


def compare(name: str, value: float, unit: str, peer: str, peer_value: float) -> Figure:
    """A figure beside its peer's.

    >>> compare("connect", 5.0, "ms", "py-libp2p", 250.0).ratio
    50.0
    """
    upper, lower = (peer_value, value) if unit in LESS_IS_BETTER else (value, peer_value)
    ratio = round(upper / lower, 2) if lower else 0.0
    return Figure(name, round(value, 3), unit, peer, round(peer_value, 3), ratio)
