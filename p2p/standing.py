"""How peers stand with us: faults add up, fade with time, and too many at once mean we hang up for a while."""

import math
from collections.abc import Callable

FAULT = 10.0
REFUSED_AT = 100.0  # ten faults within seconds
HALF_LIFE_S = 30.0  # a refused peer may come back after about as long
PEERS_MAX = 4_096


class Standings:
    """Faults by node key, bounded: when full, the peer longest without one is forgotten. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._faults: dict[bytes, tuple[float, float]] = {}

    def blame(self, node: bytes, amount: float = FAULT) -> bool:
        """Count a fault; True when the peer is to be refused from now on."""
        total = self.get_faults(node) + amount
        self._faults.pop(node, None)  # so that the order is by the latest fault
        if len(self._faults) >= PEERS_MAX:
            del self._faults[next(iter(self._faults))]
        self._faults[node] = (total, self._clock())
        return self.is_refused(node)

    def get_faults(self, node: bytes) -> float:
        """What is left of a peer's faults by now."""
        amount, since = self._faults.get(node, (0.0, 0.0))
        return amount * math.exp2(-(self._clock() - since) / HALF_LIFE_S)

    def is_refused(self, node: bytes) -> bool:
        return node in self._faults and self.get_faults(node) >= REFUSED_AT
