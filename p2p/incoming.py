"""What peers send, each in turn and for a bounded time: from their streams to the router."""

import time
from collections import deque
from collections.abc import Callable
from typing import cast

import trio
from libp2p.network.stream.net_stream import NetStream

from p2p.gossipsub import Blamed, Continue, Effect, Event, Received, Resumed, StreamEnded
from p2p.gossipsub.packets import MALFORMED
from p2p.inbound import Inbound
from p2p.muxed_stream import MuxedStream
from p2p.peer_ids import to_node
from p2p.signature_checks import SignatureChecks
from p2p.turns import Turns

WORK_S_MAX = 0.01  # given to what peers sent, between two turns of the loop
PACKETS_IN_A_ROW = 32  # of one peer, before the next one's


class Incoming:
    """`do` hands the router an event and carries out its effects, which it returns. `on_fault` is told what a peer did.

    While there is no room for more deliveries, or a peer has its share of `signatures` waiting, packets stay here.
    """

    def __init__(
        self,
        do: Callable[[Event], list[Effect]],
        on_fault: Callable[[bytes, str], None],
        is_refused: Callable[[bytes], bool],
        has_room: Callable[[], bool],
        signatures: SignatureChecks,
        turns: Turns,
    ) -> None:
        self._do = do
        self._on_fault = on_fault
        self._is_refused = is_refused
        self._has_room = has_room
        self._signatures = signatures
        self._turns = turns
        self._inbound: dict[bytes, Inbound] = {}
        self._ready: deque[Inbound] = deque()
        self._held_back: list[Inbound] = []  # until some of their messages are verified

    def __len__(self) -> int:
        """Peers whose stream is heard."""
        return len(self._inbound)

    @property
    def has_work(self) -> bool:
        """Whether anything waits for `work`."""
        return bool(self._ready) or self._signatures.has_work

    def work(self) -> None:
        """Hand the router what peers sent, each in turn, for WORK_S_MAX seconds at most."""
        until_s = time.perf_counter() + WORK_S_MAX
        ready = self._ready
        while ready and self._has_room():
            inbound = ready.popleft()
            if self._signatures.is_full(inbound.node):
                self._held_back.append(inbound)
                continue
            self._work_off(inbound)
            if inbound.has_work:
                ready.append(inbound)
            else:
                inbound.is_ready = False
            if time.perf_counter() > until_s:
                break
        self._signatures.settle()
        held_back, self._held_back = self._held_back, []
        for inbound in held_back:
            (self._held_back if self._signatures.is_full(inbound.node) else ready).append(inbound)
        if self._signatures.has_work:
            self._turns.hurry()  # nothing is gained by waiting for more

    def _finish(self, inbound: Inbound) -> None:
        """A peer or its stream is gone: what came before still counts, as far as there is time for it."""
        until_s = time.perf_counter() + WORK_S_MAX
        while inbound.has_work and time.perf_counter() < until_s:
            self._work_off(inbound)
            self._signatures.settle()
        inbound.end()

    def _work_off(self, inbound: Inbound) -> None:
        node, packets = inbound.node, inbound.packets
        if self._is_refused(node):
            inbound.end("the peer is refused")
        for _ in range(PACKETS_IN_A_ROW):
            if self._signatures.is_full(node):
                break
            if inbound.is_cut:
                effects = self._do(Resumed(node))
            elif packets:
                effects = self._do(Received(node, inbound.take_packet()))
            else:
                break
            inbound.is_cut = bool(effects) and type(effects[-1]) is Continue
        inbound.settle()

    def _note_ready(self, inbound: Inbound) -> None:
        if not inbound.is_ready:
            inbound.is_ready = True
            self._ready.append(inbound)
            self._turns.ring()
        if inbound.is_plenty:
            self._turns.hurry()

    def end_stream(self, node: bytes) -> None:
        """What this peer sends is no gossip."""
        if (inbound := self._inbound.get(node)) is not None:
            inbound.end()

    def end(self, node: bytes) -> None:
        """The peer is gone."""
        if (inbound := self._inbound.pop(node, None)) is not None:
            self._finish(inbound)

    def note_beat(self) -> None:
        """A heartbeat has passed: end streams that for too long bring no whole packet."""
        for inbound in list(self._inbound.values()):
            inbound.note_beat()

    async def take_stream(self, stream: NetStream) -> None:
        """Hear one peer until its stream ends. A malformed packet costs the stream and standing, never more."""
        node = to_node(stream.muxed_conn.peer_id)
        # Only the newest stream speaks for the peer: an older one may end after it.
        if (older := self._inbound.get(node)) is not None:
            older.end()
            self._do(StreamEnded(node))
        inbound = self._inbound[node] = Inbound(node, cast(MuxedStream, stream.muxed_stream), self._note_ready)
        try:
            inbound.begin()
            await inbound.ended.wait()
            if inbound.fault:
                self._do(Blamed(node, MALFORMED))
                self._on_fault(node, f"malformed gossip packet: {inbound.fault}")
        finally:
            if self._inbound.get(node) is inbound:
                self._finish(inbound)
                del self._inbound[node]
                self._do(StreamEnded(node))
            with trio.CancelScope(shield=True):
                await stream.reset()
