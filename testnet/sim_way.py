"""One direction of one connection between simulated hosts: when what is sent arrives, and what faults do to that.

The rules are those of `p2p.delay_line`, which does the same to the bytes of real connections: late by delay and jitter,
one after the other within the bandwidth, lost segments sent again; a stall holds everything back, a blackhole loses it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2p.delay_line import CLEAR, RTO_S, RTO_S_MAX, SEGMENT_BYTES, Silence
from protocol.types import BP

if TYPE_CHECKING:
    from testnet.sim_links import Fabric
    from testnet.sim_net import SimNet

RTO_MS, RTO_MS_MAX = int(RTO_S * 1_000), int(RTO_S_MAX * 1_000)


@dataclass
class Parcel:
    """Something under way: how large it is, and what happens when it arrives."""

    size: int
    in_order: bool  # behind everything else that was sent in order
    late_ms: int
    arrive: Callable[[], None]


class Way:
    """From `source` to `target`, for as long as they are connected."""

    def __init__(self, fabric: "Fabric", source: "SimNet", target: "SimNet") -> None:
        self.source = source
        self.target = target
        self.dice = fabric.get_dice(source.name, target.name)
        self.conditions = CLEAR
        self.has_lost = False  # bytes of a stream, which cannot go on after that
        self.silent_ms: int | None = None  # since when nothing comes through
        self._fabric = fabric
        self._kernel = fabric.kernel
        self._in_flight: dict[int, Parcel] = {}  # by number, in the order in which they were sent
        self._count = 0
        self._round = 0  # of arrivals that count: a stall undoes those that were planned
        self._last_ms = 0  # when the newest of those in order arrives
        self._sent_us = 0  # when the last byte has left, where bandwidth is limited

    def send(self, size: int, arrive: Callable[[], None], *, in_order: bool = False, late_ms: int = 0) -> None:
        """Have `arrive` called at the target, unless the connection ends before. `late_ms` comes on top."""
        if self.conditions.silence >= Silence.BLACKHOLE:
            self.has_lost = True
            return
        self._count += 1
        self._in_flight[self._count] = Parcel(size, in_order, late_ms, arrive)
        if self.conditions.silence is Silence.NONE:
            self._plan_arrival(self._count)

    def change(self) -> None:
        """Faults have begun or ended: from now on the way is as the plan says."""
        was = self.conditions.silence
        self.conditions = self._fabric.get_conditions(self.source.name, self.target.name)
        silence = self.conditions.silence
        if silence is Silence.NONE and not self._fabric.is_paused(self.source.name):
            self.silent_ms = None
        elif self.silent_ms is None:
            self.silent_ms = self._kernel.now_ms
        if silence is was:
            return
        self._round += 1
        if silence >= Silence.BLACKHOLE:
            self.has_lost = self.has_lost or bool(self._in_flight)
            self._in_flight.clear()
        elif silence is Silence.NONE:
            self._last_ms = self._sent_us = 0
            for number in self._in_flight:
                self._plan_arrival(number)

    def close(self) -> None:
        """The connection is gone, and with it what was on its way."""
        self._in_flight.clear()
        self._fabric.forget_way(self)

    def _plan_arrival(self, number: int) -> None:
        parcel = self._in_flight[number]
        at_ms = self._kernel.now_ms + self._draw_late_ms(parcel.size) + parcel.late_ms
        if parcel.in_order:
            at_ms = self._last_ms = max(self._last_ms, at_ms)
        self._kernel.at(at_ms, self._arrive, number, self._round)

    def _draw_late_ms(self, size: int) -> int:
        late_ms = self._fabric.draw_delay_ms(self.source, self.target)
        conditions = self.conditions
        if conditions.loss_bp:
            segments = max(1, -(-size // SEGMENT_BYTES))
            late_ms += max(self._draw_resend_ms(conditions.loss_bp) for _ in range(segments))
        if conditions.bytes_per_s:
            now_us = self._kernel.now_ms * 1_000
            self._sent_us = max(self._sent_us, now_us) + size * 1_000_000 // conditions.bytes_per_s
            late_ms += -(-(self._sent_us - now_us) // 1_000)
        return late_ms

    def _draw_resend_ms(self, loss_bp: int) -> int:
        late_ms, pause_ms = 0, RTO_MS
        while late_ms < RTO_MS_MAX and self.dice.randrange(BP) < loss_bp:
            late_ms += pause_ms
            pause_ms *= 2
        return late_ms

    def _arrive(self, number: int, planned: int) -> None:
        if planned != self._round or number not in self._in_flight:
            return
        if self._fabric.defer(self.target.name, self._arrive, number, planned):
            return
        parcel = self._in_flight.pop(number)
        if not self.target.is_closed:
            parcel.arrive()
