"""Our transport speaks with stock py-libp2p, whichever side dials, and plugs in where it did when it was written."""

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.host.basic_host import BasicHost
from libp2p.io.exceptions import IOException
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from p2p.host import Host, to_peer
from p2p.muxed import Muxed
from p2p.secured import RecordSession
from tests.p2p.loopback import run, running_host, until

ECHO, HELD = "/echo/1", "/held/1"
SIZES = [1, 255, 4_096, 65_507, 65_536, 262_145, 1_048_576]


@asynccontextmanager
async def stock_host() -> AsyncIterator[BasicHost]:
    keys = create_new_key_pair(bytes([77]) * 32)
    noise = Noise(keys, noise_privkey=create_noise_key_pair().private_key)
    host = new_host(key_pair=keys, sec_opt={NOISE: noise}, muxer_opt={YAMUX: Yamux})  # type: ignore[dict-item]
    async with host.run([Multiaddr("/ip4/127.0.8.77/tcp/0")]):
        yield host  # type: ignore[misc]


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
async def joined(who_dials: str) -> AsyncIterator[tuple[Host, BasicHost]]:
    async with stock_host() as stock, running_host(1) as (ours, _):
        ours.serve(ECHO, echo)
        stock.set_stream_handler(ECHO, echo)  # type: ignore[arg-type]
        theirs = stock.get_id().to_bytes()[-32:]
        if who_dials == "ours":
            address = str(stock.get_addrs()[0])
            assert await ours.dial(theirs, [address])
        else:
            await stock.connect(PeerInfo(to_peer(ours.node), [Multiaddr(ours.addresses[0])]))
        await until(lambda: ours.peers() == (theirs,) and to_peer(ours.node) in stock.get_connected_peers())
        (conns,) = ours.swarm.connections.values()
        assert type(conns[0].muxed_conn) is Muxed
        yield ours, stock


async def open_from(side: str, ours: Host, stock: BasicHost) -> Any:
    if side == "ours":
        return await ours.open_stream(stock.get_id().to_bytes()[-32:], ECHO)
    return await stock.new_stream(to_peer(ours.node), [ECHO])  # type: ignore[list-item]


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
            stock.set_stream_handler(ECHO, listen)  # type: ignore[arg-type]
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

            for number in range(30):
                nursery.start_soon(talk, "ours", number)
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
                assert muxed._wire is not None, "the socket is in other hands"
                assert muxed.secured_conn._messages.sealer.nonce > 0, "records are sealed by somebody else"

    run(main)
