"""Real nets on loopback for the conformance suite: trio runs in a thread, calls are handed to it one at a time."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import trio

from p2p.libp2p_net import Libp2pNet, NetOptions, open_libp2p_net
from p2p.net import Net
from tests.p2p.conformance import Member

START_S = 10
POLL_S = 0.003


class Remote:
    """A net's methods, each run in the thread of its loop."""

    def __init__(self, net: Libp2pNet, token: trio.lowlevel.TrioToken) -> None:
        self._net = net
        self._token = token
        self.node = net.node

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._net, name)
        if not callable(method):
            return method
        return lambda *args: trio.from_thread.run_sync(method, *args, trio_token=self._token)


class Libp2pHarness:
    """See `tests.p2p.conformance`."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._pairs: list[tuple[int, int]] = []
        self._stops: list[trio.Event] = []
        self._ended: list[threading.Event] = []
        self._ports: list[int] = []
        self._token: Future[trio.lowlevel.TrioToken] = Future()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        self._trio = self._token.result(START_S)

    async def _main(self) -> None:
        self._quit = trio.Event()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._token.set_result(trio.lowlevel.current_trio_token())
            await self._quit.wait()
            nursery.cancel_scope.cancel()

    def make_nets(self, count: int, pairs: list[tuple[int, int]] | None = None) -> list[Member]:
        self._pairs = pairs if pairs is not None else [(i, j) for i in range(count) for j in range(i)]
        for index in range(count):
            self._start(index)
        for index in range(count):
            self._tell(index)
        return self.members

    def _start(self, index: int) -> None:
        opened: Future[Libp2pNet] = Future()
        if index == len(self.members):
            self.members.append(Member(None))  # type: ignore[arg-type]
            self._stops.append(None)  # type: ignore[arg-type]
            self._ended.append(threading.Event())
            self._ports.append(0)
        self._ended[index].clear()
        self._run(self._nursery.start_soon, self._serve, index, opened)
        self.members[index].net = Remote(opened.result(START_S), self._trio)

    async def _serve(self, index: int, opened: Future[Libp2pNet]) -> None:
        stop = self._stops[index] = trio.Event()
        seed = bytes([index + 1]) * 32
        sink = self.members[index].events.append
        try:
            async with open_libp2p_net(
                seed, f"127.0.7.{index + 1}", self._ports[index], sink, NetOptions(seed=index)
            ) as net:
                self._ports[index] = int(net.addresses[0].rsplit("/", 1)[1])
                opened.set_result(net)
                await stop.wait()
        finally:
            self._ended[index].set()

    def _tell(self, index: int) -> None:
        for pair in self._pairs:
            if index in pair:
                other = self.members[pair[0] + pair[1] - index].net
                self.members[index].net.learn(other.node, _addresses(other))

    def run_until(self, predicate: Callable[[], bool], timeout_ms: int) -> bool:
        deadline = time.monotonic() + timeout_ms / 1000
        while not predicate():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def stop(self, index: int) -> None:
        self._run(self._stops[index].set)
        assert self._ended[index].wait(START_S)

    def start_again(self, index: int) -> None:
        self._start(index)
        self._tell(index)

    def close(self) -> None:
        self._run(self._quit.set)
        self._thread.join(START_S)
        assert not self._thread.is_alive()

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        return trio.from_thread.run_sync(function, *args, trio_token=self._trio)


def _addresses(net: Net) -> tuple[str, ...]:
    return net.addresses  # type: ignore[attr-defined, no-any-return]
