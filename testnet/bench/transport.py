"""Streams over one connection, ours beside stock py-libp2p: `rolemesh bench transport`.

Each pair is two processes on loopback, same stack on both ends; rounds take turns, and a figure is the
median of its rounds. `…_cpu_us` is processor time of both processes per message.
"""

import statistics
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import trio

from p2p.doors import HostLimits
from p2p.host import Host, open_host
from p2p.stock import StockHost, open_stock_host
from testnet.bench.figures import Figure, Note, compare

SINK, PUSH, ECHO = "/bench/sink/1", "/bench/push/1", "/bench/echo/1"
ROUNDS = 3
MESSAGES = {"ours": {256: 30_000, 4_096: 10_000, 65_536: 1_500}, "stock": {256: 1_500, 4_096: 1_200, 65_536: 500}}
ECHOES = {"ours": 400, "stock": 150}
_PLAN = struct.Struct("!Q")  # how many bytes follow
_SPENT = struct.Struct("!d")  # processor seconds of the serving process

AnyHost = Host | StockHost
Stream = Any


def _ignore(*what: object) -> None:
    """Who comes and goes, and who is to blame, is of no interest here."""


@asynccontextmanager
async def open_any(stack: str, number: int) -> AsyncIterator[AnyHost]:
    seed, address = bytes([number]) * 32, f"127.0.11.{number}"
    if stack == "stock":
        async with open_stock_host(seed, address) as stock:
            yield stock
        return
    async with (
        open_host(seed, address, 0, HostLimits(), _ignore, _ignore, _ignore) as host,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(host.accept_forever)
        yield host
        nursery.cancel_scope.cancel()


# The serving process


async def serve(stack: str) -> None:
    """Say where, then serve until standard input closes."""
    async with open_any(stack, 1) as host:
        host.serve(SINK, sink)
        host.serve(ECHO, echo)
        if stack == "ours":
            host.serve(PUSH, sink_by_push)
        print(host.node.hex(), *host.addresses, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


async def sink(stream: Stream) -> None:
    """Take in what was announced and answer with the processor time that this took."""
    while True:
        (size,) = _PLAN.unpack(await read_exactly(stream, _PLAN.size))
        began = time.process_time()
        while size:
            size -= len(await stream.read(min(size, 65_536)))
        await stream.write(_SPENT.pack(time.process_time() - began))


async def sink_by_push(stream: Stream) -> None:
    """As `sink`, without a task: bytes come by callback."""
    muxed = stream.muxed_stream
    left, began = 0, 0.0

    def take(data: bytes) -> None:
        nonlocal left, began
        if not left:
            began = time.process_time()
            left, data = _PLAN.unpack_from(data)[0], data[_PLAN.size :]
        left -= len(data)
        if not left:
            muxed.write_now(_SPENT.pack(time.process_time() - began))

    muxed.push_to(take, lambda reason: None)


async def echo(stream: Stream) -> None:
    while data := await stream.read(65_536):
        await stream.write(data)


async def read_exactly(stream: Stream, size: int) -> bytes:
    got = b""
    while len(got) < size:
        got += await stream.read(size - len(got))
    return got


# The measuring process


class Pair:
    """A host of a stack, and the process it talks to."""

    def __init__(self, stack: str, host: AnyHost, peer: bytes) -> None:
        self.stack = stack
        self.host = host
        self.peer = peer

    async def flow(self, size: int, protocol: str = SINK) -> tuple[float, float]:
        """Messages a second one way, and microseconds of processor time for each."""
        count = MESSAGES[self.stack][size]
        message = bytes(size)
        stream = await self.host.open_stream(self.peer, protocol)
        began, spent = time.perf_counter(), time.process_time()
        await stream.write(_PLAN.pack(count * size))
        for _ in range(count):
            await stream.write(message)
        (theirs,) = _SPENT.unpack(await read_exactly(stream, _SPENT.size))
        took, spent = time.perf_counter() - began, time.process_time() - spent
        await stream.reset()
        return count / took, 1e6 * (spent + theirs) / count

    async def feed(self, size: int) -> tuple[float, float]:
        """As `flow`, by a feed on this side and a callback on the other, the loop passed after every message."""
        count, left, queued = MESSAGES["ours"][size], MESSAGES["ours"][size], bytearray(_PLAN.pack(0))
        queued[:] = _PLAN.pack(count * size)
        message = bytes(size)
        stream = await self.host.open_stream(self.peer, PUSH)
        muxed: Any = stream.muxed_stream

        def produce(room: int) -> bytes:
            data = bytes(queued[:room])
            del queued[:room]
            return data

        muxed.feed_from(produce)
        began, spent = time.perf_counter(), time.process_time()
        while left:
            if len(queued) < 1_000_000:
                queued.extend(message)
                muxed.has_more()
                left -= 1
            await trio.lowlevel.checkpoint()
        (theirs,) = _SPENT.unpack(await read_exactly(stream, _SPENT.size))
        took, spent = time.perf_counter() - began, time.process_time() - spent
        await stream.reset()
        return count / took, 1e6 * (spent + theirs) / count

    async def round_trip(self) -> float:
        """Milliseconds from a write of 64 bytes to their echo on an open stream, median."""
        stream = await self.host.open_stream(self.peer, ECHO)
        took = [await _time(partial(_echo_once, stream)) for _ in range(ECHOES[self.stack])]
        await stream.reset()
        return statistics.median(took)

    async def open_and_echo(self) -> float:
        """Milliseconds to open a stream, negotiate, and have 64 bytes echoed, median."""
        return statistics.median([await _time(self._open_once) for _ in range(ECHOES[self.stack] // 3)])

    async def _open_once(self) -> None:
        stream = await self.host.open_stream(self.peer, ECHO)
        await _echo_once(stream)
        await stream.reset()


async def _echo_once(stream: Stream) -> None:
    await stream.write(bytes(64))
    await read_exactly(stream, 64)


async def _time(act: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await act()
    return 1_000 * (time.perf_counter() - began)


@asynccontextmanager
async def open_pair(stack: str, number: int) -> AsyncIterator[Pair]:
    process = subprocess.Popen(
        [sys.executable, "-m", "testnet.bench.transport", stack],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        node, *addresses = (await trio.to_thread.run_sync(process.stdout.readline)).split()
        async with open_any(stack, number) as host:
            peer = bytes.fromhex(node)
            # Stock names the port it bound with /p2p and its peer id behind.
            await host.dial(peer, tuple(address.split("/p2p/")[0] for address in addresses))
            yield Pair(stack, host, peer)
    finally:
        process.kill()
        process.wait()


def measure(note: Note) -> Iterator[Figure]:
    """Every figure of this benchmark. Takes about a minute."""
    for name, of in trio.run(_measure, note).items():
        yield compare(name, statistics.median(of["ours"]), _unit(name), "py-libp2p", statistics.median(of["stock"]))


async def _measure(tell: Note) -> dict[str, dict[str, list[float]]]:
    figures: dict[str, dict[str, list[float]]] = {}

    def note(name: str, stack: str, value: float) -> None:
        figures.setdefault(name, {}).setdefault(stack, []).append(value)

    async with AsyncExitStack() as stack:
        pairs = [
            await stack.enter_async_context(open_pair("stock", 2)),
            await stack.enter_async_context(open_pair("ours", 3)),
        ]
        for number in range(ROUNDS):
            tell(f"round {number + 1} of {ROUNDS}")
            for size in MESSAGES["ours"]:
                for pair in pairs:
                    rate, cpu = await pair.flow(size)
                    note(f"stream_{size}", pair.stack, rate)
                    note(f"stream_{size}_cpu_us", pair.stack, cpu)
            for size in (256, 4_096):
                rate, cpu = await pairs[1].feed(size)
                note(f"stream_push_{size}", "ours", rate)
                note(f"stream_push_{size}_cpu_us", "ours", cpu)
            for pair in pairs:
                note("stream_round_trip_p50", pair.stack, await pair.round_trip())
                note("stream_open_echo_p50", pair.stack, await pair.open_and_echo())
    for name in ("stream_push_256", "stream_push_4096"):  # stock has no such mode: beside its only one
        for suffix in ("", "_cpu_us"):
            figures[name + suffix]["stock"] = figures[name.replace("push_", "") + suffix]["stock"]
    for stack_name, values in list(figures["stream_65536"].items()):
        figures.setdefault("bulk", {})[stack_name] = [value * 65_536 / 1e6 for value in values]
    return figures


def _unit(name: str) -> str:
    return "us" if name.endswith("_us") else "ms" if name.endswith("p50") else "MB/s" if name == "bulk" else "msg/s"


if __name__ == "__main__":
    trio.run(serve, sys.argv[1])  # the other end, in a process of its own
