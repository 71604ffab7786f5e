"""Our transport speaks with js-libp2p, whichever side dials and whichever opens."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p.io.exceptions import IOException
from libp2p.network.stream.exceptions import StreamEOF

from p2p.host import Host
from p2p.peer_ids import to_peer
from tests.p2p.js_peer import START_S, JsPeer, needs_js, open_js_peer
from tests.p2p.loopback import run, running_host, until

ECHO, LISTEN = "/echo/1", "/listen/1"
SIZES = [1, 255, 4_096, 65_507, 262_145, 1_048_576]

pytestmark = needs_js


@asynccontextmanager
async def joined(who_dials: str) -> AsyncIterator[tuple[Host, JsPeer]]:
    async with open_js_peer() as js, running_host(1) as (ours, log):
        ours.serve(ECHO, echo)
        if who_dials == "ours":
            assert await ours.dial(js.node, [js.address])
        else:
            await js.ask(dial=f"{ours.addresses[0]}/p2p/{to_peer(ours.node)}")
        await until(lambda: ours.peers() == (js.node,))
        yield ours, js
        assert log.faults == []


async def echo(stream: Any) -> None:
    try:
        while True:
            await stream.write(await stream.read(65_536))
    except StreamEOF:
        await stream.close()


@pytest.mark.parametrize("who_dials", ["ours", "js"])
def test_streams_of_every_size_come_back_whole(who_dials: str) -> None:
    async def main() -> None:
        async with joined(who_dials) as (ours, js):
            for size in SIZES:
                data = bytes(number % 251 for number in range(size % 5_000)) + bytes(size - size % 5_000)
                stream = await ours.open_stream(js.node, ECHO)
                got = bytearray()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_say, stream, data)
                    with pytest.raises(StreamEOF):
                        await _gather(stream, got)
                assert got == data
                echoed = await js.ask(echo=size, peer=str(to_peer(ours.node)), protocol=ECHO)
                assert echoed == {"size": size, "same": True}

    run(main)


async def _say(stream: Any, data: bytes) -> None:
    await stream.write(data)
    await stream.muxed_stream.close()


async def _gather(stream: Any, got: bytearray) -> None:
    while True:
        got += await stream.read(65_536)


def test_resets_are_heard_both_ways() -> None:
    async def main() -> None:
        heard: list[str] = []

        async def listen(stream: Any) -> None:
            try:
                await _gather(stream, bytearray())
            except IOException as error:
                heard.append(type(error).__name__)

        async with joined("ours") as (ours, js):
            ours.serve(LISTEN, listen)
            await js.ask(reset=True, peer=str(to_peer(ours.node)), protocol=LISTEN)
            await until(lambda: heard == ["StreamReset"])

            stream = await ours.open_stream(js.node, LISTEN)
            await stream.write(b"abc")
            with trio.fail_after(START_S):
                while (await js.ask(heard=True))["heard"] != [3]:
                    await trio.lowlevel.checkpoint()
                await stream.reset()
                while "StreamResetError" not in (await js.ask(heard=True))["heard"]:
                    await trio.lowlevel.checkpoint()

    run(main)
