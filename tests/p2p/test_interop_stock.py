"""Our transport speaks with stock py-libp2p, whichever side dials, and plugs in where it did when it was written."""

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p.io.exceptions import IOException
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream

from p2p.host import Host
from p2p.muxed import Muxed
from p2p.secured import RecordSession
from p2p.stock import StockHost, open_stock_host
from p2p.stream_limits import OPEN_MAX
from tests.p2p.loopback import run, running_host, until

ECHO = "/echo/1"
SIZES = [1, 255, 4_096, 65_507, 65_536, 262_145, 1_048_576]


async def echo(stream: Any) -> None:
    """Send back whatever comes, and finish when the other side does."""
    try:
        while data := await stream.read(65_536):
            await stream.write(data)
    except StreamEOF:
        await stream.close()
    except IOException:
        await stream.reset()


@asynccontextmanager
async def joined(who_dials: str) -> AsyncIterator[tuple[Host, StockHost]]:
    async with open_stock_host(bytes([77]) * 32, "127.0.8.77") as stock, running_host(1) as (ours, _):
        ours.serve(ECHO, echo)
        stock.serve(ECHO, echo)
        if who_dials == "ours":
            assert await ours.dial(stock.node, stock.addresses)
        else:
            assert await stock.dial(ours.node, ours.addresses)
        await until(lambda: ours.peers() == (stock.node,) and stock.is_connected(ours.node))
        (conns,) = ours.swarm.connections.values()
        assert type(conns[0].muxed_conn) is Muxed
        yield ours, stock


async def open_from(side: str, ours: Host, stock: StockHost) -> Any:
    if side == "ours":
        return await ours.open_stream(stock.node, ECHO)
    return await stock.open_stream(ours.node, ECHO)


async def read_exactly(stream: Any, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        got += await stream.read(size - len(got))
    return bytes(got)


@pytest.mark.parametrize("who_opens", ["ours", "stock"])
@pytest.mark.parametrize("who_dials", ["ours", "stock"])
def test_streams_of_every_size_come_back_whole(who_dials: str, who_opens: str) -> None:
    async def main() -> None:
        async with joined(who_dials) as (ours, stock):
            stream = await open_from(who_opens, ours, stock)
            for size in SIZES:
                data = bytes(number % 251 for number in range(size % 5_000)) + bytes(size - size % 5_000)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.write, data)
                    assert await read_exactly(stream, size) == data

    run(main)


@pytest.mark.parametrize("who_opens", ["ours", "stock"])
def test_half_closed_streams_still_answer(who_opens: str) -> None:
    async def main() -> None:
        async with joined("ours") as (ours, stock):
            stream = await open_from(who_opens, ours, stock)
            await stream.write(b"the question")
            await stream.muxed_stream.close()
            assert await read_exactly(stream, 12) == b"the question"
            with pytest.raises(StreamEOF):
                await stream.read(1)

    run(main)


@pytest.mark.parametrize("who_opens", ["ours", "stock"])
def test_a_reset_is_heard(who_opens: str) -> None:
    async def main() -> None:
        heard: list[str] = []

        async def listen(stream: Any) -> None:
            try:
                while True:
                    await stream.read(1_000)
            except IOException as error:
                heard.append(type(error).__name__)

        async with joined("stock") as (ours, stock):
            ours.serve(ECHO, listen)
            stock.serve(ECHO, listen)
            stream = await open_from(who_opens, ours, stock)
            await stream.write(b"x")
            await stream.reset()
            await until(lambda: heard == ["StreamReset"])

    run(main)


def test_many_streams_at_once() -> None:
    async def main() -> None:
        async with joined("ours") as (ours, stock), trio.open_nursery() as nursery:

            async def talk(side: str, number: int) -> None:
                stream = await open_from(side, ours, stock)
                data = b"%d" % number * 5_000
                await stream.write(data)
                assert await read_exactly(stream, len(data)) == data
                await stream.reset()

            # Towards us a peer may hold only so many streams of one protocol; stock has no such rule.
            for number in range(50):
                nursery.start_soon(talk, "ours", number)
            for number in range(OPEN_MAX):
                nursery.start_soon(talk, "stock", number)

    run(main)


def test_the_seams_are_where_they_were() -> None:
    """Each line says what upstream must still do for our classes to be in charge, or to be needed."""
    assert "yamux_conn = Yamux(" in inspect.getsource(MuxerMultistream.new_conn), (
        "the muxer class given is honoured now"
    )
    assert list(inspect.signature(NoiseTransportReadWriter.__init__).parameters) == ["self", "conn", "noise_state"]

    async def main() -> None:
        async with running_host(1) as (a, _), running_host(2) as (b, _):
            assert await a.dial(b.node, b.addresses)
            await until(lambda: b.is_connected(a.node))
            for host in (a, b):
                ((conn,),) = host.swarm.connections.values()
                muxed = conn.muxed_conn
                assert type(muxed) is Muxed
                assert type(muxed.secured_conn) is RecordSession
                assert muxed._writer.wire is not None, "the socket is in other hands"
                assert muxed.secured_conn._messages.sealer.nonce > 0, "records are sealed by somebody else"

    run(main)
