"""Requests and answers over streams that stay open: one per peer and protocol, many requests at once on it.

`frames` says what goes over them. The asker opens the stream and numbers its requests; answers come in any order.
Lengths are checked before a body is read, every wait has a deadline, and each request ends in exactly one `Answered` or
`Unanswered`. What a peer is told wants no answer and has no outcome; until it is dealt with it counts as a request.
"""

import heapq
import itertools
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import trio
from libp2p.io.exceptions import IOException
from libp2p.network.stream.net_stream import NetStream

from p2p.frames import ANSWER, ASK, REFUSAL, TELL, BadFrame, Frames, Header, write_frame
from p2p.host_streams import StreamRefused
from p2p.net import STREAM_BYTES_MAX, Answered, Asked, NetEvent, Unanswered
from p2p.peer_ids import to_node

logger = logging.getLogger(__name__)

REQUESTS_MAX = 4_096  # our own, under way
PER_PEER_MAX = 64  # one peer's, waiting for our answer
PER_PEER_BYTES_MAX = 16 * 1024 * 1024  # of such requests together
REPLY_S = 60.0  # an `Asked` not answered by then is forgotten
FRAME_S = 30.0  # for a frame to arrive whole once its first byte is here
CHUNK = 64 * 1024 - 12  # the largest yamux frame that every implementation takes
OUT_BYTES_MAX = 16 * 1024 * 1024  # waiting to be sent to one peer, on all streams together
REASON_BYTES_MAX = 256


@dataclass
class Wire:
    """One open stream and what waits to be written to it. `waiting` counts bytes by peer, over all its streams."""

    peer: bytes
    waiting: Counter[bytes]
    frames: deque[bytes] = field(default_factory=deque)
    size: int = 0
    wake: trio.Event = field(default_factory=trio.Event)

    def push(self, kind: int, number: int, body: bytes) -> bool:
        if self.waiting[self.peer] + len(body) > OUT_BYTES_MAX:
            return False
        frame = write_frame(kind, number, body)
        self.frames.append(frame)
        self._count(len(frame))
        self.wake.set()
        return True

    def _count(self, change: int) -> None:
        self.size += change
        self.waiting[self.peer] += change
        if not self.waiting[self.peer]:
            del self.waiting[self.peer]

    def clear(self) -> None:
        """The stream has ended; nothing waits for it any more."""
        self.frames.clear()
        self._count(-self.size)

    async def write_to(self, stream: NetStream) -> None:
        """Write frames as they come, in chunks, until the stream breaks or this is cancelled between two."""
        while True:
            while not self.frames:
                self.wake = trio.Event()
                await self.wake.wait()
            frame = self.frames.popleft()
            for start in range(0, len(frame), CHUNK):
                await stream.write(frame[start : start + CHUNK])
            self._count(-len(frame))


class SlowFrame(Exception):
    """A frame has begun and does not end."""

    def __init__(self) -> None:
        super().__init__(f"a frame took more than {FRAME_S} s")


class Reader:
    """Frames off a stream, several per read. IOException at the end, BadFrame, or SlowFrame."""

    def __init__(self, stream: NetStream) -> None:
        self._stream = stream
        self._frames = Frames()
        self._due_s = 0.0  # when the frame under way must be whole

    async def read_header(self) -> Header:
        """Wait for the next frame's. `read_body` or `skip_body` must follow. Raises BadFrame."""
        if not len(self._frames):
            await self._read_more(float("inf"))
        self._due_s = trio.current_time() + FRAME_S
        while (header := self._frames.read_header()) is None:
            await self._read_more(self._due_s)
        return header

    async def read_body(self) -> bytes:
        while (frame := self._frames.take()) is None:
            await self._read_more(self._due_s)
        return frame.body

    async def skip_body(self) -> None:
        """Pass over a body, keeping none of it."""
        while not self._frames.drop():
            await self._read_more(self._due_s)

    async def _read_more(self, due_s: float) -> None:
        with trio.move_on_at(due_s):
            data = await self._stream.read(CHUNK)
            if not data:
                raise IOException("the stream ended")
            self._frames.feed(data)
            return
        raise SlowFrame


@dataclass(frozen=True)
class Ended:
    """Why a stream is over, and what its peer did wrong, if it did; a violation is what no implementation does."""

    reason: str
    fault: str = ""
    is_violation: bool = False


async def carry(read: Callable[[], Awaitable[None]], write: Callable[[], Awaitable[None]]) -> Ended:
    """Read and write until one of the two fails, and why it did: neither ends otherwise.

    Errors do not leave by the nursery: trio hands them on together with frames that refer to them, and such a ring
    holds the connection until the garbage collector comes by.
    """
    ended: list[Ended] = []

    async def until_over(half: Callable[[], Awaitable[None]]) -> None:
        try:
            await half()
        except IOException as error:
            ended.append(Ended(f"the stream broke: {error!r}"))
        except (BadFrame, SlowFrame) as error:
            ended.append(Ended(f"the peer broke a rule: {error}", str(error), isinstance(error, BadFrame)))
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(until_over, write)
        await until_over(read)
    return ended[0]


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
        self._sending: Counter[bytes] = Counter()
        self._wake = trio.Event()

    def ask(self, peer: bytes, protocol: str, data: bytes, token: str, timeout_ms: int) -> None:
        """Send a request, opening the stream and dialling the peer as needed."""
        if token in self._under_way or len(self._under_way) >= REQUESTS_MAX or len(data) > STREAM_BYTES_MAX:
            self._emit(Unanswered(token, _explain_refusal(token in self._under_way, len(data))))
            return
        channel = self._get_channel(peer, protocol)
        number = next(self._numbers) % 2**32
        if not channel.wire.push(ASK, number, data):
            self._emit(Unanswered(token, "too much is waiting to be sent to this peer"))
            return
        channel.waiting[number] = token
        self._under_way[token] = channel, number
        heapq.heappush(self._deadlines, (trio.current_time() + timeout_ms / 1000, token))
        self._wake.set()

    def tell(self, peer: bytes, protocol: str, data: bytes) -> None:
        """As `ask`, but nobody answers, and nobody hears what became of it."""
        if len(data) <= STREAM_BYTES_MAX:
            self._get_channel(peer, protocol).wire.push(TELL, 0, data)

    def _get_channel(self, peer: bytes, protocol: str) -> Channel:
        channel = self._channels.get((peer, protocol))
        if channel is None:
            channel = self._channels[peer, protocol] = Channel(Wire(peer, self._sending))
            self._tasks.start_soon(self._run, peer, protocol, channel)
        return channel

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
            channel.wire.clear()
            for token in list(channel.waiting.values()):
                self._end(token, reason)

    async def _use(self, stream: NetStream, channel: Channel) -> str:
        """Send and receive until the stream ends, and say why it did."""
        try:
            return (await carry(partial(self._read, stream, channel), partial(channel.wire.write_to, stream))).reason
        finally:
            with trio.CancelScope(shield=True):
                await stream.reset()

    async def _read(self, stream: NetStream, channel: Channel) -> None:
        reader = Reader(stream)
        while True:
            kind, number, _ = await reader.read_header()
            body = await reader.read_body()
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
    """A peer's request that waits for our answer. None is sent without a number: it has only told us something."""

    wire: Wire
    number: int | None
    size: int
    until_s: float


class Answers:
    """The serving side."""

    def __init__(self, emit: Callable[[NetEvent], None], fault: Callable[[bytes, str, bool], None]) -> None:
        self._emit = emit
        self._fault = fault
        self._open: dict[str, Open] = {}  # oldest first; bounded by peers x PER_PEER_MAX
        self._held: Counter[bytes] = Counter()
        self._held_bytes: Counter[bytes] = Counter()
        self._sending: Counter[bytes] = Counter()
        self._tokens = itertools.count(1)

    async def take_stream(self, protocol: str, stream: NetStream) -> None:
        """Serve one peer's stream until it ends."""
        wire = Wire(to_node(stream.muxed_conn.peer_id), self._sending)
        try:
            ended = await carry(partial(self._read, protocol, stream, wire), partial(wire.write_to, stream))
            logger.debug("a stream of %s ended: %s", protocol, ended.reason)
            if ended.fault:
                self._fault(wire.peer, ended.fault, ended.is_violation)
        finally:
            for token in [token for token, asked in self._open.items() if asked.wire is wire]:
                self._close(token)
            wire.clear()
            with trio.CancelScope(shield=True):
                await stream.reset()

    async def _read(self, protocol: str, stream: NetStream, wire: Wire) -> None:
        reader = Reader(stream)
        while True:
            kind, number, length = await reader.read_header()
            if kind not in (ASK, TELL):
                raise BadFrame("only requests may be sent on a stream its sender opened")
            self._expire()
            if self._held[wire.peer] >= PER_PEER_MAX or self._held_bytes[wire.peer] + length > PER_PEER_BYTES_MAX:
                await reader.skip_body()
                if kind == ASK:
                    wire.push(REFUSAL, number, b"busy: too many of your requests wait here")
                continue
            # Counted before it is here: a peer may begin as many bodies as it has streams.
            self._hold(wire.peer, length)
            try:
                body = await reader.read_body()
            except BaseException:
                self._let_go(wire.peer, length)
                raise
            token = f"asked-{next(self._tokens)}"
            self._open[token] = Open(wire, number if kind == ASK else None, length, trio.current_time() + REPLY_S)
            self._emit(Asked(protocol, wire.peer, body, token))

    def _hold(self, peer: bytes, size: int) -> None:
        self._held[peer] += 1
        self._held_bytes[peer] += size

    def _let_go(self, peer: bytes, size: int) -> None:
        self._held -= Counter((peer,))
        self._held_bytes -= Counter({peer: size})

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
            self._let_go(asked.wire.peer, asked.size)
        return asked

    def _expire(self) -> None:
        now_s = trio.current_time()
        while self._open and (token := next(iter(self._open))) and self._open[token].until_s <= now_s:
            self._close(token)

    def get_sizes(self) -> dict[str, int]:
        """How much is remembered, by name."""
        return {"asked": len(self._open), "askers": len(self._held) + len(self._held_bytes)}
