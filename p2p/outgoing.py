"""What goes out to peers: an outbox for each, and the stream it leaves on for as long as the peer is connected."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

import trio
from libp2p.network.stream.net_stream import NetStream

from p2p.gossipsub import SendControl, SendMessage, SendSubscriptions, TopicCounts
from p2p.host_streams import StreamRefused
from p2p.muxed_stream import MuxedStream
from p2p.outbox import Outbox
from p2p.turns import Turns

WRITE_BEATS_MAX = 30  # a peer that reads nothing for so many heartbeats loses the stream
RETRY_S = 0.1
RETRY_S_MAX = 5.0


class Outgoing:
    """`open_stream` opens one to a peer; `on_renewed` hears of each after the first."""

    def __init__(
        self,
        open_stream: Callable[[bytes], Awaitable[NetStream]],
        on_renewed: Callable[[bytes], object],
        turns: Turns,
        counts: dict[str, TopicCounts],
    ) -> None:
        self._open_stream = open_stream
        self._on_renewed = on_renewed
        self._turns = turns
        self._counts = counts
        self._outboxes: dict[bytes, Outbox] = {}
        self._scopes: dict[bytes, trio.CancelScope] = {}
        self._streams: dict[Outbox, MuxedStream] = {}  # on which an outbox is sent
        self._stirred: list[Outbox] = []

    def get_sizes(self) -> dict[str, int]:
        return {
            "outboxes": len(self._outboxes),
            "feeders": len(self._scopes),
            "queued": sum(map(len, self._outboxes.values())),
        }

    # What the router wants sent

    def send(self, effect: SendMessage) -> int:
        """Queue it; for how many peers."""
        counts = self._counts.get(effect.topic) or self._counts.setdefault(effect.topic, TopicCounts())
        waiting = (effect.packet, counts)
        sent = 0
        for node in effect.peers:
            outbox = self._outboxes.get(node)
            if outbox is not None and outbox.push(waiting, effect.priority):
                sent += 1
                if outbox.is_plenty:
                    self._turns.hurry()
            else:
                counts.dropped += 1
        counts.bytes_sent += sent * len(effect.packet)
        return sent

    def send_control(self, effect: SendControl) -> None:
        outbox = self._outboxes.get(effect.peer)
        if outbox is not None:
            outbox.push_control(effect.body, effect.is_gossip)

    def send_subscriptions(self, effect: SendSubscriptions) -> None:
        outbox = self._outboxes.get(effect.peer)
        if outbox is not None:
            outbox.push_subscriptions(effect.packet)

    # Each turn of the loop

    @property
    def has_work(self) -> bool:
        """Whether anything waits for `flush`."""
        return bool(self._stirred)

    def flush(self) -> None:
        """Send what has gathered: one write per connection."""
        stirred, self._stirred = self._stirred, []
        for outbox in stirred:
            outbox.is_stirred = False
            if (stream := self._streams.get(outbox)) is not None:
                stream.flush()

    def _note_stirred(self, outbox: Outbox) -> None:
        self._stirred.append(outbox)
        self._turns.ring()

    # Peers

    def begin(self, node: bytes) -> Callable[[], Awaitable[None]]:
        """A peer is connected: what to run for it, until `end`."""
        scope = self._scopes[node] = trio.CancelScope()
        outbox = self._outboxes[node] = Outbox(self._note_stirred)
        # Handed over: by the time the task starts the peer may be gone again, and its outbox with it.
        return partial(self._feed_until, scope, node, outbox)

    def end(self, node: bytes) -> None:
        """The peer is gone, or going: stop feeding it."""
        if (scope := self._scopes.pop(node, None)) is not None:
            scope.cancel()
        self._outboxes.pop(node, None)

    def reset_stuck(self) -> None:
        """A heartbeat has passed: end streams on which a peer takes nothing."""
        for outbox, stream in list(self._streams.items()):
            outbox.idle_beats += outbox.is_waiting
            if outbox.idle_beats > WRITE_BEATS_MAX:
                stream.reset_now()

    async def _feed_until(self, scope: trio.CancelScope, node: bytes, outbox: Outbox) -> None:
        with scope:
            await trio.lowlevel.checkpoint()  # the peer may have gone before this task had its first turn
            pause = RETRY_S
            is_first = True
            while True:
                try:
                    stream = await self._open_stream(node)
                except StreamRefused:
                    await trio.sleep(pause)
                    pause = min(2 * pause, RETRY_S_MAX)
                    continue
                pause = RETRY_S
                if not is_first:
                    outbox.clear()
                    self._on_renewed(node)
                is_first = False
                await self._feed(outbox, stream)
                await trio.sleep(RETRY_S)

    async def _feed(self, outbox: Outbox, stream: NetStream) -> None:
        """Send an outbox on a stream for as long as that lasts. Nothing is ever read on it but its end."""
        ended = trio.Event()
        muxed = cast(MuxedStream, stream.muxed_stream)
        muxed.push_to(lambda data: None, lambda reason: ended.set())
        muxed.feed_from(outbox.produce)
        self._streams[outbox] = muxed
        muxed.has_more()
        try:
            await ended.wait()  # it is opened again for as long as the peer is connected
        finally:
            del self._streams[outbox]
            with trio.CancelScope(shield=True):
                await stream.reset()
