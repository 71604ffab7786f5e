"""A gossip stream between two simulated hosts, one direction: packets as bytes, in order, over the way between them.

It is as reliable as a real one: nothing on it is lost but what is still on its way when the connection or the stream
ends. Messages are lost before that, as when a queue overflows (`push`).
"""

from functools import partial
from typing import TYPE_CHECKING

from p2p.gossipsub.wire import Framer
from p2p.outbox import Outbox, Waiting
from p2p.yamux_words import INITIAL_WINDOW
from protocol.types import BP
from testnet.sim_way import Way

if TYPE_CHECKING:
    from testnet.sim_links import Fabric

REOPEN_MS = 100  # as `RETRY_S` of the real shell


class Pipe:
    """Lives as long as the connection. What waits to be sent is in `outbox`, bounded as on real sockets."""

    def __init__(self, fabric: "Fabric", way: Way) -> None:
        self.outbox = Outbox(lambda _: fabric.flush_later(self))
        self.framer = Framer()  # the target's
        self._way = way
        self._fabric = fabric
        self._unread = 0  # bytes that were sent and have not arrived
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
        """Send what waits, as few packets as it fits in, up to a window of what has not arrived."""
        self.outbox.is_stirred = False
        if self._way.source.is_closed or not self._is_open:
            return
        while self.outbox.is_waiting and self._unread < INITIAL_WINDOW:
            packet = self.outbox.take_now()
            self._unread += len(packet)
            self._way.send(len(packet), partial(self._arrive, self._stream, packet), in_order=True)

    def _draw_copies(self) -> int:
        """How many copies of a message the faults let through: none, one or two."""
        plan, dice = self._fabric.plan, self._way.dice
        if plan.loss_bp and dice.randrange(BP) < plan.loss_bp:
            return 0
        return 2 if plan.duplicate_bp and dice.randrange(BP) < plan.duplicate_bp else 1

    def close(self) -> None:
        """The connection is gone."""
        self._stream = 0
        self._is_open = False

    def reset(self) -> None:
        """The target ends the stream; the source opens another when it has noticed."""
        self._stream += 1
        self._is_open = False
        self.framer = Framer()
        target, source = self._way.target, self._way.source
        target.get_way(source.node).send(0, self._reopen_later)

    def _reopen_later(self) -> None:
        self._fabric.kernel.after(REOPEN_MS, self._reopen, self._stream)

    def _reopen(self, stream: int) -> None:
        if stream == self._stream and not self._way.source.is_closed:
            self._is_open = True
            self._unread = 0
            self.outbox.clear()
            self._way.source.gossip.renew(self._way.target.node)
            self.flush()

    def _arrive(self, stream: int, packet: bytes) -> None:
        if stream != self._stream:
            return
        self._unread -= len(packet)
        if self.outbox.is_waiting:
            self._fabric.flush_later(self)
        self._way.target.gossip.take_bytes(self._way.source.node, self, packet)
