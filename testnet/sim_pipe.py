"""A gossip stream between two simulated hosts, one direction: packets as bytes, in order, each after the link's delay.

It is as reliable as a real one: nothing on it is lost but what is still on its way when the connection or the stream
ends. Messages are lost before that, as when a queue overflows (`push`).
"""

from collections import deque
from typing import TYPE_CHECKING

from p2p.gossipsub.wire import Framer
from p2p.outbox import Outbox, Waiting
from protocol.types import BP

if TYPE_CHECKING:
    from testnet.sim_links import Fabric
    from testnet.sim_net import SimNet

RESEND_MS = 200
REOPEN_MS = 100  # as `RETRY_S` of the real shell


class Pipe:
    """Lives as long as the connection. What waits to be sent is in `outbox`, bounded as on real sockets."""

    def __init__(self, fabric: "Fabric", source: "SimNet", target: "SimNet") -> None:
        self.outbox = Outbox(lambda _: fabric.flush_later(self))
        self.framer = Framer()  # the target's
        self._fabric = fabric
        self._kernel = fabric.kernel
        self._source = source
        self._target = target
        self._link = fabric.get_link(source, target)
        self._in_flight: deque[bytes] = deque()
        self._last_ms = 0  # when the newest packet arrives: none overtakes another
        self._stream = 1  # number of the stream that is open, 0 when the connection is gone
        self._is_open = True

    def push(self, message: Waiting, priority: int) -> bool:
        """Queue a message; False when the queue is full. What the faults lose is counted only."""
        copies = self._draw_copies()
        if not copies:
            message[1].dropped += 1
        return all(self.outbox.push(message, priority) for _ in range(copies))

    def push_control(self, body: bytes, is_gossip: bool) -> None:
        """Queue a control body. The faults may take an IHAVE, which a full queue sheds first, but nothing else."""
        if not is_gossip or self._draw_copies():
            self.outbox.push_control(body, is_gossip)

    def flush(self) -> None:
        """Send what waits, as few packets as it fits in."""
        self.outbox.is_stirred = False
        if self._source.is_closed or not self._is_open:
            return
        while self.outbox.is_waiting:
            self._send(self.outbox.take_now())

    def _draw_copies(self) -> int:
        """How many copies of a message the faults let through: none, one or two."""
        plan = self._fabric.plan
        if plan.loss_bp and self._link.randrange(BP) < plan.loss_bp:
            return 0
        return 2 if plan.duplicate_bp and self._link.randrange(BP) < plan.duplicate_bp else 1

    def close(self) -> None:
        """The connection is gone, and with it what was on its way."""
        self._stream = 0
        self._is_open = False
        self._in_flight.clear()

    def reset(self) -> None:
        """The target ends the stream; the source opens another when it has noticed."""
        self._stream += 1
        self._is_open = False
        self._in_flight.clear()
        self.framer = Framer()
        self._kernel.after(self._fabric.draw_delay_ms(self._target, self._source) + REOPEN_MS, self._reopen)

    def _reopen(self) -> None:
        if self._stream and not self._source.is_closed:
            self._is_open = True
            self.outbox.clear()
            self._source.gossip.renew(self._target.node)
            self.flush()

    def _send(self, packet: bytes) -> None:
        delay_ms = self._fabric.draw_delay_ms(self._source, self._target)
        self._last_ms = max(self._last_ms, self._kernel.now_ms + delay_ms)
        self._in_flight.append(packet)
        self._kernel.at(self._last_ms, self._arrive, self._stream)

    def _arrive(self, stream: int) -> None:
        # Every packet has its own event and takes the oldest one along, so waiting behind a cut keeps the order.
        target = self._target
        if stream != self._stream or target.is_closed or not target.is_linked(self._source):
            return
        if self._fabric.is_cut(self._source, target):
            self._kernel.after(RESEND_MS, self._arrive, stream)
            return
        target.gossip.take_bytes(self._source.node, self, self._in_flight.popleft())
