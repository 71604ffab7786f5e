"""Small things for tests that run real hosts on loopback."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from p2p.doors import HostLimits
from p2p.host import Host, open_host

PATIENCE_S = 10.0
POLL_S = 0.002


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a test's coroutine in trio, never longer than three times PATIENCE_S."""

    async def bounded() -> Any:
        with trio.fail_after(3 * PATIENCE_S):
            return await main()

    return trio.run(bounded)


async def until(predicate: Callable[[], bool]) -> None:
    """Wait until predicate holds; TooSlowError after PATIENCE_S."""
    with trio.fail_after(PATIENCE_S):
        while not predicate():
            await trio.sleep(POLL_S)


class Log:
    """What a host told: who came, who went, whose fault."""

    def __init__(self) -> None:
        self.ups: list[bytes] = []
        self.downs: list[bytes] = []
        self.faults: list[tuple[bytes, str]] = []

    def note_fault(self, node: bytes, why: str, is_violation: bool) -> None:
        self.faults.append((node, why))


@asynccontextmanager
async def running_host(
    number: int, limits: HostLimits | None = None, address: str = ""
) -> AsyncIterator[tuple[Host, Log]]:
    """Host `number` on a loopback address of its own."""
    log = Log()
    async with (
        open_host(
            bytes([number]) * 32,
            address or f"127.0.8.{number}",
            0,
            limits or HostLimits(),
            log.ups.append,
            log.downs.append,
            log.note_fault,
        ) as host,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(host.accept_forever)
        yield host, log
        nursery.cancel_scope.cancel()


async def join(dialler: Host, other: Host) -> None:
    """Connect two hosts, and see it on both sides."""
    assert await dialler.dial(other.node, other.addresses)
    await until(lambda: other.is_connected(dialler.node))
