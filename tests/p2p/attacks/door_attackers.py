"""Strangers who never say who they are."""

import os
import struct

import trio

from p2p.protobuf import write_varint
from tests.p2p.attacks import scene
from tests.p2p.attacks.scene import Aim
from tests.p2p.attacks.stranger import NOISE, PAUSE_S


async def half_open(aim: Aim) -> None:
    """A7: a thousand connections from one address, five bytes each, and new ones for those that are closed."""

    async def hold() -> None:
        while True:
            await _call(aim, 1, b"\x13/mul")
            await trio.sleep(1.0)

    async with trio.open_nursery() as nursery:
        for _ in range(1_000):
            nursery.start_soon(hold)


async def garbage_on_sockets(aim: Aim) -> None:
    """What is no libp2p, and what begins like it: nothing of it leads to an identity."""
    hello = write_varint(20) + b"/multistream/1.0.0\n" + write_varint(7) + b"/noise\n"
    writes = (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        NOISE,
        hello + NOISE,
        hello + struct.pack("!H", 32) + os.urandom(32),
        hello + struct.pack("!H", 0xFFFF) + NOISE * 15,
        write_varint(2**20 - 1) + NOISE * 255,
    )

    async def spoil(number: int, data: bytes) -> None:
        while True:
            await _call(aim, number, data)
            await trio.sleep(PAUSE_S)

    async with trio.open_nursery() as nursery:
        for number, data in enumerate(writes, 1):
            for _ in range(12):
                nursery.start_soon(spoil, number, data)


async def _call(aim: Aim, number: int, data: bytes) -> None:
    """Connect from an address, write, and wait until the other side hangs up."""
    try:
        stream = await trio.open_tcp_stream(*aim.endpoint, local_address=f"{scene.ATTACKER_NET}.{number}")
        async with stream:
            await stream.send_all(data)
            while await stream.receive_some(65_536):
                pass
    except (OSError, trio.BrokenResourceError):
        return
