"""Streams over a real socket: cancelling loses nothing, slow readers hold writers back, the dead are noticed."""

import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)
from trio.testing import MockClock

from p2p import muxed, muxed_stream, muxed_writer
from p2p.muxed import Muxed
from p2p.muxed_stream import MuxedStream
from p2p.noise_records import PLAINTEXT_BYTES_MAX, Opener, Sealer
from p2p.secured import TakenOver
from p2p.wire import SocketWire
from p2p.yamux_words import DATA, HEADER, INITIAL_WINDOW, YamuxLimits
from tests.p2p.loopback import run, until

KEYS = bytes(range(32)), bytes(range(1, 33))
PEER = ID(bytes(38))


class Session:
    """What a Muxed wants of a secured connection, its handshake done."""

    def __init__(self, sock: socket.socket, is_initiator: bool) -> None:
        self.is_initiator = is_initiator
        ours, theirs = KEYS if is_initiator else KEYS[::-1]
        self._taken = TakenOver(SocketWire(sock), Sealer(ours), Opener(theirs), b"", b"")

    def take_over(self) -> TakenOver:
        return self._taken

    def get_remote_address(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    def get_transport_addresses(self) -> list[Any]:
        return []

    def get_connection_type(self) -> Any:
        return None


@asynccontextmanager
async def muxed_pair(limits: YamuxLimits | None = None) -> AsyncIterator[tuple[Muxed, Muxed]]:
    ends = socket.socketpair()
    pair = [Muxed(Session(end, index == 0), PEER, limits) for index, end in enumerate(ends)]  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        for each in pair:
            nursery.start_soon(each.start)
            await each.event_started.wait()
        yield pair[0], pair[1]
        nursery.cancel_scope.cancel()
    assert all(each.is_closed for each in pair)
    assert all(end.fileno() == -1 for end in ends)


@asynccontextmanager
async def stream_pair(limits: YamuxLimits | None = None) -> AsyncIterator[tuple[MuxedStream, MuxedStream]]:
    async with muxed_pair(limits) as (a, b):
        ours = await a.open_stream()
        yield ours, await b.accept_stream()


async def read_all(stream: MuxedStream) -> bytes:
    got = bytearray()
    try:
        while True:
            got += await stream.read(100_000)
    except MuxedStreamEOF:
        return bytes(got)


@pytest.mark.parametrize("size", [1, 255, 65_519, 65_520, 262_144, 262_145, 1_048_576])
def test_both_directions_at_once_arrive_whole(size: int) -> None:
    async def main() -> None:
        async with stream_pair() as (a, b), trio.open_nursery() as nursery:

            async def say(stream: MuxedStream, data: bytes) -> None:
                await stream.write(data)
                await stream.close()

            nursery.start_soon(say, a, b"a" * size)
            nursery.start_soon(say, b, b"b" * size)
            assert await read_all(b) == b"a" * size
            assert await read_all(a) == b"b" * size
            assert a.is_closed
            assert b.is_closed
            await until(lambda: not a.muxed_conn._streams and not b.muxed_conn._streams)

    run(main)


def test_what_is_written_in_one_turn_is_one_write_to_the_socket() -> None:
    async def main() -> None:
        async with muxed_pair() as (a, b):
            streams = [await a.open_stream() for _ in range(20)]
            sends: list[int] = []
            wire = a._writer.wire
            assert wire is not None
            stock = wire.send_some

            def count(data: memoryview) -> int:
                sends.append(len(data))
                return stock(data)

            wire.send_some = count  # type: ignore[method-assign]
            for stream in streams:
                stream.write_now(b"hello")
                stream.write_now(b" again")
            for _ in streams:
                peer = await b.accept_stream()
                assert await peer.read() == b"hello again"
            assert len(sends) == 1

    run(main)


def test_a_cancelled_read_loses_nothing() -> None:
    async def main() -> None:
        async with stream_pair() as (a, b):
            for number in range(50):
                with trio.CancelScope() as scope:
                    if number % 2:
                        scope.cancel()
                    else:
                        scope.deadline = trio.current_time() + 0.0005
                    await b.read()
                    pytest.fail("there was nothing to read")
            await a.write(b"whole")
            with trio.CancelScope() as scope:
                scope.cancel()
                await b.read()
            assert await b.read() == b"whole"

    run(main)


def test_a_cancelled_write_leaves_the_connection_whole() -> None:
    async def main() -> None:
        async with muxed_pair() as (a, b):
            big, small = await a.open_stream(), await a.open_stream()
            with trio.move_on_after(0.01) as scope:
                await big.write(b"x" * 2_000_000)
            assert scope.cancelled_caught
            await small.write(b"fine")
            first, second = await b.accept_stream(), await b.accept_stream()
            assert await second.read() == b"fine"
            await big.reset()
            with pytest.raises(MuxedStreamReset):
                await read_all(first)

    run(main)


def test_a_slow_reader_holds_its_writer_back_and_nobody_else() -> None:
    async def main() -> None:
        async with muxed_pair() as (a, b):
            slow, quick = await a.open_stream(), await a.open_stream()
            written = 0

            async def fill() -> None:
                nonlocal written
                while True:
                    await slow.write(bytes(10_000))
                    written += 10_000

            async with trio.open_nursery() as nursery:
                nursery.start_soon(fill)
                await until(lambda: written >= INITIAL_WINDOW - 10_000)
                held, other = await b.accept_stream(), await b.accept_stream()
                await until(lambda: len(held._buffer) == INITIAL_WINDOW)
                for number in range(100):
                    await quick.write(b"%d" % number)
                    assert await other.read() == b"%d" % number
                assert written <= INITIAL_WINDOW
                assert len(held._buffer) == INITIAL_WINDOW
                await held.read(INITIAL_WINDOW)
                await until(lambda: written > INITIAL_WINDOW)
                nursery.cancel_scope.cancel()

    run(main)


def test_no_wake_up_is_lost_however_writes_are_cut() -> None:
    async def main() -> None:
        async with stream_pair() as (a, b):
            sizes = [1, 70_000, 131_072, 131_073, 300_000, 65_536, 262_144] * 12

            async def send() -> None:
                for size in sizes:
                    await a.write(bytes(size))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                left = sum(sizes)
                while left:
                    left -= len(await b.read(left))

    run(main)


def test_a_stream_that_writes_much_leaves_room_for_one_that_writes_little() -> None:
    async def main() -> None:
        async with muxed_pair() as (a, _):
            greedy, modest = await a.open_stream(), await a.open_stream()
            greedy.write_now(bytes(INITIAL_WINDOW))
            assert modest.write_now(b"quick") == 5

    run(main)


def test_two_writers_of_one_stream_do_not_mix_their_messages() -> None:
    async def main() -> None:
        async with stream_pair() as (a, b), trio.open_nursery() as nursery:
            for letter in b"abc":
                nursery.start_soon(a.write, bytes([letter]) * 400_000)
            got = bytearray()
            while len(got) < 1_200_000:
                got += await b.read(50_000)
            runs = [got[at : at + 400_000] for at in range(0, 1_200_000, 400_000)]
            assert sorted(set(each) == {each[0]} for each in runs) == [True] * 3

    run(main)


def test_a_peer_that_dies_in_the_middle_of_a_write_wakes_everybody() -> None:
    async def main() -> None:
        async with muxed_pair() as (a, b):
            ours = await a.open_stream()
            other = await a.open_stream()
            ended: list[str] = []

            async def write() -> None:
                with pytest.raises(MuxedStreamReset):
                    await ours.write(bytes(5_000_000))
                ended.append("write")

            async def read() -> None:
                with pytest.raises(MuxedStreamReset):
                    await other.read()
                ended.append("read")

            async def accept() -> None:
                with pytest.raises(MuxedConnUnavailable):
                    await a.accept_stream()
                ended.append("accept")

            async with trio.open_nursery() as nursery:
                for task in (write, read, accept):
                    nursery.start_soon(task)
                theirs = await b.accept_stream()
                await theirs.read(1)
                assert b._writer.wire is not None
                b._writer.wire.close()  # as when its process is killed
            assert sorted(ended) == ["accept", "read", "write"]
            with pytest.raises(MuxedConnUnavailable):
                await a.open_stream()

    run(main)


def test_what_had_arrived_before_the_connection_ended_can_be_read() -> None:
    async def main() -> None:
        async with stream_pair() as (a, b):
            await a.write(b"last words")
            await a.muxed_conn.close()
            await b.muxed_conn.event_closed.wait()
            assert await b.read() == b"last words"
            with pytest.raises(MuxedStreamReset):
                await b.read()

    run(main)


def test_streams_end_each_in_their_way() -> None:
    async def main() -> None:
        async with muxed_pair() as (a, b):
            closed, broken, late = [await a.open_stream() for _ in range(3)]
            for stream in (closed, broken, late):
                await stream.write(b"x")
            peers = [await b.accept_stream() for _ in range(3)]
            await closed.close()
            assert await peers[0].read() == b"x"
            with pytest.raises(MuxedStreamEOF):
                await peers[0].read()
            with pytest.raises(MuxedStreamClosed):
                await closed.write(b"y")
            await peers[0].write(b"half closed")
            assert await closed.read() == b"half closed"

            await broken.reset()
            with pytest.raises(MuxedStreamReset):
                await broken.write(b"y")
            assert await peers[1].read() == b"x"
            with pytest.raises(MuxedStreamReset):
                await peers[1].read()

            late.set_deadline(0.01)
            with pytest.raises(MuxedStreamError, match="deadline"):
                await late.read()
            with pytest.raises(ValueError):
                late.set_deadline(-1)

    run(main)


def test_a_flood_of_tiny_frames_lets_others_run() -> None:
    async def main() -> None:
        async with muxed_pair() as (a, b), trio.open_nursery() as nursery:
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await trio.lowlevel.checkpoint()

            await a.open_stream()
            peer = await b.accept_stream()
            nursery.start_soon(count)
            before = turns
            frame = HEADER.pack(0, DATA, 0, 1, 1).ljust(13, b"x")
            records = [frame * (PLAINTEXT_BYTES_MAX // len(frame))] * 4
            await b._take_in(records)
            assert len(peer._buffer) == sum(map(len, records)) // len(frame)
            assert turns - before >= len(records) - 1  # the counter may have its first turn after ours
            nursery.cancel_scope.cancel()

    run(main)


def test_nobody_reading_any_of_many_streams_keeps_memory_bounded_and_the_connection_alive() -> None:
    async def main() -> None:
        limits = YamuxLimits()
        async with muxed_pair() as (a, b), trio.open_nursery() as nursery:

            async def fill(stream: MuxedStream) -> None:
                with contextlib.suppress(MuxedStreamError):
                    await stream.write(bytes(INITIAL_WINDOW))
                    await stream.read()

            for _ in range(limits.streams_inbound_max - 1):
                nursery.start_soon(fill, await a.open_stream())
            await until(lambda: len(b._streams) <= 8 and b._session.unread_bytes > limits.unread_bytes_max // 2)
            assert b._session.unread_bytes <= limits.unread_bytes_max
            assert sum(len(stream._buffer) for stream in b._streams.values()) == b._session.unread_bytes
            last = await a.open_stream()
            await last.write(b"still here")
            while (stream := await b.accept_stream()).stream_id != last.stream_id:
                pass
            assert await stream.read() == b"still here"
            nursery.cancel_scope.cancel()

    run(main)


def test_junk_from_the_peer_ends_its_connection_and_is_reported() -> None:
    async def main() -> None:
        async with muxed_pair() as (a, b):
            faults: list[str] = []
            a.on_fault = faults.append
            assert b._writer.wire is not None
            b._writer.wire.send_some(memoryview(b"\x00\x20" + bytes(32)))
            await a.event_closed.wait()
            assert "was not sealed" in faults[0]

        async with muxed_pair() as (a, b):
            faults = []
            a.on_fault = faults.append
            b._session._session.output._tail += b"\x07" + bytes(11)
            b._writer.wake()
            await a.event_closed.wait()
            await b.event_closed.wait()
            assert faults == ["version 7"]

    run(main)


class TestPush:
    def test_bytes_go_to_the_callback_also_those_that_were_there(self) -> None:
        async def main() -> None:
            async with stream_pair() as (a, b):
                got: list[bytes] = []
                ends: list[str | None] = []
                await a.write(b"before")
                await until(lambda: bool(b._buffer))
                b.push_to(got.append, ends.append)
                for number in range(2_000):
                    await a.write(b"%04d" % number * 100)
                await a.close()
                await until(lambda: ends == [None])
                assert b"".join(got) == b"before" + b"".join(b"%04d" % number * 100 for number in range(2_000))

        run(main)

    def test_without_credit_the_peer_is_held_back(self) -> None:
        async def main() -> None:
            async with stream_pair() as (a, b), trio.open_nursery() as nursery:
                got = bytearray()
                b.push_to(got.extend, lambda reason: None, gives_credit=False)
                nursery.start_soon(a.write, bytes(400_000))
                await until(lambda: len(got) == INITIAL_WINDOW)
                b.give_credit(INITIAL_WINDOW)
                await until(lambda: len(got) == 400_000)

        run(main)

    def test_a_callback_that_raises_costs_its_stream_alone(self) -> None:
        async def main() -> None:
            async with muxed_pair() as (a, b):
                faults: list[str] = []
                b.on_fault = faults.append
                bad, good = await a.open_stream(), await a.open_stream()
                await bad.write(b"x")
                await good.write(b"y")
                first, second = await b.accept_stream(), await b.accept_stream()

                def explode(data: bytes) -> None:
                    raise RuntimeError("no callback may do this")

                ends: list[str | None] = []
                first.push_to(explode, ends.append)
                with pytest.raises(MuxedStreamReset):
                    await bad.read()
                assert await second.read() == b"y"
                assert faults == ["RuntimeError('no callback may do this')"]
                assert ends == ["it was reset here"]

        run(main)

    def test_a_reset_is_told_once(self) -> None:
        async def main() -> None:
            async with stream_pair() as (a, b):
                ends: list[str | None] = []
                b.push_to(lambda data: None, ends.append)
                await a.reset()
                await until(lambda: bool(ends))
                await b.muxed_conn.close()
                assert ends == ["the peer reset it"]

        run(main)


class TestFeed:
    def test_a_feed_is_asked_for_what_there_is_room_for(self) -> None:
        async def main() -> None:
            async with stream_pair() as (a, b):
                queue = bytearray(bytes(range(256)) * 8_000)
                whole = bytes(queue)
                rooms: list[int] = []

                def produce(room: int) -> bytes:
                    rooms.append(room)
                    data = bytes(queue[:room])
                    del queue[:room]
                    return data

                a.feed_from(produce)
                a.has_more()
                got = bytearray()
                while len(got) < len(whole):
                    got += await b.read(70_000)
                assert bytes(got) == whole
                assert max(rooms) <= INITIAL_WINDOW

        run(main)

    def test_a_feed_asked_in_many_ways_in_one_turn_is_asked_until_it_has_no_more(self) -> None:
        async def main() -> None:
            async with stream_pair() as (a, b):
                left = [b"all of it"]

                def produce(room: int) -> bytes:
                    return left.pop() if left else b""

                a.feed_from(produce)
                for _ in range(10):
                    a.has_more()
                assert await b.read() == b"all of it"

        run(main)

    def test_a_flush_writes_before_any_other_task_runs(self) -> None:
        async def main() -> None:
            async with stream_pair() as (a, b):
                assert a.muxed_conn._writer.wire is not None
                writes: list[int] = []
                send_some = a.muxed_conn._writer.wire.send_some

                def note(data: memoryview) -> int:
                    writes.append(len(data))
                    return send_some(data)

                a.muxed_conn._writer.wire.send_some = note  # type: ignore[method-assign]
                left = [b"all ", b"of it"]
                a.feed_from(lambda room: left.pop(0) if left else b"")
                a.flush()
                assert len(writes) == 1
                assert await b.read() == b"all of it"

        run(main)

    def test_what_a_flush_leaves_over_follows_in_order(self) -> None:
        async def main() -> None:
            async with stream_pair() as (a, b):
                queue = bytearray(bytes(range(256)) * 4_000)
                whole = bytes(queue)
                assert a.muxed_conn._writer.wire is not None
                send_some = a.muxed_conn._writer.wire.send_some
                a.muxed_conn._writer.wire.send_some = lambda data: send_some(data[:100])  # type: ignore[method-assign]

                def produce(room: int) -> bytes:
                    data = bytes(queue[:room])
                    del queue[:room]
                    return data

                a.feed_from(produce)
                got = bytearray()
                while len(got) < len(whole):
                    a.flush()
                    got += await b.read(70_000)
                assert bytes(got) == whole

        run(main)

    def test_a_feed_that_raises_or_overflows_costs_its_stream_alone(self) -> None:
        async def main() -> None:
            async with muxed_pair() as (a, _):
                faults: list[str] = []
                a.on_fault = faults.append
                for produce in (lambda room: 1 // 0, lambda room: bytes(room + 1)):
                    stream = await a.open_stream()
                    stream.feed_from(produce)  # type: ignore[arg-type]
                    stream.has_more()
                    await until(lambda stream=stream: stream.is_closed)  # type: ignore[misc]
                assert len(faults) == 2
                assert not a.is_closed

        run(main)


class TestSilence:
    """On a clock that jumps when all is quiet; what is in a socketpair arrives at once."""

    def test_a_silent_peer_is_given_up(self) -> None:
        async def main() -> None:
            async with muxed_pair() as (a, b):
                assert b._writer.wire is not None
                b._writer.wire.receive = trio.sleep_forever  # type: ignore[method-assign]
                await b.open_stream()
                with trio.fail_after(2 * muxed.SILENCE_S_MAX):
                    await a.event_closed.wait()

        trio.run(main, clock=MockClock(autojump_threshold=0.01))

    def test_a_quiet_pair_keeps_its_connection(self) -> None:
        async def main() -> None:
            async with muxed_pair() as (a, b):
                await trio.sleep(4 * muxed.SILENCE_S_MAX)
                assert a.is_established
                assert b.is_established

        trio.run(main, clock=MockClock(autojump_threshold=0.01))

    def test_a_write_nobody_takes_gives_up(self) -> None:
        async def main() -> None:
            async with stream_pair() as (a, _):
                began = trio.current_time()
                with pytest.raises(MuxedStreamError, match="takes nothing"):
                    await a.write(bytes(2 * INITIAL_WINDOW))
                assert trio.current_time() - began >= muxed_stream.STALL_S_MAX

        trio.run(main, clock=MockClock(autojump_threshold=0.01))

    def test_a_socket_that_takes_nothing_ends_the_connection(self) -> None:
        async def main() -> None:
            async with muxed_pair() as (a, b):
                assert b._writer.wire is not None
                b._writer.wire.receive = trio.sleep_forever  # type: ignore[method-assign]
                await b.open_stream()
                async with trio.open_nursery() as nursery:
                    for _ in range(8):
                        stream = await a.open_stream()
                        stream.push_to(lambda data: None, lambda reason: None)
                        stream.feed_from(bytes)
                        stream.has_more()
                    with trio.fail_after(2 * muxed_writer.STUCK_S_MAX):
                        await a.event_closed.wait()
                    nursery.cancel_scope.cancel()

        trio.run(main, clock=MockClock(autojump_threshold=0.01))

    def test_a_stream_left_half_closed_by_its_handler_lingers_no_longer_than_a_minute(self) -> None:
        async def main() -> None:
            async with muxed_pair() as (a, b):
                stream = await a.open_stream()
                await stream.write(b"question")
                peer = await b.accept_stream()
                await peer.write(b"answer")
                await peer.close()
                b.abandon(peer)
                assert await stream.read() == b"answer"
                await stream.write(bytes(1_000_000))
                with trio.fail_after(2 * muxed.LINGER_S):
                    while not stream.is_closed:
                        stream.write_now(b"nobody listens")
                        await trio.sleep(1)
                assert not b._streams

        trio.run(main, clock=MockClock(autojump_threshold=0.01))
