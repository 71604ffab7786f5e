"""Requests and answers over streams that stay open: one per peer and protocol, many requests at once on it.

`frames` says what goes over them. The asker opens the stream and numbers its requests; answers come in any order.
Lengths are checked before a body is read, every wait has a deadline, and each request ends in exactly one `Answered` or
`Unanswered`.
"""

import heapq
import itertools
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio
from libp2p.io.exceptions import IOException
from libp2p.network.stream.net_stream import NetStream

from p2p.frames import ANSWER, ASK, REFUSAL, BadFrame, Frame, Frames, write_frame
from p2p.host import StreamRefused, to_node
from p2p.net import STREAM_BYTES_MAX, Answered, Asked, NetEvent, Unanswered

logger = logging.getLogger(__name__)

REQUESTS_MAX = 4_096  # our own, under way
PER_PEER_MAX = 64  # one peer's, waiting for our answer
PER_PEER_BYTES_MAX = 16 * 1024 * 1024  # of such requests together
REPLY_S = 60.0  # an `Asked` not answered by then is forgotten
BODY_S = 30.0  # for a body to arrive whole after its header
CHUNK = 64 * 1024 - 12  # the largest yamux frame that every implementation takes
OUT_BYTES_MAX = 16 * 1024 * 1024  # waiting on one stream
REASON_BYTES_MAX = 256


@dataclass
class Wire:
    """One open stream and what waits to be written to it."""

    peer: bytes
    frames: deque[bytes] = field(default_factory=deque)
    size: int = 0
    wake: trio.Event = field(default_factory=trio.Event)

    def push(self, kind: int, number: int, body: bytes) -> bool:
        if self.size + len(body) > OUT_BYTES_MAX:
            return False
        frame = write_frame(kind, number, body)
        self.frames.append(frame)
        self.size += len(frame)
        self.wake.set()
        return True

    async def write_to(self, stream: NetStream) -> None:
        """Write frames as they come, in chunks, until the stream breaks or this is cancelled between two."""
        while True:
            while not self.frames:
                self.wake = trio.Event()
                await self.wake.wait()
            frame = self.frames.popleft()
            self.size -= len(frame)
            for start in range(0, len(frame), CHUNK):
                await stream.write(frame[start : start + CHUNK])


class Reader:
    """Frames off a stream, several per read when they are small."""

    def __init__(self, stream: NetStream) -> None:
        self._stream = stream
        self._frames = Frames()

    async def read(self) -> Frame:
        """The next frame. IOException at the end, BadFrame when it breaks a rule or its body takes too long."""
        while not self._frames.has_header:
            await self._read_more()
        with trio.move_on_after(BODY_S):
            while (frame := self._frames.take()) is None:
                await self._read_more()
            return frame
        raise BadFrame(f"a body took more than {BODY_S} s")

    async def _read_more(self) -> None:
        data = await self._stream.read(CHUNK)
        if not data:
            raise IOException("the stream ended")
        self._frames.feed(data)


@dataclass
class Channel:
    """Our requests to one peer on one protocol: sent or about to be, by number."""

    wire: Wire
    waiting: dict[int, str] = field(default_factory=dict)


class Requests:
    """The asking side."""

    def __init__(
        self,
        connect: Callable[[bytes], Awaitable[bool]],
        open_stream: Callable[[bytes, str], Awaitable[NetStream]],
        emit: Callable[[NetEvent], None],
        tasks: trio.Nursery,
    ) -> None:
        self._connect = connect
        self._open_stream = open_stream
        self._emit = emit
        self._tasks = tasks
        self._channels: dict[tuple[bytes, str], Channel] = {}
        self._under_way: dict[str, tuple[Channel, int]] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._numbers = itertools.count()
        self._wake = trio.Event()

    def ask(self, peer: bytes, protocol: str, data: bytes, token: str, timeout_ms: int) -> None:
        """Send a request, opening the stream and dialling the peer as needed."""
        if token in self._under_way or len(self._under_way) >= REQUESTS_MAX or len(data) > STREAM_BYTES_MAX:
            self._emit(Unanswered(token, _explain_refusal(token in self._under_way, len(data))))
            return
        channel = self._channels.get((peer, protocol))
        if channel is None:
            channel = self._channels[peer, protocol] = Channel(Wire(peer))
            self._tasks.start_soon(self._run, peer, protocol, channel)
        number = next(self._numbers) % 2**32
        if not channel.wire.push(ASK, number, data):
            self._emit(Unanswered(token, "too much is waiting to be sent to this peer"))
            return
        channel.waiting[number] = token
        self._under_way[token] = channel, number
        heapq.heappush(self._deadlines, (trio.current_time() + timeout_ms / 1000, token))
        self._wake.set()

    async def expire_forever(self) -> None:
        """End requests whose time is up, until cancelled."""
        while True:
            now = trio.current_time()
            while self._deadlines and self._deadlines[0][0] <= now:
                self._end(heapq.heappop(self._deadlines)[1], "timeout: no answer in time")
            self._wake = trio.Event()
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
            for token in list(channel.waiting.values()):
                self._end(token, reason)

    async def _use(self, stream: NetStream, channel: Channel) -> str:
        """Send and receive until the stream ends, and say why it did."""
        reason = "the connection ended"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.wire.write_to, stream)
                await self._read(stream, channel)
        except* IOException as error:
            reason = f"the stream broke: {error.exceptions[0]!r}"
        except* BadFrame as error:
            reason = f"the peer broke a rule: {error.exceptions[0]}"
        finally:
            with trio.CancelScope(shield=True):
                await stream.reset()
        return reason

    async def _read(self, stream: NetStream, channel: Channel) -> None:
        reader = Reader(stream)
        while True:
            kind, number, body = await reader.read()
            token = channel.waiting.get(number)
            if token is None:
                continue  # late: it was given up
            if kind == ANSWER:
                self._end(token, "", body)
            else:
                self._end(token, "refused: " + body[:REASON_BYTES_MAX].decode("utf-8", "replace"))


def _explain_refusal(is_repeated: bool, size: int) -> str:
    if size > STREAM_BYTES_MAX:
        return f"too large: {size} bytes, at most {STREAM_BYTES_MAX}"
    return "a request with this token is under way" if is_repeated else "too many requests under way"


@dataclass
class Open:
    """A peer's request that waits for our answer."""

    wire: Wire
    number: int
    size: int
    until_s: float


class Answers:
    """The serving side."""

    def __init__(self, emit: Callable[[NetEvent], None], fault: Callable[[bytes, str], None]) -> None:
        self._emit = emit
        self._fault = fault
        self._open: dict[str, Open] = {}  # oldest first; bounded by peers x PER_PEER_MAX
        self._held: Counter[bytes] = Counter()
        self._held_bytes: Counter[bytes] = Counter()
        self._tokens = itertools.count(1)

    async def take_stream(self, protocol: str, stream: NetStream) -> None:
        """Serve one peer's stream until it ends."""
        wire = Wire(to_node(stream.muxed_conn.peer_id))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wire.write_to, stream)
                await self._read(protocol, stream, wire)
        except* IOException as error:
            logger.debug("a stream of %s ended: %r", protocol, error)
        except* BadFrame as error:
            self._fault(wire.peer, str(error.exceptions[0]))
        finally:
            for token in [token for token, asked in self._open.items() if asked.wire is wire]:
                self._close(token)
            with trio.CancelScope(shield=True):
                await stream.reset()

    async def _read(self, protocol: str, stream: NetStream, wire: Wire) -> None:
        reader = Reader(stream)
        while True:
            kind, number, body = await reader.read()
            if kind != ASK:
                raise BadFrame("only requests may be sent on a stream its sender opened")
            self._expire()
            if self._held[wire.peer] >= PER_PEER_MAX or self._held_bytes[wire.peer] + len(body) > PER_PEER_BYTES_MAX:
                wire.push(REFUSAL, number, b"busy: too many of your requests wait here")
                continue
            token = f"asked-{next(self._tokens)}"
            self._open[token] = Open(wire, number, len(body), trio.current_time() + REPLY_S)
            self._held[wire.peer] += 1
            self._held_bytes[wire.peer] += len(body)
            self._emit(Asked(protocol, wire.peer, body, token))

    def reply(self, token: str, data: bytes) -> None:
        self._expire()
        asked = self._close(token)
        if asked is None:
            return
        if len(data) > STREAM_BYTES_MAX:
            asked.wire.push(REFUSAL, asked.number, f"the answer has {len(data)} bytes, too many".encode())
        elif not asked.wire.push(ANSWER, asked.number, data):
            asked.wire.push(REFUSAL, asked.number, b"busy: you do not read what waits for you")

    def _close(self, token: str) -> Open | None:
        asked = self._open.pop(token, None)
        if asked is not None:
            self._held -= Counter((asked.wire.peer,))
            self._held_bytes -= Counter({asked.wire.peer: asked.size})
        return asked

    def _expire(self) -> None:
        now_s = trio.current_time()
        while self._open and (token := next(iter(self._open))) and self._open[token].until_s <= now_s:
            self._close(token)

    def get_sizes(self) -> dict[str, int]:
        """How much is remembered, by name."""
        return {"asked": len(self._open), "askers": len(self._held) + len(self._held_bytes)}
