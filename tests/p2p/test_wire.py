"""The wire asks the kernel for about as much as comes."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from p2p.wire import READ_BYTES_MAX, READ_BYTES_MIN, SocketWire
from tests.p2p.loopback import run

FLOOD_BYTES = 2 * READ_BYTES_MAX


async def receive_flood(wire: SocketWire, sender: socket.socket) -> list[int]:
    """The sizes in which a flood comes in, up to the first of READ_BYTES_MAX; all of it is taken."""
    sizes: list[int] = []
    rest = memoryview(bytes(FLOOD_BYTES))
    while sum(sizes) < FLOOD_BYTES:
        while rest:  # as much as the socket holds, so that there is always more than is asked for
            try:
                rest = rest[sender.send(rest) :]
            except BlockingIOError:
                break
        sizes.append(len(await wire.receive()))
    return sizes[: sizes.index(READ_BYTES_MAX) + 1]


@asynccontextmanager
async def open_pair() -> AsyncIterator[tuple[SocketWire, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, FLOOD_BYTES)
    wire = SocketWire(ours)
    with theirs:
        yield wire, theirs
        wire.close()


def test_a_wire_asks_for_more_while_more_comes() -> None:
    async def main() -> list[int]:
        async with open_pair() as (wire, sender):
            return await receive_flood(wire, sender)

    assert run(main) == [READ_BYTES_MIN, 4 * READ_BYTES_MIN, 16 * READ_BYTES_MIN, READ_BYTES_MAX]


def test_after_a_flood_a_wire_asks_for_less_again_when_little_comes() -> None:
    async def main() -> list[int]:
        async with open_pair() as (wire, sender):
            await receive_flood(wire, sender)
            for _ in range(6):  # half as much each time
                sender.send(b"little")
                await wire.receive()
            return await receive_flood(wire, sender)

    assert run(main)[0] == READ_BYTES_MIN


def test_a_wire_that_brings_a_good_part_of_what_is_asked_for_stays_as_it_is() -> None:
    async def main() -> list[int]:
        async with open_pair() as (wire, sender):
            await receive_flood(wire, sender)
            for _ in range(10):
                sender.send(bytes(READ_BYTES_MAX // 6))
                await wire.receive()
            return await receive_flood(wire, sender)

    assert run(main) == [READ_BYTES_MAX]
