"""Strangers on every stream protocol, and on what carries streams."""

import itertools
import struct

import trio
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError

from p2p.protobuf import write_varint
from tests.p2p.attacks.scene import Aim
from tests.p2p.attacks.stranger import NOISE, PAUSE_S, being, get_muxed, pester


async def garbage_on_streams(aim: Aim) -> None:
    """Each protocol has an attacker of its own; each in turn sends noise, and headers that lie."""
    writes = [NOISE, struct.pack("!BII", 0, 1, 2**32 - 1), struct.pack("!BII", 1, 1, 1) + b"x", b"\xff" * 100]

    async def spoil(number: int, protocol: str) -> None:
        async with being(aim, number) as host:
            await pester(host, aim, protocol, itertools.cycle(writes))

    async with trio.open_nursery() as nursery:
        for number, protocol in enumerate(aim.details["protocols"], 1):
            nursery.start_soon(spoil, number, protocol)


async def garbage_before_streams(aim: Aim) -> None:
    """Where a stream's protocol is chosen: noise, a line without end, and names nobody serves, without end."""
    first = write_varint(20) + b"/multistream/1.0.0\n"
    unknown = write_varint(6) + b"/junk\n"
    writes = (NOISE, write_varint(2**20) + NOISE * 15, first + unknown * 2_000)

    async def spoil(number: int, data: bytes) -> None:
        async with being(aim, number) as host:
            while True:
                await trio.sleep(PAUSE_S)
                try:
                    await get_muxed(host, aim).open_stream_now().write(data)
                except (LookupError, MuxedConnUnavailable):
                    await host.dial(aim.node, aim.addresses)
                except MuxedStreamError:
                    continue

    async with trio.open_nursery() as nursery:
        for number, data in enumerate(writes, 1):
            nursery.start_soon(spoil, number, data)


async def garbage_on_yamux(aim: Aim) -> None:
    """Frames that break yamux, and floods of frames that do not look as if they did."""
    pack = struct.Struct("!BBHII").pack
    writes = (
        NOISE,
        pack(0, 9, 0, 1, 1),
        pack(0, 0, 1, 4_001, 2**31),  # more than any window
        b"".join(pack(0, 2, 1, 0, i) for i in range(2_000)),  # pings
        b"".join(pack(0, 1, 1, 2 * i + 10_001, 0) for i in range(2_000)),  # streams opened
        (pack(0, 0, 0, 999_999, 60_000) + bytes(60_000)) * 4,  # data of no stream
    )

    async def spoil(number: int, data: bytes) -> None:
        async with being(aim, number) as host:
            while True:
                await trio.sleep(PAUSE_S)
                try:
                    muxed = get_muxed(host, aim)
                except LookupError:
                    await host.dial(aim.node, aim.addresses)
                    continue
                if muxed.out_bytes < 2**20:
                    output = muxed._session._session.output
                    output._tail += data
                    output._merge_id = 0
                    muxed._writer.wake()

    async with trio.open_nursery() as nursery:
        for number, data in enumerate(writes, 1):
            nursery.start_soon(spoil, number, data)
