"""A stream of requests ends for whatever reason there is, which is said, and nothing of it stays."""

import gc
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from p2p.frame_stream import FRAME_S, Ended, FrameStream, Gathering
from p2p.frames import ASK, BadFrame, Frame, Header, write_frame
from p2p.muxed_stream import STALL_S_MAX

PEER = b"p" * 32


class Stream:
    """What a `MuxedStream` is to a `FrameStream`."""

    def __init__(self) -> None:
        self.is_stirred = False
        self.flushed: list[bytes] = []

    def push_to(self, on_data: Callable[[bytes], None], on_end: Callable[[str | None], None]) -> None:
        self.on_data, self.on_end = on_data, on_end

    def feed_from(self, produce: Callable[[int], bytes]) -> None:
        self.produce = produce

    def has_more(self) -> None:
        self.is_stirred = True

    def flush(self) -> None:
        self.flushed.append(bytes(self.produce(1_000)))


def take_all(header: Header) -> bool:
    return True


def ignore(frame: Frame) -> None:
    pass


def carry(
    act: Callable[[FrameStream, Stream], Awaitable[None]],
    on_header: Callable[[Header], bool] = take_all,
    on_frame: Callable[[Frame], None] = ignore,
) -> Ended:
    """How a stream ends to which this happens, on virtual time."""

    async def main() -> Ended:
        found: list[Ended] = []
        wire, stream = FrameStream(PEER, Counter(), Gathering()), Stream()

        async def run() -> None:
            found.append(await wire.carry(stream, on_header, on_frame))  # type: ignore[arg-type]

        with trio.fail_after(1_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await trio.testing.wait_all_tasks_blocked()
                await act(wire, stream)
        return found[0]

    return trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_stream_that_broke_and_one_that_its_peer_has_finished_say_so() -> None:
    async def break_off(wire: FrameStream, stream: Stream) -> None:
        stream.on_end("gone")

    async def finish(wire: FrameStream, stream: Stream) -> None:
        stream.on_end(None)

    assert carry(break_off) == Ended("the stream broke: gone")
    assert carry(finish) == Ended("the stream broke: the peer has finished")


def test_a_frame_against_the_rules_is_a_violation_and_what_follows_it_is_not_heard() -> None:
    def refuse(header: Header) -> bool:
        raise BadFrame("odd")

    async def send(wire: FrameStream, stream: Stream) -> None:
        stream.on_data(write_frame(ASK, 1, b"q"))
        stream.on_data(write_frame(ASK, 2, b"q"))

    assert carry(send, refuse) == Ended("the peer broke a rule: odd", "odd", is_violation=True)


def test_a_frame_that_does_not_end_is_a_fault_and_each_frame_has_its_own_time() -> None:
    heard: list[Frame] = []

    async def send(wire: FrameStream, stream: Stream) -> None:
        frame = write_frame(ASK, 1, bytes(10))
        for _ in range(3):
            stream.on_data(frame[:-1])
            await trio.sleep(FRAME_S / 2)
            stream.on_data(frame[-1:])
        stream.on_data(frame[:1])

    ended = carry(send, on_frame=heard.append)

    assert len(heard) == 3
    assert (ended.fault, ended.is_violation) == (f"a frame took more than {FRAME_S} s", False)


def test_a_peer_that_takes_nothing_loses_the_stream_and_one_that_is_sent_nothing_does_not() -> None:
    heard: list[Frame] = []

    async def wait(wire: FrameStream, stream: Stream) -> None:
        wire.push(ASK, 1, b"q")
        assert stream.produce(1_000)
        await trio.sleep(3 * STALL_S_MAX)
        wire.push(ASK, 1, bytes(100_000))
        await trio.sleep(STALL_S_MAX / 2)
        assert len(stream.produce(1_000)) == 1_000
        stream.on_data(write_frame(ASK, 1, b"still here"))
        assert [frame.body for frame in heard] == [b"still here"]

    assert carry(wait, on_frame=heard.append) == Ended("the stream broke: the peer takes nothing")


def test_what_is_sent_in_small_pieces_is_what_was_pushed() -> None:
    wanted = b"".join(write_frame(ASK, number, bytes([number]) * 50) for number in range(4))
    sent = bytearray()

    async def send(wire: FrameStream, stream: Stream) -> None:
        for number in range(4):
            assert wire.push(ASK, number, bytes([number]) * 50)
        while piece := stream.produce(7):
            sent.extend(piece)
        assert wire._waiting == Counter()
        stream.on_end("enough")

    carry(send)
    assert sent == wanted


def test_what_is_pushed_while_others_gather_leaves_as_one_at_the_end() -> None:
    async def main() -> None:
        gathering = Gathering()
        wires, streams = [FrameStream(PEER, Counter(), gathering) for _ in range(2)], [Stream(), Stream()]
        async with trio.open_nursery() as nursery:
            for wire, stream in zip(wires, streams, strict=True):
                nursery.start_soon(wire.carry, stream, take_all, ignore)
            await trio.testing.wait_all_tasks_blocked()
            with gathering:
                for number in range(3):
                    wires[0].push(ASK, number, b"question")
                assert streams[0].flushed == []
            assert streams[0].flushed == [b"".join(write_frame(ASK, number, b"question") for number in range(3))]
            assert not streams[0].is_stirred
            wires[1].push(ASK, 0, b"later")
            assert (streams[1].is_stirred, streams[1].flushed) == (True, [])
            for stream in streams:
                stream.on_end("gone")

    trio.run(main)


def test_a_stream_that_ended_is_freed_without_the_garbage_collector() -> None:
    async def main() -> bool:
        wire, stream = FrameStream(PEER, Counter(), Gathering()), Stream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.carry, stream, take_all, ignore)
            await trio.testing.wait_all_tasks_blocked()
            stream.on_end("gone")
        left = weakref.ref(stream)
        del wire, stream
        return left() is None

    gc.disable()
    try:
        assert trio.run(main)
    finally:
        gc.enable()


def test_what_is_nobodys_fault_but_ours_is_let_through() -> None:
    def fail(header: Header) -> bool:
        raise KeyError("ours")

    async def send(wire: FrameStream, stream: Stream) -> None:
        with pytest.raises(KeyError):
            stream.on_data(write_frame(ASK, 1, b"q"))
        stream.on_end("the multiplexer has heard of it")

    assert carry(send, fail).reason.endswith("heard of it")
