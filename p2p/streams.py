"""Requests and answers over streams that stay open: one per peer and protocol, many requests at once on it.

`frames` says what goes over them. The asker opens the stream and numbers its requests; answers come in any order.
Lengths are checked before a body is read, every wait has a deadline, and each request ends in exactly one `Answered` or
`Unanswered`. What a peer is told wants no answer and has no outcome; until it is dealt with it counts as a request.
"""

import heapq
import itertools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import trio
from libp2p.network.stream.net_stream import NetStream

from p2p.frame_stream import FrameStream, Gathering
from p2p.frames import ANSWER, ASK, REFUSAL, TELL, BadFrame, Frame, Header
from p2p.host_streams import StreamRefused
from p2p.muxed_stream import MuxedStream
from p2p.net import STREAM_BYTES_MAX, Answered, Asked, NetEvent, Unanswered
from p2p.peer_ids import to_node

logger = logging.getLogger(__name__)

REQUESTS_MAX = 4_096  # our own, under way
PER_PEER_MAX = 64  # one peer's, waiting for our answer
PER_PEER_BYTES_MAX = 16 * 1024 * 1024  # of such requests together
REPLY_S = 60.0  # an `Asked` not answered by then is forgotten
REASON_BYTES_MAX = 256


@dataclass
class Channel:
    """Our requests to one peer on one protocol: sent or about to be, by number."""

    wire: FrameStream
    waiting: dict[int, str] = field(default_factory=dict)


class Requests:
    """The asking side."""

    def __init__(
        self,
        connect: Callable[[bytes], Awaitable[bool]],
        open_stream: Callable[[bytes, str], Awaitable[NetStream]],
        refuse: Callable[[NetEvent], None],
        emit: Callable[[NetEvent], None],
        tasks: trio.Nursery,
        gathering: Gathering,
    ) -> None:
        """`refuse` hears of requests that end within the call that makes them, `emit` of all others."""
        self._connect = connect
        self._open_stream = open_stream
        self._refuse = refuse
        self._emit = emit
        self._tasks = tasks
        self._gathering = gathering
        self._channels: dict[tuple[bytes, str], Channel] = {}
        self._under_way: dict[str, tuple[Channel, int]] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._numbers = itertools.count()
        self._sending: Counter[bytes] = Counter()
        self._wake = trio.Event()

    def ask(self, peer: bytes, protocol: str, data: bytes, token: str, timeout_ms: int) -> None:
        """Send a request, opening the stream and dialling the peer as needed."""
        if token in self._under_way or len(self._under_way) >= REQUESTS_MAX or len(data) > STREAM_BYTES_MAX:
            self._refuse(Unanswered(token, _explain_refusal(token in self._under_way, len(data))))
            return
        channel = self._get_channel(peer, protocol)
        number = next(self._numbers) % 2**32
        if not channel.wire.push(ASK, number, data):
            self._refuse(Unanswered(token, "too much is waiting to be sent to this peer"))
            return
        channel.waiting[number] = token
        self._under_way[token] = channel, number
        heapq.heappush(self._deadlines, (trio.current_time() + timeout_ms / 1000, token))
        if self._deadlines[0][1] == token:
            self._wake.set()

    def tell(self, peer: bytes, protocol: str, data: bytes) -> None:
        """As `ask`, but nobody answers, and nobody hears what became of it."""
        if len(data) <= STREAM_BYTES_MAX:
            self._get_channel(peer, protocol).wire.push(TELL, 0, data)

    def _get_channel(self, peer: bytes, protocol: str) -> Channel:
        channel = self._channels.get((peer, protocol))
        if channel is None:
            channel = self._channels[peer, protocol] = Channel(FrameStream(peer, self._sending, self._gathering))
            self._tasks.start_soon(self._run, peer, protocol, channel)
        return channel

    async def expire_forever(self) -> None:
        """End requests whose time is up, until cancelled."""
        while True:
            now = trio.current_time()
            while self._deadlines and self._deadlines[0][0] <= now:
                self._end(heapq.heappop(self._deadlines)[1], "timeout: no answer in time")
            self._wake = trio.Event()
            # What was answered needs no deadline: left here, it would wake us once for every request.
            while self._deadlines and self._deadlines[0][1] not in self._under_way:
                heapq.heappop(self._deadlines)
            with trio.move_on_at(self._deadlines[0][0] if self._deadlines else float("inf")):
                await self._wake.wait()

    def get_sizes(self) -> dict[str, int]:
        """How much is remembered, by name."""
        return {"asking": len(self._under_way), "channels": len(self._channels), "deadlines": len(self._deadlines)}

    def end_all(self, reason: str) -> None:
        """Every request under way ends now."""
        for token in list(self._under_way):
            self._end(token, reason)

    def _end(self, token: str, reason: str, answer: bytes | None = None) -> None:
        found = self._under_way.pop(token, None)
        if found is None:
            return  # ended before
        channel, number = found
        channel.waiting.pop(number, None)
        self._emit(Unanswered(token, reason) if answer is None else Answered(token, answer))

    async def _run(self, peer: bytes, protocol: str, channel: Channel) -> None:
        reason = "the connection ended"
        try:
            if await self._connect(peer):
                stream = await self._open_stream(peer, protocol)
                reason = await self._use(stream, channel)
            else:
                reason = "no route: not connected, and no known address answers"
        except StreamRefused as error:
            reason = str(error)
        finally:
            if self._channels.get((peer, protocol)) is channel:
                del self._channels[peer, protocol]
            channel.wire.clear()
            for token in list(channel.waiting.values()):
                self._end(token, reason)

    async def _use(self, stream: NetStream, channel: Channel) -> str:
        """Send and receive until the stream ends, and say why it did."""
        try:
            muxed = cast(MuxedStream, stream.muxed_stream)
            return (await channel.wire.carry(muxed, lambda header: True, partial(self._take, channel))).reason
        finally:
            with trio.CancelScope(shield=True):
                await stream.reset()

    def _take(self, channel: Channel, frame: Frame) -> None:
        token = channel.waiting.get(frame.number)
        if token is None:
            return  # late: it was given up
        if frame.kind == ANSWER:
            self._end(token, "", frame.body)
        else:
            self._end(token, "refused: " + frame.body[:REASON_BYTES_MAX].decode("utf-8", "replace"))


def _explain_refusal(is_repeated: bool, size: int) -> str:
    if size > STREAM_BYTES_MAX:
        return f"too large: {size} bytes, at most {STREAM_BYTES_MAX}"
    return "a request with this token is under way" if is_repeated else "too many requests under way"


@dataclass
class Open:
    """A peer's request that waits for our answer. None is sent without a number: it has only told us something."""

    wire: FrameStream
    number: int | None
    size: int
    until_s: float


class Answers:
    """The serving side."""

    def __init__(
        self, emit: Callable[[NetEvent], None], fault: Callable[[bytes, str, bool], None], gathering: Gathering
    ) -> None:
        self._emit = emit
        self._gathering = gathering
        self._fault = fault
        self._open: dict[str, Open] = {}  # oldest first; bounded by peers x PER_PEER_MAX
        self._held: dict[bytes, int] = {}  # questions, by peer
        self._held_bytes: dict[bytes, int] = {}
        self._sending: Counter[bytes] = Counter()
        self._tokens = itertools.count(1)

    async def take_stream(self, protocol: str, stream: NetStream) -> None:
        """Serve one peer's stream until it ends."""
        wire = FrameStream(to_node(stream.muxed_conn.peer_id), self._sending, self._gathering)
        asking = _Asking(self, protocol, wire)
        try:
            ended = await wire.carry(cast(MuxedStream, stream.muxed_stream), asking.begin, asking.take)
            logger.debug("a stream of %s ended: %s", protocol, ended.reason)
            if ended.fault:
                self._fault(wire.peer, ended.fault, ended.is_violation)
        finally:
            asking.end()
            for token in [token for token, asked in self._open.items() if asked.wire is wire]:
                self._close(token)
            wire.clear()
            with trio.CancelScope(shield=True):
                await stream.reset()

    def begin(self, wire: FrameStream, header: Header) -> bool:
        """Whether there is room for what a peer begins to ask. Counted before it is here: it may begin many."""
        if header.kind not in (ASK, TELL):
            raise BadFrame("only requests may be sent on a stream its sender opened")
        self._expire()
        held_bytes = self._held_bytes.get(wire.peer, 0) + header.length
        if self._held.get(wire.peer, 0) >= PER_PEER_MAX or held_bytes > PER_PEER_BYTES_MAX:
            if header.kind == ASK:
                wire.push(REFUSAL, header.number, b"busy: too many of your requests wait here")
            return False
        self._held[wire.peer] = self._held.get(wire.peer, 0) + 1
        self._held_bytes[wire.peer] = held_bytes
        return True

    def take(self, protocol: str, wire: FrameStream, frame: Frame) -> None:
        token = f"asked-{next(self._tokens)}"
        number = frame.number if frame.kind == ASK else None
        self._open[token] = Open(wire, number, len(frame.body), trio.current_time() + REPLY_S)
        self._emit(Asked(protocol, wire.peer, frame.body, token))

    def let_go(self, peer: bytes, size: int) -> None:
        """What was counted when it began is not here any more, or never came whole."""
        self._held[peer] -= 1
        self._held_bytes[peer] -= size
        if not self._held[peer]:
            del self._held[peer], self._held_bytes[peer]

    def reply(self, token: str, data: bytes) -> None:
        self._expire()
        asked = self._close(token)
        if asked is None or asked.number is None:
            return
        if len(data) > STREAM_BYTES_MAX:
            asked.wire.push(REFUSAL, asked.number, f"the answer has {len(data)} bytes, too many".encode())
        elif not asked.wire.push(ANSWER, asked.number, data):
            asked.wire.push(REFUSAL, asked.number, b"busy: you do not read what waits for you")

    def _close(self, token: str) -> Open | None:
        asked = self._open.pop(token, None)
        if asked is not None:
            self.let_go(asked.wire.peer, asked.size)
        return asked

    def _expire(self) -> None:
        now_s = trio.current_time()
        while self._open and (token := next(iter(self._open))) and self._open[token].until_s <= now_s:
            self._close(token)

    def get_sizes(self) -> dict[str, int]:
        """How much is remembered, by name."""
        return {"asked": len(self._open), "askers": len(self._held) + len(self._held_bytes)}


class _Asking:
    """What one stream of a peer's is about to ask."""

    def __init__(self, answers: Answers, protocol: str, wire: FrameStream) -> None:
        self._answers = answers
        self._protocol = protocol
        self._wire = wire
        self._begun: Header | None = None  # counted, and not whole yet

    def begin(self, header: Header) -> bool:
        is_taken = self._answers.begin(self._wire, header)
        self._begun = header if is_taken else None
        return is_taken

    def take(self, frame: Frame) -> None:
        self._begun = None
        self._answers.take(self._protocol, self._wire, frame)

    def end(self) -> None:
        if self._begun is not None:
            self._answers.let_go(self._wire.peer, self._begun.length)
