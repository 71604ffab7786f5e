"""Who may come in: caps on connections in total, per address and per block, with room kept for ourselves and friends.

`Doors` only counts and decides; the host knocks, lets in and hangs up. Pure.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from p2p.addresses import Trusted, compute_block


@dataclass(frozen=True)
class HostLimits:
    """What strangers may take. For addresses in `trusted` nothing is counted per address or block.

    Of `connections_max` inbound ones leave `outbound_reserved` to peers we dial, and inbound ones of strangers leave
    `known_reserved` more to peers we know; never more than a quarter of the whole for each. A block is a /24 of IPv4, a
    /64 of IPv6.
    """

    connections_max: int = 128
    per_address_max: int = 16
    per_block_max: int = 32
    outbound_reserved: int = 16
    known_reserved: int = 16
    half_open_max: int = 64
    handshake_s: float = 3.0
    dial_s: float = 3.0
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Held:
    """One living connection. `address` is the other side's IP."""

    address: str
    is_inbound: bool
    is_known: bool


class Doors:
    """Counts callers. Reasons for a refusal are single words, for counters; the empty one means come in."""

    def __init__(self, limits: HostLimits) -> None:
        self.half_open: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()  # by reason; as many as there are reasons
        self._limits = limits
        self._trusted = Trusted(limits.trusted)
        quarter = limits.connections_max // 4
        self._inbound_max = limits.connections_max - min(limits.outbound_reserved, quarter)
        self._strangers_max = self._inbound_max - min(limits.known_reserved, quarter)

    def is_trusted(self, address: str) -> bool:
        return self._trusted.covers(address)

    def begin(self, address: str) -> None:
        """A handshake starts."""
        self.half_open[address] += 1

    def end(self, address: str) -> None:
        """It ended, one way or the other."""
        self.half_open -= Counter((address,))

    def check_knock(self, address: str, held: Iterable[Held]) -> str:
        """Why a fresh connection from this address gets no handshake; empty when it does."""
        if self.half_open.total() >= self._limits.half_open_max:
            return "half_open"
        there = list(held)
        inbound = sum(guest.is_inbound for guest in there) + self.half_open.total()
        if inbound >= self._inbound_max or len(there) + self.half_open.total() >= self._limits.connections_max:
            return "full"
        if self.is_trusted(address):
            return ""
        at = self.half_open + Counter(guest.address for guest in there)
        if at[address] >= self._limits.per_address_max:
            return "address"
        block = compute_block(address)
        if sum(count for other, count in at.items() if compute_block(other) == block) >= self._limits.per_block_max:
            return "block"
        return ""

    def check_stranger(self, held: Iterable[Held]) -> str:
        """Why a peer nobody knows does not stay once it has said who it is; empty when it does."""
        strangers = sum(guest.is_inbound and not guest.is_known for guest in held)
        return "strangers" if strangers >= self._strangers_max else ""
